// Runs a program on a terminal, as somebody who types.
#ifndef RETENTIVEKV_TESTS_SUPPORT_TERMINAL_H_
#define RETENTIVEKV_TESTS_SUPPORT_TERMINAL_H_

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "support/process.h"

namespace rkv {

// It ends with the thread that started it.
class TerminalProcess {
 public:
  using Environment = std::vector<std::pair<std::string, std::string>>;

  explicit TerminalProcess(const std::vector<std::string>& arguments,
                           const Environment& environment = {}) {
    terminal_ = ::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (terminal_ < 0 || ::grantpt(terminal_) != 0 || ::unlockpt(terminal_) != 0) return;
    const winsize size{.ws_row = 24, .ws_col = 200, .ws_xpixel = 0, .ws_ypixel = 0};
    ::ioctl(terminal_, TIOCSWINSZ, &size);
    const std::string name = ::ptsname(terminal_);
    pid_ = ::fork();
    if (pid_ != 0) return;
    ::setsid();
    const int fd = ::open(name.c_str(), O_RDWR);  // The session's terminal, as its first.
    for (const int standard : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) ::dup2(fd, standard);
    ::setenv("TERM", "xterm", 1);
    for (const auto& [variable, value] : environment) {
      ::setenv(variable.c_str(), value.c_str(), 1);
    }
    BecomeProgram(arguments);
  }
  ~TerminalProcess() {
    if (pid_ > 0) ::kill(pid_, SIGKILL);
    Wait();
    ::close(terminal_);
  }
  TerminalProcess(const TerminalProcess&) = delete;
  TerminalProcess& operator=(const TerminalProcess&) = delete;

  // A carriage return is the Enter key.
  void Type(const std::string& keys) {
    EXPECT_EQ(::write(terminal_, keys.data(), keys.size()), static_cast<ssize_t>(keys.size()));
  }

  // Reads until `text` is shown, the program ends, or nothing comes for long. Returns what was
  // shown since the last call, up to the text.
  std::string ReadUntil(const std::string& text) {
    while (shown_.find(text) == std::string::npos && Read()) {
    }
    const size_t at = shown_.find(text);
    EXPECT_NE(at, std::string::npos) << "'" << text << "' in\n" << shown_;
    const size_t end = at == std::string::npos ? shown_.size() : at + text.size();
    std::string read = shown_.substr(0, end);
    shown_.erase(0, end);
    return read;
  }
  std::string ReadAll() {
    while (Read()) {
    }
    return std::exchange(shown_, {});
  }

  // Its ExitCode(), once it has ended.
  int Wait() {
    if (pid_ > 0) ReadAll();
    return WaitFor(pid_);
  }

 private:
  bool Read() {
    constexpr int kLongMs = 120 * 1000;
    pollfd waiting{.fd = terminal_, .events = POLLIN, .revents = 0};
    if (::poll(&waiting, 1, kLongMs) <= 0) return false;
    char bytes[4096];
    const ssize_t n = ::read(terminal_, bytes, sizeof(bytes));
    if (n <= 0) return false;  // The program has ended.
    shown_.append(bytes, static_cast<size_t>(n));
    return true;
  }

  int terminal_ = -1;
  pid_t pid_ = -1;
  std::string shown_;
};

}  // namespace rkv

#endif  // RETENTIVEKV_TESTS_SUPPORT_TERMINAL_H_
