// Decides which requests a server answers, by their claimed origin. Any page can make a browser
// send requests to a server on the browser's own machine:
//
//  - A page of another site may send simple requests unasked, though it cannot read the answers.
//    Origin or Sec-Fetch-Site then name the site.
//  - A site whose name is made to point at 127.0.0.1 (DNS rebinding) is, to the browser, one site
//    with the server, and can read everything. Then Host has the name of that site.
//
// Requests with a key are checked as well: a proxy may add the key to all requests. Uses no
// network.
#ifndef RETENTIVEKV_APPS_RKV_SERVE_REQUEST_GUARD_H_
#define RETENTIVEKV_APPS_RKV_SERVE_REQUEST_GUARD_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "retentivekv/status.h"

namespace rkv::app {

struct GuardOptions {
  std::string host = {};                          // address or name that the server listens on
  std::vector<std::string> allowed_hosts = {};    // further names of the server; "*": any
  std::vector<std::string> allowed_origins = {};  // sites whose pages may use the server; "*": any
};

// The origin that a request claims.
struct RequestSource {
  std::string method = "GET";
  std::vector<std::string> hosts;     // each Host header
  std::optional<std::string> origin;  // Origin
  std::string fetch_site;             // Sec-Fetch-Site; empty: absent
  bool has_fetch_metadata = false;    // any Sec-Fetch-* header
  std::string content_type;
  bool has_body = false;
  bool is_preflight = false;  // asks for permission to send another request
  bool is_public = false;     // asks for public data: the page's files, the health
};

struct Verdict {
  int status = 0;  // 0: continue; 204: answer a preflight; else refuse, with `message`
  std::string message = {};
  std::string allow_origin = {};  // origin of the page that may read the answer; empty: none
};

class RequestGuard {
 public:
  // kInvalidArgument, naming the flag, for an invalid name or origin.
  static Result<RequestGuard> Make(const GuardOptions& options);

  Verdict Check(const RequestSource& request) const;

 private:
  RequestGuard() = default;
  // A refusal, or a verdict with status 0.
  Verdict CheckHost(const RequestSource& request, std::string_view host) const;
  Verdict CheckOrigin(const RequestSource& request, std::string_view host) const;
  bool ServesHost(std::string_view host) const;
  bool TrustsOrigin(const std::string& origin, std::string_view host) const;

  std::vector<std::string> hosts_;    // in lower case
  std::vector<std::string> origins_;  // normalized
  bool any_host_ = false;
  bool any_origin_ = false;
};

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_SERVE_REQUEST_GUARD_H_
