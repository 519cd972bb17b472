// The connection loop of PollServer: poll() in place of select(), raw Authorization headers, and
// unread bodies.
#include "serve/poll_server.h"

#include <netdb.h>
#include <poll.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string_view>

namespace rkv::app {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds kLookAgain{500};  // interval of checks for a stop
constexpr milliseconds kLinger{10000};   // how long to drain a body that no handler reads

thread_local int current = -1;
thread_local bool unread = false;
thread_local std::string authorization_value;

// Finds a header in the bytes of a request's head while httplib reads them.
class HeadReader {
 public:
  // Call at the first byte of a request.
  void Start() {
    in_head_ = true;
    line_.clear();
    authorization_value.clear();
  }

  void Read(std::string_view bytes) {
    for (size_t i = 0; i < bytes.size() && in_head_; ++i) {
      // The rest of a longer line is dropped: it cannot be a key.
      if (line_.size() < kMaxLineBytes) line_ += bytes[i];
      if (bytes[i] == '\n') EndLine();
    }
  }

 private:
  static constexpr size_t kMaxLineBytes = 16384;

  void EndLine() {
    constexpr std::string_view kName = "authorization:";
    in_head_ = line_ != "\r\n";
    const bool found = line_.size() >= kName.size() && line_.ends_with("\r\n") &&
                       ::strncasecmp(line_.data(), kName.data(), kName.size()) == 0;
    if (found && authorization_value.empty()) {
      const auto is_space = [](char c) { return c == ' ' || c == '\t'; };
      std::string_view value(line_);
      value.remove_prefix(kName.size());
      value.remove_suffix(2);
      while (!value.empty() && is_space(value.front())) value.remove_prefix(1);
      while (!value.empty() && is_space(value.back())) value.remove_suffix(1);
      authorization_value = value;
    }
    line_.clear();
  }

  bool in_head_ = false;
  std::string line_;
};

// The events before the timeout; 0: none.
int Poll(int socket, int events, milliseconds timeout) {
  pollfd poll{.fd = socket, .events = static_cast<int16_t>(events), .revents = 0};
  int n = 0;
  do {
    n = ::poll(&poll, 1, static_cast<int>(timeout.count()));
  } while (n < 0 && errno == EINTR);
  return n > 0 ? poll.revents : 0;
}

class SocketStream : public httplib::Stream {
 public:
  SocketStream(int socket, milliseconds read_timeout, milliseconds write_timeout)
      : socket_(socket), read_timeout_(read_timeout), write_timeout_(write_timeout) {}

  bool has_buffered() const { return begin_ < end_; }
  void StartRequest() { head_.Start(); }

  bool is_readable() const override {
    return has_buffered() || Poll(socket_, POLLIN, read_timeout_) != 0;
  }
  bool is_writable() const override {
    // A client that has finished sending may still read.
    return Poll(socket_, POLLOUT, write_timeout_) == POLLOUT;
  }

  // Buffered, since httplib reads headers byte by byte.
  ssize_t read(char* data, size_t size) override {
    if (!has_buffered()) {
      if (!is_readable()) return -1;
      const ssize_t n = ::recv(socket_, buffer_.data(), buffer_.size(), MSG_DONTWAIT);
      if (n <= 0) return n;
      begin_ = 0;
      end_ = static_cast<size_t>(n);
    }
    const size_t n = std::min(size, end_ - begin_);
    std::memcpy(data, buffer_.data() + begin_, n);
    begin_ += n;
    head_.Read({data, n});
    return static_cast<ssize_t>(n);
  }

  ssize_t write(const char* data, size_t size) override {
    if (!is_writable()) return -1;
    return ::send(socket_, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
  }

  void get_remote_ip_and_port(std::string& ip, int& port) const override {
    Name(::getpeername, ip, port);
  }
  void get_local_ip_and_port(std::string& ip, int& port) const override {
    Name(::getsockname, ip, port);
  }
  socket_t socket() const override { return socket_; }

 private:
  template <typename F>
  void Name(F get, std::string& ip, int& port) const {
    sockaddr_storage address{};
    socklen_t size = sizeof(address);
    char host[NI_MAXHOST];
    char service[NI_MAXSERV];
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    if (get(socket_, generic, &size) != 0 ||
        ::getnameinfo(generic, size, host, sizeof(host), service, sizeof(service),
                      NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
      return;
    }
    ip = host;
    port = std::atoi(service);
  }

  const int socket_;
  const milliseconds read_timeout_;
  const milliseconds write_timeout_;
  HeadReader head_;
  std::array<char, 16384> buffer_;
  size_t begin_ = 0;
  size_t end_ = 0;
};

}  // namespace

bool ClientWatch::HungUp(int socket, const Probe& probe) {
  const int events = Poll(socket, POLLRDHUP, milliseconds(0));
  if ((events & (POLLHUP | POLLERR)) != 0) return true;
  if ((events & POLLRDHUP) == 0 || probed_) return false;
  probed_ = true;
  return !probe();
}

bool SendContinue(int socket) {
  constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
  const ssize_t n = ::send(socket, kContinue.data(), kContinue.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  return n == static_cast<ssize_t>(kContinue.size());
}

int PollServer::current_socket() { return current; }

const std::string& PollServer::authorization() { return authorization_value; }

void PollServer::SetUnread(bool is_unread) { unread = is_unread; }

void PollServer::SetBacklog(int n) const { ::listen(svr_sock_, n); }

bool PollServer::WaitForRequest(socket_t socket) const {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(keep_alive_timeout_sec_);
  while (svr_sock_ != INVALID_SOCKET && std::chrono::steady_clock::now() < end) {
    if (Poll(socket, POLLIN, kLookAgain) != 0) return true;
  }
  return false;
}

void PollServer::Linger(socket_t socket) const {
  ::shutdown(socket, SHUT_WR);
  std::array<char, 16384> piece;
  const auto end = std::chrono::steady_clock::now() + kLinger;
  while (svr_sock_ != INVALID_SOCKET && std::chrono::steady_clock::now() < end) {
    if (Poll(socket, POLLIN, kLookAgain) == 0) continue;
    if (::recv(socket, piece.data(), piece.size(), MSG_DONTWAIT) <= 0) return;
  }
}

bool PollServer::process_and_close_socket(socket_t socket) {
  const auto time = [](time_t seconds, time_t microseconds) {
    return milliseconds(seconds * 1000 + microseconds / 1000);
  };
  SocketStream stream(socket, time(read_timeout_sec_, read_timeout_usec_),
                      time(write_timeout_sec_, write_timeout_usec_));
  current = socket;
  bool good = false;
  for (size_t left = keep_alive_max_count_; left > 0; --left) {
    if (!stream.has_buffered() && !WaitForRequest(socket)) break;
    bool closed = false;
    unread = false;
    stream.StartRequest();
    good = process_request(stream, left == 1, closed, nullptr);
    if (!good || closed || unread) break;
  }
  current = -1;
  if (unread) Linger(socket);
  ::shutdown(socket, SHUT_RDWR);
  ::close(socket);
  return good;
}

}  // namespace rkv::app
