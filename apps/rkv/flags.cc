// Flags that several commands share, the environment, and the command line for a repeated run.
#include "flags.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <cctype>
#include <filesystem>

#include "add_flag.h"
#include "input.h"
#include "terminal.h"

namespace rkv::app {

std::vector<std::string> CommonFlags::media() const {
  std::vector<std::string> files = images;
  files.insert(files.end(), audio.begin(), audio.end());
  return files;
}

std::string Unescape(std::string_view text) {
  constexpr std::string_view kNames = "nrt'\"\\";
  constexpr std::string_view kMeanings = "\n\r\t'\"\\";
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    const size_t known =
        text[i] == '\\' && i + 1 < text.size() ? kNames.find(text[i + 1]) : std::string_view::npos;
    result += known == std::string_view::npos ? text[i] : kMeanings[known];
    if (known != std::string_view::npos) ++i;
  }
  return result;
}

CLI::Option* AddList(CLI::App& command, const std::string& names, std::string& list,
                     const std::string& help) {
  const auto join = [&list](const std::vector<std::string>& lists) {
    list = fmt::format("{}", fmt::join(lists, ","));
  };
  return Repeatable(command.add_option_function<std::vector<std::string>>(names, join, help))
      ->type_name("LIST");
}

CLI::App* FindCommand(const CLI::App& program, std::string_view name) {
  for (const CLI::App* command : program.get_subcommands({})) {
    if (command->get_name() == name) return const_cast<CLI::App*>(command);
  }
  return nullptr;
}

std::string EnvironmentName(const std::string& flag) {
  std::string name = "RKV_";
  for (const char c : flag.substr(2)) {
    name += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  }
  return name;
}

void NameEnvironment(CLI::App& command) {
  for (CLI::Option* option : command.get_options()) {
    const bool positional = option->get_positional() || option->check_lname("help");
    if (!positional) option->envname(EnvironmentName("--" + option->get_lnames().front()));
  }
}

std::string CommandLine(const CLI::App& program, const CLI::App& command) {
  std::string text = fmt::format("{} {}", program.get_name(), command.get_name());
  // By option instead of the given order, since the environment sets some of them.
  for (const CLI::Option* option : command.get_options()) {
    const bool flag = option->get_expected_max() == 0;
    for (const std::string& value : option->results()) {
      const bool quote = value.find_first_of(" ;'\"*?") != std::string::npos;
      if (!option->get_positional()) text += fmt::format(" {}", option->get_name());
      if (!flag) text += quote ? fmt::format(" '{}'", value) : fmt::format(" {}", value);
    }
  }
  return text;
}

void AddLogFlags(CLI::App& command, CommonFlags& flags) {
  AddFlag(command, "--log-file", flags.log_file, "write logs to this file instead of stderr")
      ->type_name("FILE");
  command.add_flag("-v,--verbose", flags.verbose, "also log the messages of llama.cpp")
      ->envname("RKV_VERBOSE");
}

void AddStopFlag(CLI::App& command, CommonFlags& flags) {
  Repeatable(AddFlag(command, "-r,--reverse-prompt", flags.stops,
                     "text that ends an answer, and is left out of it; several: repeat"))
      ->type_name("TEXT");
}

void AddCommonFlags(CLI::App& command, CommonFlags& flags) {
  AddModelFlags(command, flags);
  AddSamplingFlags(command, flags);
  AddCacheFlags(command, flags);
  AddFlag(command, "--system-prompt", flags.system_prompt, "system prompt, -sys")
      ->type_name("TEXT");
  AddFlag(command, "--system-prompt-file", flags.system_prompt_file,
          "file with the system prompt, -sysf")
      ->type_name("FILE");
  AddFlag(command, "--kv-report", flags.kv_report,
          "write a report of the cache and the speed, as JSON")
      ->type_name("FILE");
  Repeatable(
      AddFlag(command, "--image", flags.images, "picture; several: repeat, or separate by commas")
          ->delimiter(','))
      ->type_name("FILE");
  Repeatable(AddFlag(command, "--audio", flags.audio,
                     "audio clip (WAV, MP3, FLAC); several: repeat, or separate by commas")
                 ->delimiter(','))
      ->type_name("FILE");
  AddLogFlags(command, flags);
  command.footer(PolicyHelp());
}

Status ReadFlagFiles(CommonFlags& flags) {
  if (!flags.grammar_file.empty()) {
    RKV_ASSIGN_OR_RETURN(flags.sampling.grammar, ReadTextFile("grammar", flags.grammar_file));
    if (flags.sampling.grammar.empty()) {
      return InvalidArgument(fmt::format("the grammar file '{}' is empty", flags.grammar_file));
    }
  }
  if (flags.system_prompt_file.empty()) return OkStatus();
  RKV_ASSIGN_OR_RETURN(flags.system_prompt,
                       ReadTextFile("system prompt", flags.system_prompt_file));
  return OkStatus();
}

Result<size_t> ParseBytes(std::string_view flag, std::string_view text) {
  const Result<Budget> size = ParseBudget(text);
  if (!size.ok() || size->unit != Budget::Unit::kBytes) {
    return InvalidArgument(
        fmt::format("{} '{}' must be a size such as 512MiB or 2GiB", flag, text));
  }
  return static_cast<size_t>(size->amount);
}

Status StartLogging(const CommonFlags& flags) {
  // Checked here because spdlog would make the folder.
  const auto folder = std::filesystem::path(flags.log_file).parent_path();
  std::error_code error;
  if (!folder.empty() && !std::filesystem::is_directory(folder, error)) {
    return BadFile(fmt::format("cannot write the log file '{}': there is no folder '{}'",
                               flags.log_file, folder.string()));
  }
  try {
    auto logger = flags.log_file.empty() ? spdlog::stderr_color_mt("rkv")
                                         : spdlog::basic_logger_mt("rkv", flags.log_file, true);
    spdlog::set_default_logger(std::move(logger));
  } catch (const spdlog::spdlog_ex& error) {
    return BadFile(fmt::format("cannot write the log file: {}", error.what()));
  }
  spdlog::set_level(flags.verbose ? spdlog::level::trace : spdlog::level::info);
  return OkStatus();
}

int Fail(const Status& status) {
  Tell("error: {}\n", status.message());
  if (status.code() == StatusCode::kCancelled) return 130;
  return status.code() == StatusCode::kInvalidArgument ? 2 : 1;
}

}  // namespace rkv::app
