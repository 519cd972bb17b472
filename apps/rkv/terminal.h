// What a terminal user sees and does: progress, lines of input, Ctrl-C.
#ifndef RETENTIVEKV_APPS_RKV_TERMINAL_H_
#define RETENTIVEKV_APPS_RKV_TERMINAL_H_

#include <fmt/format.h>

#include <atomic>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace rkv::app {

// Tells the user something beside a command's results. A stderr that is closed or full is no
// reason to fail.
template <typename... Args>
void Tell(fmt::format_string<Args...> format, Args&&... args) {
  const std::string text = fmt::format(format, std::forward<Args>(args)...);
  (void)std::fwrite(text.data(), 1, text.size(), stderr);
}

// One line on stderr that is overwritten as a step goes on and gone when it is over. Silent when
// stderr is not a terminal.
class ProgressLine {
 public:
  ProgressLine();
  ~ProgressLine() { Clear(); }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  bool enabled() const { return enabled_; }
  void Show(std::string_view what, double fraction);
  void Clear();

 private:
  bool enabled_;
  std::string shown_;
};

// Ctrl-C: stops the answer that is being generated; without one, or pressed twice, ends the program
// with exit code 130.
class Interrupts {
 public:
  Interrupts();  // Installs the handler for the rest of the process.

  // While an answer is generated: what Ctrl-C sets.
  class Answering {
   public:
    Answering();
    ~Answering();
    Answering(const Answering&) = delete;
    Answering& operator=(const Answering&) = delete;
    const std::atomic<bool>* cancel() const;
  };
};

// Lines from the user. On a terminal with a prompt, editing and history; else plain lines.
class LineReader {
 public:
  LineReader();
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  // Nothing at the end of input. Exits with 130 on Ctrl-C.
  std::optional<std::string> Next();

 private:
  class Editor;
  std::unique_ptr<Editor> editor_;  // null without a terminal
};

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_TERMINAL_H_
