// Command-line flags that several subcommands share, under llama.cpp's names.
#ifndef RETENTIVEKV_APPS_RKV_FLAGS_H_
#define RETENTIVEKV_APPS_RKV_FLAGS_H_

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "retentivekv/engine.h"
#include "retentivekv/options.h"

namespace rkv::app {

// A validator with the values of `check`, and a message without the range of doubles. `check` must
// outlive it.
inline CLI::Validator NumberThat(const CLI::Validator& check, const char* is, const char* type) {
  return {[&check, is](std::string& text) {
            return check(text).empty() ? "" : "'" + text + "' is not " + is;
          },
          type};
}
inline const CLI::Validator kPositive =
    NumberThat(CLI::PositiveNumber, "a number above 0", "POSITIVE");
inline const CLI::Validator kNonNegative =
    NumberThat(CLI::NonNegativeNumber, "0 or a number above", "NONNEGATIVE");

// Unlike CLI::Range, rejects NaN.
inline CLI::Validator Between(double min, double max) {
  return {[min, max](std::string& text) {
            double number = 0;
            const bool good =
                CLI::detail::lexical_cast(text, number) && number >= min && number <= max;
            return good ? std::string()
                        : fmt::format("'{}' is not a number from {} to {}", text, min, max);
          },
          ""};
}

struct CommonFlags {
  EngineOptions engine;
  SamplingOptions sampling;
  int n_predict = -1;
  int n_batch = 0;  // 0: as n_ubatch
  OptionTextMap cache;
  bool jinja = true;
  std::string chat_template_file;
  std::string chat_template_kwargs;
  std::string reasoning = "auto";
  std::string reasoning_format = "auto";
  std::string system_prompt;
  std::string system_prompt_file;
  std::string grammar_file;
  std::vector<std::string> stops;  // texts that end an answer
  std::string kv_report;
  std::string log_file;
  bool verbose = false;
  std::vector<std::string> images;
  std::vector<std::string> audio;

  // Pictures, then audio.
  std::vector<std::string> media() const;
};

// Registers the flags; `flags` must outlive the parse. Each flag of the form --long-name can also
// be set by the environment variable RKV_LONG_NAME.
void AddCommonFlags(CLI::App& command, CommonFlags& flags);
// Parts of AddCommonFlags(): the flags of the model, the choice of tokens, the cache, and logs.
void AddModelFlags(CLI::App& command, CommonFlags& flags);
void AddTemplateFlags(CLI::App& command, CommonFlags& flags);
void AddSamplingFlags(CLI::App& command, CommonFlags& flags);
void AddCacheFlags(CLI::App& command, CommonFlags& flags);
void AddLogFlags(CLI::App& command, CommonFlags& flags);
// -r, for commands that write an answer while it is generated.
void AddStopFlag(CLI::App& command, CommonFlags& flags);

// Makes each use of an option a further value. By default the last use replaces the others.
inline CLI::Option* Repeatable(CLI::Option* option) {
  return option->expected(1)->take_all()->allow_extra_args(false);
}

// Registers a flag of a list such as "1,2"; several uses add up, as with llama-bench. `list` must
// outlive the parse.
CLI::Option* AddList(CLI::App& command, const std::string& names, std::string& list,
                     const std::string& help);

// The command of that name, or null.
CLI::App* FindCommand(const CLI::App& program, std::string_view name);

// RKV_LONG_NAME for "--long-name".
std::string EnvironmentName(const std::string& flag);

// Names the environment variable of every flag of a command.
void NameEnvironment(CLI::App& command);

// The command line with all flags, including those from the environment, for a repeated run.
std::string CommandLine(const CLI::App& program, const CLI::App& command);

// Replaces the escapes that llama.cpp's programs know in a prompt: \n \r \t \' \" \\.
std::string Unescape(std::string_view text);

// Replaces llama.cpp's short flags of several letters (-mm, -ngl, -sys, -ub) by their long forms,
// since CLI11 would read several flags. Returns the arguments with the last one first, as CLI11
// wants them. kInvalidArgument for unknown flags. For a flag of llama.cpp the error names the
// alternative; for others, the most similar flag.
Result<std::vector<std::string>> ReadArguments(const CLI::App& program, int argc, char** argv);
// The short form of "--long-name" with several letters; empty if it has none.
std::string LongShortFlag(std::string_view long_name);

// The policy and budget of the flags. Tells the user if the policy has no effect without a budget.
Result<CacheOptions> ParseCacheOptions(const CommonFlags& flags);

// Reads the files that flags name in place of texts: system prompt, grammar. LoadEngine() calls it.
Status ReadFlagFiles(CommonFlags& flags);

// Parses "512MiB" or "2GiB" into bytes. kInvalidArgument, naming `flag`, for anything else.
Result<size_t> ParseBytes(std::string_view flag, std::string_view text);

// The text of --help about policies, from the registry.
std::string PolicyHelp();

// Loads the flags' model with progress on the terminal; without -m, the bundled model.
Result<std::unique_ptr<Engine>> LoadEngine(CommonFlags& flags);

// Sends logs to stderr or --log-file, at the flags' level of detail.
Status StartLogging(const CommonFlags& flags);

// Prints "error: ..." and returns the exit code: 2 for wrong usage, 130 for Ctrl-C, else 1.
int Fail(const Status& status);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_FLAGS_H_
