// rkv: talk with vision-language models on a fraction of the KV cache.
#include <fcntl.h>
#include <fmt/format.h>

#include <csignal>
#include <exception>
#include <iostream>
#include <string_view>

#include "commands.h"
#include "flags.h"
#include "retentivekv/engine.h"
#include "retentivekv/version.h"
#include "terminal.h"

namespace {

std::string VersionText() {
  return fmt::format("rkv {} on llama.cpp {}, {} kernels", rkv::kVersion, rkv::LlamaVersion(),
                     rkv::CpuTarget());
}

int Main(int argc, char** argv) {
  CLI::App program("Talk with vision-language models on a fraction of the KV cache.", "rkv");
  program.set_version_flag("--version", VersionText());
  program.require_subcommand(1);
  program.get_formatter()->column_width(32);
  program.option_defaults()->take_last();  // of a flag that is given twice, as with llama.cpp
  int exit_code = 0;
  rkv::app::AddRunCommand(program, exit_code);
  rkv::app::AddChatCommand(program, exit_code);
  rkv::app::AddServeCommand(program, exit_code);
  rkv::app::AddEvalCommand(program, exit_code);
  rkv::app::AddBenchCommand(program, exit_code);
  rkv::app::AddInspectCommand(program, exit_code);
  rkv::app::AddMakeModelCommand(program, exit_code);
  const std::string_view command = argc > 1 ? argv[1] : "-";
  const auto named = [command](CLI::App* app) { return app->get_name() == command; };
  if (!command.starts_with('-') && program.get_subcommands(named).empty()) {
    rkv::app::Tell("error: unknown command '{}'; rkv --help lists the commands\n", argv[1]);
    return 2;
  }
  try {
    program.parse(rkv::app::ExpandShortFlags(argc, argv));
  } catch (const CLI::ParseError& error) {
    const bool good = error.get_exit_code() == 0;  // --help and --version
    program.exit(error);
    return !good ? 2 : std::cout.flush() ? 0 : 1;
  }
  return exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  // What is said to a stream that is closed must not end up in the next file that is opened.
  for (int fd = 0; fd <= 2; ++fd) {
    if (::fcntl(fd, F_GETFD) == -1) (void)!::open("/dev/null", O_RDWR);
  }
  std::signal(SIGPIPE, SIG_IGN);  // A reader that went away is a failed write, not a crash.
  try {
    return Main(argc, argv);
  } catch (const std::exception& error) {
    rkv::app::Tell("error: {}\n", error.what());
    return 1;
  }
}
