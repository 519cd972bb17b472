// The arguments of the command as CLI11 wants them; see ReadArguments().
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <map>

#include "flags.h"
#include "refused_flags.h"

namespace rkv::app {

namespace {

const std::map<std::string, std::string, std::less<>> kShortFlags = {
    {"-Cr", "--cpu-range"},      {"-ctk", "--cache-type-k"},
    {"-ctv", "--cache-type-v"},  {"-lm", "--load-mode"},
    {"-mm", "--mmproj"},         {"-ngl", "--n-gpu-layers"},
    {"-np", "--parallel"},       {"-rea", "--reasoning"},
    {"-sys", "--system-prompt"}, {"-sysf", "--system-prompt-file"},
    {"-tb", "--threads-batch"},  {"-to", "--timeout"},
    {"-ub", "--ubatch-size"},
};

}  // namespace

std::string LongShortFlag(std::string_view long_name) {
  for (const auto& [short_name, name] : kShortFlags) {
    if (name == long_name) return short_name;
  }
  return {};
}

namespace {

// Returns one argument in the form for CLI11. Adds to `problems` if the command does not have the
// flag.
std::string ReadFlag(const CLI::App& program, const CLI::App& command, const std::string& argument,
                     std::vector<std::string>& problems) {
  const auto is_letter = [](char c) { return std::isalpha(static_cast<unsigned char>(c)) != 0; };
  const std::string written = argument.substr(0, argument.find('='));
  std::string name = written;
  if (const auto known = kShortFlags.find(name); known != kShortFlags.end()) {
    // Only other commands may have the flag of these letters.
    if (command.get_option_no_throw(known->second) != nullptr) name = known->second;
  }
  const bool is_long = name.starts_with("--");
  // -t4 means -t 4, and -1 is a number; a word is the name of a flag.
  if (!is_long && (name.size() == 2 || !is_letter(name[2]))) return argument;
  if (!is_long && !is_letter(name[1])) return argument;
  if (is_long && command.get_option_no_throw(name) != nullptr) {
    return name + argument.substr(written.size());
  }
  if (const std::string_view instead = InsteadOfLlamaFlag(written); !instead.empty()) {
    problems.push_back(fmt::format("'{}' is a flag of llama.cpp that rkv {} does not have: {}",
                                   written, command.get_name(), instead));
    return argument;
  }
  if (&command != &program && program.get_option_no_throw(name) != nullptr) {
    problems.push_back(fmt::format("'{}' is a flag without a command: rkv {}", written, name));
    return argument;
  }
  for (const CLI::App* other : program.get_subcommands({})) {
    if (!is_long || other->get_option_no_throw(name) == nullptr) continue;
    problems.push_back(fmt::format("'{}' is a flag of rkv {}, and rkv {} does not have it", written,
                                   other->get_name(), command.get_name()));
    return argument;
  }
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& long_name : option->get_lnames()) names.push_back("--" + long_name);
  }
  const std::string nearest = NearestName(is_long ? name : "-" + name, names);
  problems.push_back(nearest.empty()
                         ? fmt::format("unknown flag '{}'", written)
                         : fmt::format("unknown flag '{}'; did you mean {}?", written, nearest));
  return argument;
}

}  // namespace

Result<std::vector<std::string>> ReadArguments(const CLI::App& program, int argc, char** argv) {
  std::vector<std::string> arguments;
  std::vector<std::string> problems;
  const CLI::App* command = &program;
  bool is_value = false;    // of the flag before it
  bool only_words = false;  // after --
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--" && !is_value) only_words = true;
    const bool is_flag = !is_value && !only_words && argument.size() > 1 && argument[0] == '-';
    is_value = false;
    if (!is_flag) {
      const CLI::App* named = command == &program ? FindCommand(program, argument) : nullptr;
      if (named != nullptr) command = named;
      arguments.push_back(argument);
      continue;
    }
    arguments.push_back(ReadFlag(program, *command, argument, problems));
    const CLI::Option* option = command->get_option_no_throw(arguments.back());
    is_value = option != nullptr && option->get_items_expected_min() > 0;
  }
  if (!problems.empty()) {
    return InvalidArgument(fmt::format(
        "{}{}", fmt::join(problems, "\nerror: "),
        command == &program ? ""
                            : fmt::format("\nrkv {} --help lists the flags", command->get_name())));
  }
  std::reverse(arguments.begin(), arguments.end());
  return arguments;
}

}  // namespace rkv::app
