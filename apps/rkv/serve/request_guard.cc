// Parses hosts and origins, and applies the rules of request_guard.h. All names are compared in
// lower case.
#include "serve/request_guard.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

namespace rkv::app {

namespace {

constexpr size_t kMaxShownBytes = 100;  // of a client's text in a message

std::string Lower(std::string_view text) {
  std::string lower(text);
  std::ranges::transform(lower, lower.begin(),
                         [](char c) { return c >= 'A' && c <= 'Z' ? char(c + ('a' - 'A')) : c; });
  return lower;
}

std::string_view Trim(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

std::string Shown(std::string_view text) {
  return text.size() <= kMaxShownBytes ? std::string(text)
                                       : std::string(text.substr(0, kMaxShownBytes)) + "...";
}

// A host in lower case, an IPv6 address without brackets, and an optional port.
struct Authority {
  std::string host;
  std::string port;
  bool is_v6 = false;
};

std::optional<Authority> ParseAuthority(std::string_view text) {
  Authority authority;
  std::string_view rest;
  if (text.starts_with('[')) {
    const size_t end = text.find(']');
    if (end == std::string_view::npos) return std::nullopt;
    authority.host = Lower(text.substr(1, end - 1));
    authority.is_v6 = true;
    rest = text.substr(end + 1);
  } else {
    const size_t end = std::min(text.find(':'), text.size());
    authority.host = Lower(text.substr(0, end));
    rest = text.substr(end);
    // A final dot, of the root, does not change the name.
    if (authority.host.ends_with('.')) authority.host.pop_back();
    constexpr std::string_view kAllowed = "abcdefghijklmnopqrstuvwxyz0123456789.-_";
    if (authority.host.find_first_not_of(kAllowed) != std::string::npos) return std::nullopt;
  }
  if (authority.host.empty()) return std::nullopt;
  if (rest.empty()) return authority;
  rest.remove_prefix(1);  // The colon, if present.
  const bool good = text[text.size() - rest.size() - 1] == ':' && rest.size() <= 5 &&
                    rest.find_first_not_of("0123456789") == std::string_view::npos;
  if (!good) return std::nullopt;
  authority.port = rest;
  return authority;
}

bool IsV4(const std::string& host) {
  in_addr address{};
  return ::inet_pton(AF_INET, host.c_str(), &address) == 1;
}

// Rebinding needs a name whose owner can point it elsewhere. An address has no such owner, so its
// page comes from the machine at that address. Therefore any address is accepted, which containers
// and routers need, since they translate addresses.
bool IsAddress(const Authority& authority) {
  if (!authority.is_v6) return IsV4(authority.host);
  in6_addr address{};
  // A link-local address may name its interface: fe80::1%eth0.
  const std::string host = authority.host.substr(0, authority.host.find('%'));
  return ::inet_pton(AF_INET6, host.c_str(), &address) == 1;
}

bool IsLoopback(const Authority& authority) {
  if (authority.is_v6) return authority.host == "::1";
  return authority.host == "localhost" ||
         (authority.host.starts_with("127.") && IsV4(authority.host));
}

struct Origin {
  std::string scheme;
  Authority authority;
};

std::string_view DefaultPort(std::string_view scheme) {
  return scheme == "http" ? "80" : scheme == "https" ? "443" : "";
}

// "http://name:80" as "http://name"; nothing for text that is no origin.
std::optional<Origin> ParseOrigin(std::string_view text) {
  const size_t colon = text.find("://");
  if (colon == std::string_view::npos || colon == 0) return std::nullopt;
  Origin origin{.scheme = Lower(text.substr(0, colon)), .authority = {}};
  constexpr std::string_view kAllowed = "abcdefghijklmnopqrstuvwxyz0123456789+-.";
  if (origin.scheme.find_first_not_of(kAllowed) != std::string::npos) return std::nullopt;
  const auto authority = ParseAuthority(text.substr(colon + 3));
  if (!authority.has_value()) return std::nullopt;
  origin.authority = *authority;
  if (origin.authority.port == DefaultPort(origin.scheme)) origin.authority.port.clear();
  return origin;
}

std::string ToText(const Origin& origin) {
  const Authority& at = origin.authority;
  return fmt::format("{}://{}{}{}", origin.scheme, at.is_v6 ? "[" + at.host + "]" : at.host,
                     at.port.empty() ? "" : ":", at.port);
}

bool IsWeb(const Origin& origin) { return !DefaultPort(origin.scheme).empty(); }

// Whether the page came from the request's own host. The scheme differs behind a TLS proxy.
bool IsOwn(const Origin& origin, const Authority& host) {
  const std::string_view standard = DefaultPort(origin.scheme);
  const auto port = [&](const Authority& at) { return at.port.empty() ? standard : at.port; };
  return IsWeb(origin) && origin.authority.host == host.host &&
         origin.authority.is_v6 == host.is_v6 && port(origin.authority) == port(host);
}

// application/json, or a variant such as application/problem+json.
bool IsJson(std::string_view content_type) {
  const std::string type = Lower(Trim(content_type.substr(0, content_type.find(';'))));
  return type == "application/json" ||
         (type.starts_with("application/") && type.ends_with("+json"));
}

bool Reads(const RequestSource& request) {
  return request.method == "GET" || request.method == "HEAD";
}

}  // namespace

Result<RequestGuard> RequestGuard::Make(const GuardOptions& options) {
  RequestGuard guard;
  // --host may be an IPv6 address, which has no brackets there and needs no entry.
  if (const auto own = ParseAuthority(options.host)) guard.hosts_.push_back(own->host);
  for (const std::string& name : options.allowed_hosts) {
    const auto authority = ParseAuthority(name);
    if (name == "*") {
      guard.any_host_ = true;
    } else if (authority.has_value()) {
      guard.hosts_.push_back(authority->host);
    } else {
      return InvalidArgument(fmt::format(
          "--allow-host '{}' is not the name of a host, such as chat.example.org", name));
    }
  }
  for (std::string_view text : options.allowed_origins) {
    if (text.ends_with('/') && !text.ends_with("//")) text.remove_suffix(1);
    const auto origin = ParseOrigin(text);
    if (text == "*") {
      guard.any_origin_ = true;
    } else if (text == "null") {
      guard.origins_.emplace_back(text);
    } else if (origin.has_value()) {
      guard.origins_.push_back(ToText(*origin));
    } else {
      return InvalidArgument(fmt::format(
          "--allow-origin '{}' is not the origin of a page, such as https://chat.example.org or "
          "http://localhost:3000",
          text));
    }
  }
  return guard;
}

bool RequestGuard::ServesHost(std::string_view host) const {
  if (any_host_) return true;
  const auto authority = ParseAuthority(host);
  if (!authority.has_value()) return false;
  return IsAddress(*authority) || IsLoopback(*authority) ||
         std::ranges::find(hosts_, authority->host) != hosts_.end();
}

bool RequestGuard::TrustsOrigin(const std::string& text, std::string_view host) const {
  if (any_origin_) return true;
  const auto origin = ParseOrigin(text);
  const std::string normalized = origin.has_value() ? ToText(*origin) : text;
  if (std::ranges::find(origins_, normalized) != origins_.end()) return true;
  const auto own = ParseAuthority(host);
  if (!origin.has_value() || !own.has_value()) return false;
  // A program that serves pages on this machine could also connect without a browser.
  const bool both_here = IsWeb(*origin) && IsLoopback(origin->authority) && IsLoopback(*own);
  return both_here || IsOwn(*origin, *own);
}

Verdict RequestGuard::CheckHost(const RequestSource& request, std::string_view host) const {
  if (request.hosts.size() > 1) {
    return {.status = 400, .message = "the request has several Host headers"};
  }
  if (request.hosts.empty() || ServesHost(host)) return {};
  const auto authority = ParseAuthority(host);
  return {
      .status = 403,
      .message = fmt::format("'{}' is not a known name of this server; to allow it, start the "
                             "server with --allow-host {}",
                             Shown(host), authority.has_value() ? Shown(authority->host) : "NAME")};
}

Verdict RequestGuard::CheckOrigin(const RequestSource& request, std::string_view host) const {
  if (request.origin.has_value() && TrustsOrigin(*request.origin, host)) {
    return {.allow_origin = *request.origin};
  }
  const bool from_elsewhere = request.origin.has_value() || request.fetch_site == "cross-site";
  if (!from_elsewhere || (Reads(request) && request.is_public)) return {};
  const std::string origin = Shown(request.origin.value_or("ORIGIN"));
  return {.status = 403,
          .message = fmt::format("pages of another site{} may not use this server; to allow it, "
                                 "start the server with --allow-origin {}",
                                 request.origin.has_value() ? " (" + origin + ")" : "", origin)};
}

Verdict RequestGuard::Check(const RequestSource& request) const {
  // Browsers always send a host; HTTP/1.0 programs and some probes do not.
  const std::string_view host = request.hosts.empty() ? std::string_view() : request.hosts[0];
  if (const Verdict refused = CheckHost(request, host); refused.status != 0) return refused;
  Verdict verdict = CheckOrigin(request, host);
  if (verdict.status != 0) return verdict;
  if (request.is_preflight && !verdict.allow_origin.empty()) {
    verdict.status = 204;
    return verdict;
  }
  // Before it sends JSON for a page of another site, a browser sends a preflight. It sends other
  // types at once. Programs without browser headers may send any type; curl declares a form.
  const bool from_browser = request.origin.has_value() || request.has_fetch_metadata;
  if (!Reads(request) && request.has_body && from_browser && !IsJson(request.content_type)) {
    verdict.status = 415;
    verdict.message = "the body must be JSON, with Content-Type: application/json";
  }
  return verdict;
}

}  // namespace rkv::app
