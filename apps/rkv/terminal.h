// What a terminal user sees and does: messages, progress, Ctrl-C.
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

// Writes to stderr. One that is closed or full is no reason to fail. What it holds of others, such
// as the names of files, cannot control a terminal.
void TellText(std::string_view text);

// Tells the user something beside a command's results.
template <typename... Args>
void Tell(fmt::format_string<Args...> format, Args&&... args) {
  TellText(fmt::format(format, std::forward<Args>(args)...));
}

// The same text, or on a terminal without what could control it: for stdout.
std::string ForStdout(std::string_view text);

// One line on stderr that is overwritten as a step goes on and gone when it is over. Between calls
// it counts the seconds, since a step may take long to get on. Silent when stderr is not a
// terminal.
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

inline constexpr int kExitInterrupted = 130;

// Ctrl-C: stops the answer that is being generated, and says so; without one, or pressed twice,
// ends the program with exit code 130.
class Interrupts {
 public:
  Interrupts();  // Installs the handler for the rest of the process.

  // Whether Ctrl-C was pressed in the current or last answer, or at the prompt.
  static bool interrupted();

  // While a line is edited: Ctrl-C ends the wait for a key.
  class Editing {
   public:
    Editing();
    ~Editing();
    Editing(const Editing&) = delete;
    Editing& operator=(const Editing&) = delete;
  };

  // While files are read and an answer is generated: what Ctrl-C sets.
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
