// Runs a program as a user would, and keeps what it said.
#ifndef RETENTIVEKV_TESTS_SUPPORT_PROCESS_H_
#define RETENTIVEKV_TESTS_SUPPORT_PROCESS_H_

#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

namespace rkv {

// Runs the program in place of this child process. It ends with the thread that started it, since
// it would hold the output of a test that has crashed.
[[noreturn]] inline void BecomeProgram(const std::vector<std::string>& arguments) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  std::vector<char*> argv;
  for (const std::string& argument : arguments) {
    argv.push_back(const_cast<char*>(argument.c_str()));
  }
  argv.push_back(nullptr);
  ::execv(argv[0], argv.data());
  ::_exit(127);
}

// From what waitpid() reports: the exit code, or 128 + signal for a program that was killed.
inline int ExitCode(int status) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// Waits for the end of a child process, and sets `pid` to -1. Returns its ExitCode(), or -1 if
// `pid` was -1 already.
inline int WaitFor(pid_t& pid) {
  if (pid <= 0) return -1;
  int status = 0;
  ::waitpid(std::exchange(pid, -1), &status, 0);
  return ExitCode(status);
}

struct ProcessResult {
  int exit_code = -1;
  std::string out;
  std::string err;
};

inline std::string ShellQuote(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? "'\\''" : std::string(1, c);
  return quoted + "'";
}

// `input` goes to its stdin.
inline ProcessResult RunProcess(const std::vector<std::string>& arguments,
                                const std::string& input = "") {
  const auto* info = testing::UnitTest::GetInstance()->current_test_info();
  const std::string base =
      testing::TempDir() + info->test_suite_name() + "." + info->name() + ".process";
  std::ofstream(base + ".in", std::ios::binary) << input;
  std::string command;
  for (const std::string& argument : arguments) command += ShellQuote(argument) + " ";
  command += "<" + ShellQuote(base + ".in") + " 2>" + ShellQuote(base + ".err");
  ProcessResult result;
  FILE* pipe = ::popen(command.c_str(), "r");
  for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) {
    result.out += static_cast<char>(c);
  }
  result.exit_code = ExitCode(::pclose(pipe));
  std::ifstream err(base + ".err", std::ios::binary);
  result.err.assign(std::istreambuf_iterator<char>(err), {});
  return result;
}

// A program that is talked to while it runs. Its stderr goes to the test's. It ends with the thread
// that started it.
class InteractiveProcess {
 public:
  explicit InteractiveProcess(const std::vector<std::string>& arguments) {
    int to_child[2];
    int from_child[2];
    if (::pipe(to_child) != 0 || ::pipe(from_child) != 0) return;
    pid_ = ::fork();
    if (pid_ == 0) {
      std::signal(SIGPIPE, SIG_DFL);
      ::dup2(to_child[0], STDIN_FILENO);
      ::dup2(from_child[1], STDOUT_FILENO);
      for (const int fd : {to_child[0], to_child[1], from_child[0], from_child[1]}) ::close(fd);
      BecomeProgram(arguments);
    }
    ::close(to_child[0]);
    ::close(from_child[1]);
    in_ = to_child[1];
    out_ = from_child[0];
  }
  ~InteractiveProcess() {
    if (pid_ > 0) ::kill(pid_, SIGKILL);
    Wait();
    ::close(out_);
  }
  InteractiveProcess(const InteractiveProcess&) = delete;
  InteractiveProcess& operator=(const InteractiveProcess&) = delete;

  void Write(const std::string& text) {
    EXPECT_EQ(::write(in_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  void Signal(int signal) const { ::kill(pid_, signal); }
  pid_t pid() const { return pid_; }

  // Reads until `text` has come, or the program ends. Returns what came.
  std::string ReadUntil(const std::string& text) {
    std::string read;
    char c = 0;
    while (read.find(text) == std::string::npos && ::read(out_, &c, 1) == 1) read += c;
    return read;
  }

  // Closes its stdin and waits for its end; its ExitCode().
  int Wait() {
    if (in_ >= 0) ::close(in_);
    in_ = -1;
    return WaitFor(pid_);
  }

 private:
  pid_t pid_ = -1;
  int in_ = -1;
  int out_ = -1;
};

}  // namespace rkv

#endif  // RETENTIVEKV_TESTS_SUPPORT_PROCESS_H_
