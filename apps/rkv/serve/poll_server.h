// cpp-httplib's server for thousands of connections.
#ifndef RETENTIVEKV_APPS_RKV_SERVE_POLL_SERVER_H_
#define RETENTIVEKV_APPS_RKV_SERVE_POLL_SERVER_H_

#include <httplib.h>

#include <functional>
#include <string>

namespace rkv::app {

// httplib looks at each idle connection a hundred times a second, and at none beyond the 1024th
// file, since it uses select(). Here the kernel wakes a connection's thread when there is
// something.
class PollServer : public httplib::Server {
 public:
  // Connections that may wait to be accepted; httplib allows 5. After binding.
  void SetBacklog(int n) const;

  // The connection of the request that this thread answers, which httplib keeps to itself; clients
  // that hang up have to be noticed before an answer is written.
  static int current_socket();

  // The Authorization of the request that this thread answers, as it came: httplib decodes headers,
  // so that a key with %41 in it would be another one. Empty: there is none.
  static const std::string& authorization();

  // Of the request that this thread answers: whether it has a body, and whether that has been read.
  // Behind one that has not nothing can be read, so the connection ends with the answer.
  static void SetUnread(bool unread);

 private:
  bool process_and_close_socket(socket_t socket) override;
  // Whether a request comes within the time that connections may be idle.
  bool WaitForRequest(socket_t socket) const;
  // Takes what a client still sends of a body that nobody reads, for a while: closing the
  // connection at once would take the answer from a client that sends all before it reads.
  void Linger(socket_t socket) const;
};

// Whether the client of a request has hung up. One that only has nothing more to send still waits
// for its answer, though TCP says the same of both; sending something tells them apart, since what
// comes for a connection that is closed is answered with a reset.
class ClientWatch {
 public:
  // Sends what a client takes no notice of; false if that cannot be.
  using Probe = std::function<bool()>;

  // `probe` is called at most once in the life of the watch.
  bool HungUp(int socket, const Probe& probe);

 private:
  bool probed_ = false;
};

// A probe before the answer begins: "100 Continue", which every client of HTTP/1.1 has to expect at
// any time.
bool SendContinue(int socket);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_SERVE_POLL_SERVER_H_
