// Output to a terminal, the progress line, and the handler of Ctrl-C.
#include "terminal.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>

#include "chat/characters.h"

namespace rkv::app {

namespace {

enum class State : int { kIdle, kAnswering, kEditing };
std::atomic<State> state{State::kIdle};
std::atomic<bool> interrupted{false};
std::atomic<bool> progress_shown{false};
std::atomic<bool> stderr_is_terminal{false};
static_assert(std::atomic<State>::is_always_lock_free && std::atomic<bool>::is_always_lock_free);

constexpr std::string_view kClearLine = "\r\x1b[K";

// Safe in a signal handler.
void WriteNow(std::string_view text) { (void)!::write(STDERR_FILENO, text.data(), text.size()); }

// Made before any signal can come.
struct Pipe {
  int read = -1;
  int write = -1;

  Pipe() {
    int ends[2];
    if (::pipe2(ends, O_NONBLOCK | O_CLOEXEC) != 0) return;
    read = ends[0];
    write = ends[1];
  }
};
const Pipe wakeups;

void OnInterrupt(int) {
  const int saved_errno = errno;
  const bool again = interrupted.exchange(true);
  if (state == State::kAnswering && !again) {
    // On a line of its own, after the answer so far.
    WriteNow(progress_shown ? kClearLine : "\n");
    WriteNow("stopping; Ctrl-C again leaves at once\n");
  } else if (state == State::kEditing) {
    Wakeup::Signal();
  } else {
    if (stderr_is_terminal) WriteNow("\n");
    ::_exit(kExitInterrupted);
  }
  errno = saved_errno;
}

void WriteToStderr(std::string_view text) {
  (void)std::fwrite(text.data(), 1, text.size(), stderr);
}

}  // namespace

void TellText(std::string_view text) {
  WriteToStderr(::isatty(STDERR_FILENO) == 1 ? Printable(text) : std::string(text));
}

std::string ForStdout(std::string_view text) {
  return ::isatty(STDOUT_FILENO) == 1 ? Printable(text) : std::string(text);
}

ProgressLine::ProgressLine() : enabled_(::isatty(STDERR_FILENO) == 1) {}

ProgressLine::~ProgressLine() { Clear(); }

void ProgressLine::Show(std::string_view what, double fraction) {
  if (!enabled_) return;
  const std::lock_guard guard(lock_);
  if (what != what_) {
    what_ = what;
    start_ = std::chrono::steady_clock::now();
    changed_.notify_one();
  }
  fraction_ = fraction;
  Draw();
  if (counter_.joinable()) return;
  // Blocks the signals here: they must reach the thread that may wait for a key.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  counter_ = std::jthread([this](const std::stop_token& stop) { Count(stop); });
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void ProgressLine::Draw() {
  const auto elapsed =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::steady_clock::now() - start_);
  std::string line = fmt::format("{} {:3.0f} %", what_, 100.0 * fraction_);
  if (elapsed.count() > 0) line += fmt::format(" ({} s)", elapsed.count());
  if (line == shown_ && progress_shown) return;
  progress_shown = true;
  shown_ = std::move(line);
  WriteToStderr(fmt::format("{}{}", kClearLine, Printable(shown_)));
  std::fflush(stderr);
}

void ProgressLine::Count(const std::stop_token& stop) {
  std::unique_lock lock(lock_);
  while (!stop.stop_requested()) {
    if (!changed_.wait(lock, stop, [this] { return !what_.empty(); })) return;
    // Until the end of a second, or of the step.
    const auto began = start_;
    const auto seconds =
        std::chrono::ceil<std::chrono::seconds>(std::chrono::steady_clock::now() - began);
    changed_.wait_until(lock, stop, began + seconds,
                        [&] { return what_.empty() || start_ != began; });
    if (!what_.empty() && start_ == began && !stop.stop_requested()) Draw();
  }
}

void ProgressLine::Clear() {
  const std::lock_guard guard(lock_);
  if (what_.empty()) return;
  what_.clear();
  shown_.clear();
  changed_.notify_one();
  if (!progress_shown.exchange(false)) return;
  WriteToStderr(kClearLine);
  std::fflush(stderr);
}

void Wakeup::Signal() { (void)!::write(wakeups.write, "", 1); }
int Wakeup::fd() { return wakeups.read; }
void Wakeup::Clear() {
  char bytes[64];
  while (::read(wakeups.read, bytes, sizeof(bytes)) > 0) {
  }
}

Interrupts::Interrupts() {
  stderr_is_terminal = ::isatty(STDERR_FILENO) == 1;
  struct sigaction action {};
  action.sa_handler = OnInterrupt;
  sigemptyset(&action.sa_mask);
  action.sa_flags = 0;  // No restart: the signal must end a wait for a line.
  ::sigaction(SIGINT, &action, nullptr);
}

bool Interrupts::interrupted() { return app::interrupted; }

Interrupts::Editing::Editing() {
  app::interrupted = false;
  state = State::kEditing;
}
Interrupts::Editing::~Editing() { state = State::kIdle; }

Interrupts::Answering::Answering() {
  app::interrupted = false;
  state = State::kAnswering;
}
Interrupts::Answering::~Answering() {
  state = State::kIdle;
  app::interrupted = false;
}
const std::atomic<bool>* Interrupts::Answering::cancel() const { return &app::interrupted; }

}  // namespace rkv::app
