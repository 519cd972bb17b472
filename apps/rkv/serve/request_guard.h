// Which requests a server answers, by where they say they come from. A browser sends requests to a
// server on its own machine for any page that asks it to:
//
//  - A page of another site may send simple requests unasked, though it cannot read the answers.
//    The browser says so in Origin or Sec-Fetch-Site.
//  - A site whose name is made to point at 127.0.0.1 (DNS rebinding) is, to the browser, one site
//    with the server, and can read everything. Then Host has the name of that site.
//
// With a key they are checked as well: a proxy may add it to whatever passes. No network in here.
#ifndef RETENTIVEKV_APPS_RKV_SERVE_REQUEST_GUARD_H_
#define RETENTIVEKV_APPS_RKV_SERVE_REQUEST_GUARD_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "retentivekv/status.h"

namespace rkv::app {

struct GuardOptions {
  std::string host = {};                          // where the server listens: an address or a name
  std::vector<std::string> allowed_hosts = {};    // names it is reached by, too; "*": any
  std::vector<std::string> allowed_origins = {};  // sites whose pages may use it; "*": any
};

// What a request says of itself.
struct RequestSource {
  std::string method = "GET";
  std::vector<std::string> hosts;     // each Host header
  std::optional<std::string> origin;  // Origin
  std::string fetch_site;             // Sec-Fetch-Site; empty: there is none
  bool has_fetch_metadata = false;    // any Sec-Fetch-* header
  std::string content_type;
  bool has_body = false;
  bool is_preflight = false;  // asks whether another request may be sent
  bool is_public = false;     // asks for what everybody may have: the page's files, the health
};

struct Verdict {
  int status = 0;  // 0: go on; 204: answer a preflight; else refuse, for the reason in `message`
  std::string message = {};
  std::string allow_origin = {};  // the page's origin that may read the answer; empty: none
};

class RequestGuard {
 public:
  // kInvalidArgument for a name or an origin that is none, naming the flag.
  static Result<RequestGuard> Make(const GuardOptions& options);

  Verdict Check(const RequestSource& request) const;

 private:
  RequestGuard() = default;
  // A refusal, or a verdict to go on.
  Verdict CheckHost(const RequestSource& request, std::string_view host) const;
  Verdict CheckOrigin(const RequestSource& request, std::string_view host) const;
  bool ServesHost(std::string_view host) const;
  bool TrustsOrigin(const std::string& origin, std::string_view host) const;

  std::vector<std::string> hosts_;    // in small letters
  std::vector<std::string> origins_;  // normalized
  bool any_host_ = false;
  bool any_origin_ = false;
};

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_SERVE_REQUEST_GUARD_H_
