#include "terminal.h"

#include <fmt/format.h>
#include <histedit.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <iostream>

namespace rkv::app {

namespace {

constexpr int kExitInterrupted = 130;

enum class State : int { kIdle, kAnswering, kEditing };
std::atomic<State> state{State::kIdle};
std::atomic<bool> interrupted{false};
static_assert(std::atomic<State>::is_always_lock_free && std::atomic<bool>::is_always_lock_free);

void OnInterrupt(int) {
  const bool again = interrupted.exchange(true);
  if (state == State::kIdle || (state == State::kAnswering && again)) ::_exit(kExitInterrupted);
}

}  // namespace

ProgressLine::ProgressLine() : enabled_(::isatty(STDERR_FILENO) == 1) {}

void ProgressLine::Show(std::string_view what, double fraction) {
  if (!enabled_) return;
  const std::string line = fmt::format("{} {:3.0f} %", what, 100.0 * fraction);
  if (line == shown_) return;
  shown_ = line;
  Tell("\r\x1b[K{}", line);
  std::fflush(stderr);
}

void ProgressLine::Clear() {
  if (shown_.empty()) return;
  Tell("\r\x1b[K");
  std::fflush(stderr);
  shown_.clear();
}

Interrupts::Interrupts() {
  struct sigaction action {};
  action.sa_handler = OnInterrupt;
  sigemptyset(&action.sa_mask);
  action.sa_flags = 0;  // No restart: waiting for a line must end.
  ::sigaction(SIGINT, &action, nullptr);
}

Interrupts::Answering::Answering() {
  interrupted = false;
  state = State::kAnswering;
}
Interrupts::Answering::~Answering() {
  state = State::kIdle;
  interrupted = false;
}
const std::atomic<bool>* Interrupts::Answering::cancel() const { return &interrupted; }

class LineReader::Editor {
 public:
  Editor() : line_(::el_init("rkv", stdin, stdout, stderr)), history_(::history_init()) {
    HistEvent event;
    ::history(history_, &event, H_SETSIZE, 1000);
    ::el_set(
        line_, EL_PROMPT, +[](EditLine*) -> const char* { return "> "; });
    ::el_set(line_, EL_EDITOR, "emacs");
    ::el_set(line_, EL_HIST, ::history, history_);
  }
  ~Editor() {
    ::history_end(history_);
    ::el_end(line_);
  }
  Editor(const Editor&) = delete;
  Editor& operator=(const Editor&) = delete;

  std::optional<std::string> Next() {
    int n = 0;
    const char* text = ::el_gets(line_, &n);
    if (text == nullptr || n <= 0) return std::nullopt;
    HistEvent event;
    if (n > 1) ::history(history_, &event, H_ENTER, text);
    std::string line(text, static_cast<size_t>(n));
    while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.pop_back();
    return line;
  }

 private:
  EditLine* line_;
  ::History* history_;
};

LineReader::LineReader() {
  if (::isatty(STDIN_FILENO) == 1 && ::isatty(STDOUT_FILENO) == 1) {
    editor_ = std::make_unique<Editor>();
  }
}
LineReader::~LineReader() = default;

std::optional<std::string> LineReader::Next() {
  if (editor_ == nullptr) {
    std::string line;
    if (!std::getline(std::cin, line)) return std::nullopt;
    return line;
  }
  state = State::kEditing;
  std::optional<std::string> line = editor_->Next();
  state = State::kIdle;
  if (interrupted) {
    editor_.reset();  // Gives the terminal back as it was.
    std::exit(kExitInterrupted);
  }
  return line;
}

}  // namespace rkv::app
