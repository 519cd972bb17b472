// Messages, progress and Ctrl-C for users at a terminal.
#ifndef RETENTIVEKV_APPS_RKV_TERMINAL_H_
#define RETENTIVEKV_APPS_RKV_TERMINAL_H_

#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <stop_token>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

namespace rkv::app {

// Writes to stderr; a closed or full stderr is no error. Foreign text, such as file names, is made
// safe for a terminal.
void TellText(std::string_view text);

// Tells the user something that is no part of a command's results.
template <typename... Args>
void Tell(fmt::format_string<Args...> format, Args&&... args) {
  TellText(fmt::format(format, std::forward<Args>(args)...));
}

// Returns the text for stdout: on a terminal without control characters, else unchanged.
std::string ForStdout(std::string_view text);

// One line on stderr that is overwritten during a step and removed after it. Between calls it
// counts the seconds, since a step may take long. Silent if stderr is not a terminal.
class ProgressLine {
 public:
  ProgressLine();
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  bool enabled() const { return enabled_; }
  void Show(std::string_view what, double fraction);
  void Clear();

 private:
  void Draw();  // with the lock held
  void Count(const std::stop_token& stop);

  const bool enabled_;
  std::mutex lock_;
  std::condition_variable_any changed_;
  std::string what_;  // empty: nothing is shown
  double fraction_ = 0;
  std::chrono::steady_clock::time_point start_;
  std::string shown_;
  std::jthread counter_;  // the last member: it uses the others
};

// Lets signal handlers end a wait for a key. A signal that comes just before the wait, or to
// another thread, does not interrupt a system call, so waits also poll fd().
class Wakeup {
 public:
  static void Signal();  // safe in a signal handler
  static int fd();       // readable since Signal()
  static void Clear();
};

inline constexpr int kExitInterrupted = 130;

// Ctrl-C stops the current answer, with a message. Without an answer, or on a second press, it ends
// the program with exit code 130.
class Interrupts {
 public:
  Interrupts();  // Installs the handler for the rest of the process.

  // Whether Ctrl-C was pressed in the current or last answer, or at the prompt.
  static bool interrupted();

  // During line editing: Ctrl-C ends the wait for a key.
  class Editing {
   public:
    Editing();
    ~Editing();
    Editing(const Editing&) = delete;
    Editing& operator=(const Editing&) = delete;
  };

  // While files are read and an answer is generated: Ctrl-C sets cancel().
  class Answering {
   public:
    Answering();
    ~Answering();
    Answering(const Answering&) = delete;
    Answering& operator=(const Answering&) = delete;
    const std::atomic<bool>* cancel() const;
  };
};

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_TERMINAL_H_
