// Rules on hosts, origins and content types, with requests as browsers and programs send them.
#include "serve/request_guard.h"

#include <gtest/gtest.h>

namespace rkv::app {
namespace {

RequestGuard Guard(const GuardOptions& options = {.host = "127.0.0.1"}) {
  return *RequestGuard::Make(options);
}

RequestSource Get(const std::string& host) {
  RequestSource request;
  request.hosts = {host};
  return request;
}

RequestSource Post(const std::string& origin, const std::string& type = "application/json") {
  RequestSource request = Get("127.0.0.1:8080");
  request.method = "POST";
  request.origin = origin;
  request.content_type = type;
  request.has_body = true;
  return request;
}

TEST(RequestGuardTest, AddressesAndLocalhostAreServed) {
  const RequestGuard guard = Guard();
  for (const char* host :
       {"localhost", "localhost:8080", "LocalHost:1", "localhost.", "127.0.0.1", "127.0.0.1:8080",
        "127.8.9.1", "[::1]", "[::1]:8080", "[::ffff:127.0.0.1]:80", "192.168.1.7:8080", "10.0.0.2",
        "[fe80::1%eth0]:8080", "[2001:db8::1]", "0.0.0.0:8080"}) {
    EXPECT_EQ(guard.Check(Get(host)).status, 0) << host;
  }
  RequestSource old;  // HTTP/1.0 knows no Host.
  EXPECT_EQ(guard.Check(old).status, 0);
}

TEST(RequestGuardTest, NamesOfOthersAreRefusedWithTheFlagThatAllowsThem) {
  const RequestGuard guard = Guard();
  for (const char* host : {"attacker.example",
                           "attacker.example:8080",
                           "localhost.attacker.example",
                           "127.0.0.1.attacker.example",
                           "127.0.0.1.nip.io",
                           "x",
                           "",
                           ":8080",
                           "[::1",
                           "[::1]x",
                           "[attacker.example]",
                           "[]",
                           "localhost:80:80",
                           "localhost/x",
                           "a@localhost",
                           "localhost:123456",
                           "localhost:8o",
                           "127.0.0.1 ",
                           "127.0.0.256",
                           "2130706433",
                           "[::1]8080",
                           "local\xff",
                           "127.1",
                           "0x7f.1"}) {
    EXPECT_EQ(guard.Check(Get(host)).status, 403) << host;
  }
  const std::string message = guard.Check(Get("Chat.Example.org:8080")).message;
  EXPECT_NE(message.find("--allow-host chat.example.org"), std::string::npos) << message;
  EXPECT_LT(guard.Check(Get(std::string(100000, 'a'))).message.size(), 500u);
  RequestSource two = Get("localhost");
  two.hosts.emplace_back("attacker.example");
  EXPECT_EQ(guard.Check(two).status, 400);
}

TEST(RequestGuardTest, NamesThatFlagsGiveAreServed) {
  const RequestGuard guard =
      Guard({.host = "Box.lan", .allowed_hosts = {"chat.example.org", "other:8443"}});
  for (const char* host : {"box.lan:8080", "chat.example.org", "CHAT.example.org:443", "other"}) {
    EXPECT_EQ(guard.Check(Get(host)).status, 0) << host;
  }
  EXPECT_EQ(guard.Check(Get("sub.chat.example.org")).status, 403);
  EXPECT_EQ(guard.Check(Get("example.org")).status, 403);
  EXPECT_EQ(Guard({.host = "::1"}).Check(Get("[::1]:8080")).status, 0);
  EXPECT_EQ(Guard({.host = "", .allowed_hosts = {"*"}}).Check(Get("any.thing")).status, 0);
}

TEST(RequestGuardTest, FlagsThatAreNoNamesAreErrors) {
  for (const char* name : {"", "http://x", "a b", "x/", "a,b"}) {
    const auto guard = RequestGuard::Make({.host = "127.0.0.1", .allowed_hosts = {name}});
    ASSERT_FALSE(guard.ok()) << name;
    EXPECT_NE(guard.status().message().find("--allow-host"), std::string::npos);
  }
  for (const char* origin :
       {"", "localhost:3000", "https://", "https://a/b", "://x", "https://a b"}) {
    const auto guard = RequestGuard::Make({.host = "127.0.0.1", .allowed_origins = {origin}});
    ASSERT_FALSE(guard.ok()) << origin;
    EXPECT_NE(guard.status().message().find("--allow-origin"), std::string::npos);
  }
}

TEST(RequestGuardTest, PagesOfTheServerAndOfThisMachineMayUseIt) {
  const RequestGuard guard = Guard({.host = "0.0.0.0", .allowed_hosts = {"chat.example.org"}});
  for (const char* origin :
       {"http://127.0.0.1:8080", "https://127.0.0.1:8080", "http://localhost:3000",
        "https://localhost", "http://[::1]:5173", "HTTP://LOCALHOST:3000"}) {
    const Verdict verdict = guard.Check(Post(origin));
    EXPECT_EQ(verdict.status, 0) << origin << verdict.message;
    EXPECT_EQ(verdict.allow_origin, origin);
  }
  // Behind a TLS proxy the standard ports differ, and may be omitted.
  RequestSource proxied = Post("https://chat.example.org");
  proxied.hosts = {"chat.example.org"};
  EXPECT_EQ(guard.Check(proxied).status, 0);
  proxied.hosts = {"Chat.Example.org:443"};
  EXPECT_EQ(guard.Check(proxied).status, 0);
  proxied.hosts = {"chat.example.org:8080"};
  EXPECT_EQ(guard.Check(proxied).status, 403);
  // A page of the client's own machine is not a page of the server.
  RequestSource remote = Post("http://localhost:3000");
  remote.hosts = {"192.168.1.7:8080"};
  EXPECT_EQ(guard.Check(remote).status, 403);
  remote.origin = "http://192.168.1.7:8080";
  EXPECT_EQ(guard.Check(remote).status, 0);
}

TEST(RequestGuardTest, PagesOfOtherSitesAreRefused) {
  const RequestGuard guard = Guard();
  for (const char* origin :
       {"https://attacker.example", "http://attacker.example:8080", "null", "", "localhost",
        "http://localhost.attacker.example", "http://127.0.0.1.attacker.example:8080", "file://",
        "file://localhost", "chrome-extension://abc", "app://localhost",
        "http://127.0.0.1:8080, https://attacker.example", "http://192.168.1.7:8080"}) {
    const Verdict verdict = guard.Check(Post(origin));
    EXPECT_EQ(verdict.status, 403) << origin;
    EXPECT_EQ(verdict.allow_origin, "") << origin;
  }
  EXPECT_NE(guard.Check(Post("https://a.example")).message.find("--allow-origin https://a.example"),
            std::string::npos);
  // Reading is refused, too, except for public data.
  RequestSource read = Get("127.0.0.1:8080");
  read.origin = "https://attacker.example";
  EXPECT_EQ(guard.Check(read).status, 403);
  read.is_public = true;
  EXPECT_EQ(guard.Check(read).status, 0);
  EXPECT_EQ(guard.Check(read).allow_origin, "");
  // Without Origin, as in a request for a picture or a link on another page.
  RequestSource link = Get("127.0.0.1:8080");
  link.fetch_site = "cross-site";
  link.has_fetch_metadata = true;
  EXPECT_EQ(guard.Check(link).status, 403);
  link.is_public = true;
  EXPECT_EQ(guard.Check(link).status, 0);
  link.method = "POST";
  EXPECT_EQ(guard.Check(link).status, 403);
  for (const char* site : {"none", "same-origin", "same-site"}) {
    RequestSource own = Get("127.0.0.1:8080");
    own.fetch_site = site;
    own.has_fetch_metadata = true;
    EXPECT_EQ(guard.Check(own).status, 0) << site;
  }
}

TEST(RequestGuardTest, OriginsThatFlagsGiveMayUseItAndAskBefore) {
  const RequestGuard guard =
      Guard({.host = "127.0.0.1",
             .allowed_origins = {"https://Chat.example.org:443/", "app://obsidian.md", "null"}});
  for (const char* origin : {"https://chat.example.org", "app://obsidian.md", "null"}) {
    RequestSource request = Post(origin);
    request.fetch_site = "cross-site";
    request.has_fetch_metadata = true;
    EXPECT_EQ(guard.Check(request).status, 0) << origin;
    EXPECT_EQ(guard.Check(request).allow_origin, origin);
    RequestSource preflight = Post(origin);
    preflight.method = "OPTIONS";
    preflight.has_body = false;
    preflight.is_preflight = true;
    EXPECT_EQ(guard.Check(preflight).status, 204) << origin;
  }
  for (const char* origin :
       {"http://chat.example.org", "https://chat.example.org:444", "https://example.org"}) {
    EXPECT_EQ(guard.Check(Post(origin)).status, 403) << origin;
    RequestSource preflight = Post(origin);
    preflight.method = "OPTIONS";
    preflight.is_preflight = true;
    EXPECT_EQ(guard.Check(preflight).status, 403) << origin;
  }
  const RequestGuard all = Guard({.host = "127.0.0.1", .allowed_origins = {"*"}});
  EXPECT_EQ(all.Check(Post("https://any.example")).allow_origin, "https://any.example");
}

TEST(RequestGuardTest, BrowsersMustSayThatABodyIsJson) {
  const RequestGuard guard = Guard();
  const std::string own = "http://127.0.0.1:8080";
  for (const char* type : {"application/json", "application/json; charset=utf-8",
                           "Application/JSON ;charset=utf-8", "application/vnd.api+json"}) {
    EXPECT_EQ(guard.Check(Post(own, type)).status, 0) << type;
  }
  for (const char* type :
       {"", "text/plain", "text/plain; application/json", "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded", "application/jsonp", "text/json"}) {
    EXPECT_EQ(guard.Check(Post(own, type)).status, 415) << type;
    // Sec-Fetch-Site alone also identifies a browser.
    RequestSource marked = Post(own, type);
    marked.origin.reset();
    marked.has_fetch_metadata = true;
    EXPECT_EQ(guard.Check(marked).status, 415) << type;
    // curl -d, and programs without a content type.
    RequestSource program = Post(own, type);
    program.origin.reset();
    EXPECT_EQ(guard.Check(program).status, 0) << type;
  }
}

}  // namespace
}  // namespace rkv::app
