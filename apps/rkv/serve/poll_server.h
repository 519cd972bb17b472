// cpp-httplib's server, extended to thousands of connections.
#ifndef RETENTIVEKV_APPS_RKV_SERVE_POLL_SERVER_H_
#define RETENTIVEKV_APPS_RKV_SERVE_POLL_SERVER_H_

#include <httplib.h>

#include <functional>
#include <string>

namespace rkv::app {

// httplib polls each idle connection a hundred times a second, and none beyond the 1024th file,
// since it uses select(). Here the kernel wakes a connection's thread when data arrives.
class PollServer : public httplib::Server {
 public:
  // Sets the number of connections that may wait to be accepted; httplib allows 5. Call after
  // binding.
  void SetBacklog(int n) const;

  // The socket of this thread's current request, which httplib hides. It is needed to notice a
  // hang-up before an answer is written.
  static int current_socket();

  // The raw Authorization header of this thread's current request. httplib decodes headers, which
  // would change a key with %41 in it. Empty: there is none.
  static const std::string& authorization();

  // Records whether the current request of this thread has an unread body. No further request can
  // be read after such a body, so the connection ends with the answer.
  static void SetUnread(bool unread);

 private:
  bool process_and_close_socket(socket_t socket) override;
  // Waits for a request, up to the maximum idle time. False: none came.
  bool WaitForRequest(socket_t socket) const;
  // Reads the rest of a body that no handler reads, for a limited time. Closing the connection at
  // once would lose the answer for a client that sends everything before it reads.
  void Linger(socket_t socket) const;
};

// Detects that the client of a request has hung up. A client that has only finished sending still
// waits for its answer, but TCP reports both in the same way. Sending a probe tells them apart: a
// closed connection answers it with a reset.
class ClientWatch {
 public:
  // Sends bytes that clients ignore; false if that is impossible.
  using Probe = std::function<bool()>;

  // Calls `probe` at most once in its life.
  bool HungUp(int socket, const Probe& probe);

 private:
  bool probed_ = false;
};

// A probe before the answer begins: "100 Continue", which HTTP/1.1 clients must accept at any time.
bool SendContinue(int socket);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_SERVE_POLL_SERVER_H_
