// rkv: talk with vision-language models on a fraction of the KV cache.
#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <csignal>
#include <exception>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

#include "commands.h"
#include "config_file.h"
#include "flags.h"
#include "refused_flags.h"
#include "retentivekv/engine.h"
#include "retentivekv/version.h"
#include "terminal.h"

namespace {

std::string VersionText() {
  return fmt::format("rkv {} on llama.cpp {}, {} kernels", rkv::kVersion, rkv::LlamaVersion(),
                     rkv::CpuTarget());
}

// A failed write of the help text is an error.
int PrintHelp(const CLI::App& app, const std::string& before = "") {
  std::cout << app.help(before) << std::flush;
  return std::cout ? 0 : 1;
}

int UnknownCommand(const CLI::App& program, const std::string& name) {
  std::vector<std::string> names;
  for (const CLI::App* app : program.get_subcommands({})) names.push_back(app->get_name());
  const std::string nearest = rkv::app::NearestName(name, names);
  rkv::app::Tell("error: unknown command '{}'{}; rkv --help lists the commands\n", name,
                 nearest.empty() ? "" : fmt::format(" (did you mean {}?)", nearest));
  return 2;
}

// rkv help, rkv help COMMAND
int Help(const CLI::App& program, int argc, char** argv) {
  if (argc < 3) return PrintHelp(program);
  const CLI::App* command = rkv::app::FindCommand(program, argv[2]);
  return command != nullptr ? PrintHelp(*command, program.get_name())
                            : UnknownCommand(program, argv[2]);
}

int Main(int argc, char** argv) {
  CLI::App program(
      "Chat with vision-language models on a fraction of the KV cache: --budget 20% saves 80 % of "
      "its memory.",
      "rkv");
  program.set_version_flag("--version", VersionText());
  program.require_subcommand(1);
  program.get_formatter()->column_width(32);
  program.option_defaults()->take_last();  // of a repeated flag, as in llama.cpp
  int exit_code = 0;
  rkv::app::AddRunCommand(program, exit_code);
  rkv::app::AddChatCommand(program, exit_code);
  rkv::app::AddServeCommand(program, exit_code);
  rkv::app::AddEvalCommand(program, exit_code);
  rkv::app::AddBenchCommand(program, exit_code);
  rkv::app::AddInspectCommand(program, exit_code);
  rkv::app::AddMakeModelCommand(program, exit_code);
  rkv::app::AddCompletionCommand(program, exit_code);
  rkv::app::AddConfigFlags(program);
  program.footer("rkv help COMMAND shows the flags of a command.");
  const std::string_view command = argc > 1 ? argv[1] : "help";
  if (command == "help") return Help(program, argc, argv);
  if (!command.starts_with('-') && rkv::app::FindCommand(program, argv[1]) == nullptr) {
    return UnknownCommand(program, argv[1]);
  }
  const auto arguments = rkv::app::ReadArguments(program, argc, argv);
  if (!arguments.ok()) return rkv::app::Fail(arguments.status());
  const rkv::Status config = rkv::app::UseConfigFile(program, *arguments);
  if (!config.ok()) return rkv::app::Fail(config);
  try {
    program.parse(std::vector<std::string>(*arguments));
  } catch (const CLI::ExtrasError&) {
    rkv::app::Tell("error: unexpected argument: {}\n", fmt::join(program.remaining(true), " "));
    return 2;
  } catch (const CLI::ParseError& error) {
    const bool good = error.get_exit_code() == 0;  // --help and --version
    program.exit(error);
    return !good ? 2 : std::cout.flush() ? 0 : 1;
  }
  return exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  // Opens closed standard streams: the next opened file would otherwise receive their output.
  for (int fd = 0; fd <= 2; ++fd) {
    if (::fcntl(fd, F_GETFD) == -1) (void)!::open("/dev/null", O_RDWR);
  }
  std::signal(SIGPIPE,
              SIG_IGN);  // A write without a reader then fails, and does not end the process.
  try {
    return Main(argc, argv);
  } catch (const std::exception& error) {
    rkv::app::Tell("error: {}\n", error.what());
    return 1;
  }
}
