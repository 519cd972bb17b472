// rkv completion: scripts that let shells complete commands, flags and their values.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "commands.h"
#include "flags.h"

namespace rkv::app {

namespace {

enum class Value { kNone, kAny, kFile, kFolder, kList };

struct Flag {
  std::vector<std::string> names;  // with their dashes, short ones first
  std::string help;
  Value value = Value::kNone;
  std::vector<std::string> list;  // of values
};

// Values of flags that take names, if these do not depend on a file.
std::vector<std::string> ListOf(const std::string& long_name) {
  static const std::map<std::string, std::vector<std::string>> kLists = [] {
    std::map<std::string, std::vector<std::string>> lists = {
        {"ladder", {"auto", "none"}},
        {"split", {"uniform", "pooled", "auto"}},
        {"compress", {"streaming", "prompt"}},
        {"load-mode", {"auto", "none", "mmap", "mlock", "mmap+mlock", "dio"}},
        {"numa", {"distribute", "isolate", "numactl"}},
        {"rope-scaling", {"none", "linear", "yarn"}},
        {"gpu-layers", {"0", "auto", "all"}},
        {"budget", {"10%", "20%", "50%"}}};
    for (const PolicyDescription& policy : DescribePolicies()) {
      lists["policy"].push_back(policy.name);
    }
    for (const PolicyDescription& absorber : DescribeAbsorbers()) {
      lists["absorb"].push_back(absorber.name);
    }
    for (size_t i = 0; i < kElementTypes; ++i) {
      for (const char* flag : {"cache-type-k", "cache-type-v"}) {
        lists[flag].emplace_back(ToString(static_cast<ElementType>(i)));
      }
    }
    return lists;
  }();
  const auto found = kLists.find(long_name);
  return found == kLists.end() ? std::vector<std::string>() : found->second;
}

std::vector<Flag> FlagsOf(const CLI::App& command) {
  std::vector<Flag> flags;
  for (const CLI::Option* option : command.get_options()) {
    if (option->get_positional() || option->get_lnames().empty()) continue;
    Flag flag{.names = {}, .help = option->get_description(), .list = {}};
    for (const std::string& name : option->get_snames()) flag.names.push_back("-" + name);
    for (const std::string& name : option->get_lnames()) {
      const std::string letters = LongShortFlag("--" + name);
      if (!letters.empty()) flag.names.push_back(letters);
      flag.names.push_back("--" + name);
      if (flag.list.empty()) flag.list = ListOf(name);
    }
    const std::string type = option->get_type_name();
    flag.value = option->get_items_expected_max() == 0 ? Value::kNone
                 : !flag.list.empty()                  ? Value::kList
                 : type.starts_with("FILE")            ? Value::kFile
                 : type.starts_with("DIR")             ? Value::kFolder
                                                       : Value::kAny;
    flags.push_back(std::move(flag));
  }
  return flags;
}

std::string Replace(std::string text, std::string_view from, std::string_view to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
  return text;
}

// Quotes a text as one word of a shell.
std::string Quoted(const std::string& text) {
  return fmt::format("'{}'", Replace(text, "'", "'\\''"));
}

std::vector<const CLI::App*> Commands(const CLI::App& program) {
  std::vector<const CLI::App*> commands;
  for (const CLI::App* command : program.get_subcommands({})) commands.push_back(command);
  return commands;
}

std::vector<std::string> CommandNames(const CLI::App& program) {
  std::vector<std::string> names;
  for (const CLI::App* command : Commands(program)) names.push_back(command->get_name());
  return names;
}

std::string BashScript(const CLI::App& program) {
  const std::vector<std::string> commands = CommandNames(program);
  std::string cases;
  for (const CLI::App* command : Commands(program)) {
    std::vector<std::string> words;
    cases += fmt::format("    {})\n      case $before in\n", command->get_name());
    for (const Flag& flag : FlagsOf(*command)) {
      words.insert(words.end(), flag.names.begin(), flag.names.end());
      if (flag.value == Value::kNone) continue;
      const std::string complete =
          flag.value == Value::kFile     ? "compopt -o filenames; mapfile -t COMPREPLY < "
                                           "<(compgen -f -- \"$word\"); return"
          : flag.value == Value::kFolder ? "compopt -o filenames; mapfile -t COMPREPLY < "
                                           "<(compgen -d -- \"$word\"); return"
          : flag.value == Value::kList
              ? fmt::format("words={} ;;", Quoted(fmt::format("{}", fmt::join(flag.list, " "))))
              : "return";
      cases += fmt::format("        {}) {}{}\n", fmt::join(flag.names, "|"), complete,
                           flag.value == Value::kList ? "" : " ;;");
    }
    const bool shells = command->get_name() == "completion";
    cases +=
        fmt::format("        *) words={} ;;\n      esac ;;\n",
                    shells ? "'bash zsh fish'" : Quoted(fmt::format("{}", fmt::join(words, " "))));
  }
  return fmt::format(
      "# Completion of rkv in bash: source <(rkv completion bash)\n"
      "_rkv() {{\n"
      "  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}\n"
      "  local command= words= i\n"
      "  COMPREPLY=()\n"
      "  for ((i = 1; i < COMP_CWORD; ++i)); do\n"
      "    case ${{COMP_WORDS[i]}} in\n"
      "      {}) command=${{COMP_WORDS[i]}}; break ;;\n"
      "    esac\n"
      "  done\n"
      "  case $command in\n"
      "    '') words='{} help --help --version' ;;\n"
      "{}"
      "  esac\n"
      "  mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$word\")\n"
      "}}\n"
      "complete -F _rkv rkv\n",
      fmt::join(commands, "|"), fmt::join(commands, " "), cases);
}

std::string ZshScript(const CLI::App& program) {
  const auto described = [](const std::string& text) {
    std::string escaped = text;
    for (const char* special : {"\\", "[", "]", ":"}) {
      escaped = Replace(escaped, special, std::string("\\") + special);
    }
    return escaped;
  };
  std::string commands;
  std::string cases;
  for (const CLI::App* command : Commands(program)) {
    commands += fmt::format("    {}\n", Quoted(fmt::format("{}:{}", command->get_name(),
                                                           described(command->get_description()))));
    cases += fmt::format("    {}) _arguments", command->get_name());
    for (const Flag& flag : FlagsOf(*command)) {
      const std::string action = flag.value == Value::kFile     ? ":file:_files"
                                 : flag.value == Value::kFolder ? ":folder:_files -/"
                                 : flag.value == Value::kList
                                     ? fmt::format(":value:({})", fmt::join(flag.list, " "))
                                 : flag.value == Value::kAny ? ":value: "
                                                             : "";
      for (const std::string& name : flag.names) {
        cases += fmt::format(" \\\n      {}",
                             Quoted(fmt::format("*{}[{}]{}", name, described(flag.help), action)));
      }
    }
    if (command->get_name() == "completion") cases += " \\\n      ':shell:(bash zsh fish)'";
    cases += " ;;\n";
  }
  return fmt::format(
      "#compdef rkv\n"
      "# Completion of rkv in zsh: source <(rkv completion zsh), after compinit\n"
      "_rkv() {{\n"
      "  local -a commands\n"
      "  commands=(\n{}  )\n"
      "  if (( CURRENT == 2 )); then\n"
      "    _describe command commands\n"
      "    return\n"
      "  fi\n"
      "  local command=$words[2]\n"
      "  shift words\n"
      "  (( CURRENT-- ))\n"
      "  case $command in\n{}  esac\n"
      "}}\n"
      "if [ \"$funcstack[1]\" = _rkv ]; then _rkv \"$@\"; else compdef _rkv rkv; fi\n",
      commands, cases);
}

std::string FishScript(const CLI::App& program) {
  const auto quoted = [](const std::string& text) {
    return fmt::format("'{}'", Replace(Replace(text, "\\", "\\\\"), "'", "\\'"));
  };
  std::string script = "# Completion of rkv in fish: rkv completion fish | source\n";
  for (const CLI::App* command : Commands(program)) {
    script += fmt::format("complete -c rkv -n __fish_use_subcommand -f -a {} -d {}\n",
                          command->get_name(), quoted(command->get_description()));
    for (const Flag& flag : FlagsOf(*command)) {
      script +=
          fmt::format("complete -c rkv -n '__fish_seen_subcommand_from {}'", command->get_name());
      for (const std::string& name : flag.names) {
        script += name.starts_with("--")
                      ? fmt::format(" -l {}", name.substr(2))
                      : fmt::format(" -{} {}", name.size() == 2 ? "s" : "o", name.substr(1));
      }
      if (flag.value == Value::kFile) script += " -r -F";
      if (flag.value == Value::kFolder) script += " -x -a '(__fish_complete_directories)'";
      if (flag.value == Value::kAny) script += " -x";
      if (flag.value == Value::kList) {
        script += fmt::format(" -x -a {}", quoted(fmt::format("{}", fmt::join(flag.list, " "))));
      }
      script += fmt::format(" -d {}\n", quoted(flag.help));
    }
  }
  return script +
         "complete -c rkv -n '__fish_seen_subcommand_from completion' -f -a 'bash zsh fish'\n";
}

}  // namespace

void AddCompletionCommand(CLI::App& program, int& exit_code) {
  CLI::App* command =
      program.add_subcommand("completion", "print a completion script for your shell");
  auto shell = std::make_shared<std::string>();
  command->add_option("shell", *shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}))
      ->type_name("SHELL");
  command->callback([shell, &program, &exit_code] {
    std::cout << (*shell == "bash"  ? BashScript(program)
                  : *shell == "zsh" ? ZshScript(program)
                                    : FishScript(program))
              << std::flush;
    exit_code = std::cout ? 0 : 1;
  });
}

}  // namespace rkv::app
