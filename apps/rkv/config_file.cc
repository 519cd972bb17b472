// Reads flags from INI files. Precedence: the command line, the environment, a preset, the
// command's section, the general section.
#include "config_file.h"

#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <utility>

#include "flags.h"
#include "refused_flags.h"

namespace rkv::app {

namespace {

constexpr const char* kPresets = "preset";  // [preset.NAME]

std::string Environment(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? "" : text;
}

// The value of a flag among arguments in reverse order; empty if it is absent.
std::string ValueOf(const std::string& flag, const std::vector<std::string>& arguments) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] == flag && i > 0) return arguments[i - 1];
    if (arguments[i].starts_with(flag + "=")) return arguments[i].substr(flag.size() + 1);
  }
  return Environment(EnvironmentName(flag).c_str());
}

CLI::Option* FindOption(const CLI::App& command, const std::string& name) {
  for (const std::string& written : {"--" + name, "-" + name}) {
    if (const CLI::Option* option = command.get_option_no_throw(written); option != nullptr) {
      return const_cast<CLI::Option*>(option);
    }
  }
  return nullptr;
}

// CLI11's reader of INI files, limited to the settings of the running command. They are in order of
// precedence, since CLI11 takes the first value of a flag.
class ConfigReader : public CLI::ConfigBase {
 public:
  ConfigReader(const CLI::App& program, std::string path, std::string preset)
      : program_(program), path_(std::move(path)), preset_(std::move(preset)) {}

  std::vector<CLI::ConfigItem> from_config(std::istream& input) const override {
    std::vector<CLI::ConfigItem> items[kRanks];
    const std::vector<CLI::App*> running = program_.get_subcommands();
    if (running.empty()) return {};
    const CLI::App& command = *running.front();
    bool preset_found = preset_.empty();
    for (CLI::ConfigItem& item : CLI::ConfigBase::from_config(input)) {
      const Rank rank = RankOf(item, command);
      preset_found |= rank == kPreset;
      if (rank != kRanks) Add(command, item, items[rank]);
    }
    if (!preset_found) {
      throw CLI::ConfigError(fmt::format("{}: there is no section [preset.{}]", path_, preset_));
    }
    std::vector<CLI::ConfigItem> all;
    for (auto& part : items) {
      for (CLI::ConfigItem& item : part) all.push_back(std::move(item));
    }
    return all;
  }

 private:
  // Precedence of settings. kRanks: settings of other commands and presets.
  enum Rank { kPreset, kCommand, kAll, kRanks };

  // The rank of the item's section. Throws for a setting that the section's command does not have.
  Rank RankOf(const CLI::ConfigItem& item, const CLI::App& command) const {
    const std::vector<std::string>& section = item.parents;
    const bool is_setting =
        item.name != "++" && item.name != "--";  // CLI11 opens and closes sections with these.
    if (section.empty()) {
      if (is_setting) CheckKnown(item, nullptr);
      return kAll;
    }
    if (section.size() == 2 && section[0] == kPresets) {
      if (is_setting) CheckKnown(item, nullptr);
      return section[1] == preset_ ? kPreset : kRanks;
    }
    if (section.size() > 1) {
      if (!is_setting) return kRanks;
      Refuse(item, "is in a nested section; only [COMMAND] and [preset.NAME] are possible");
    }
    if (section[0] == kPresets) {
      if (!is_setting) return kRanks;
      Refuse(item, "belongs to no preset: write [preset.NAME]");
    }
    const CLI::App* named = FindCommand(program_, section[0]);
    if (named == nullptr) {
      throw CLI::ConfigError(fmt::format("{}: there is no command '{}' for the section [{}]", path_,
                                         section[0], section[0]));
    }
    if (is_setting) CheckKnown(item, named);
    return named == &command ? kCommand : kRanks;
  }

  [[noreturn]] void Refuse(const CLI::ConfigItem& item, const std::string& why) const {
    throw CLI::ConfigError(fmt::format("{}: '{}' {}", path_, item.name, why));
  }

  // Refuses a flag that the command, or every command if null, lacks.
  void CheckKnown(const CLI::ConfigItem& item, const CLI::App* of) const {
    std::vector<std::string> names;
    for (const CLI::App* command : program_.get_subcommands({})) {
      if (of != nullptr && command != of) continue;
      if (FindOption(*command, item.name) != nullptr) return;
      for (const CLI::Option* option : command->get_options()) {
        for (const std::string& name : option->get_lnames()) names.push_back(name);
      }
    }
    const std::string nearest = NearestName(item.name, names);
    Refuse(item, nearest.empty()
                     ? "is not the name of a flag"
                     : fmt::format("is not the name of a flag; did you mean '{}'?", nearest));
  }

  void Add(const CLI::App& command, CLI::ConfigItem& item,
           std::vector<CLI::ConfigItem>& items) const {
    CLI::Option* option = FindOption(command, item.name);
    if (option == nullptr || !option->get_configurable()) return;
    // CLI11 would prefer the file to the environment.
    if (!Environment(option->get_envname().c_str()).empty()) return;
    const bool several = option->get_multi_option_policy() == CLI::MultiOptionPolicy::TakeAll ||
                         option->get_items_expected_max() > 1;
    if (item.inputs.size() > 1 && !several) {
      Refuse(item, "has several values; put a value with commas or spaces in quotation marks");
    }
    item.parents = {command.get_name()};
    items.push_back(std::move(item));
  }

  const CLI::App& program_;
  std::string path_;
  std::string preset_;
};

}  // namespace

void AddConfigFlags(CLI::App& program) {
  for (CLI::App* command : program.get_subcommands({})) {
    // These flags are read before the others: UseConfigFile().
    command->add_option("--config", "config file with flags; default: ~/.config/rkv/config.ini")
        ->configurable(false)
        ->envname("RKV_CONFIG")
        ->type_name("FILE");
    command
        ->add_option("--preset",
                     "section [preset.NAME] of the config file; it overrides the other sections")
        ->configurable(false)
        ->envname("RKV_PRESET")
        ->type_name("NAME");
  }
}

std::string DefaultConfigPath() {
  std::string folder = Environment("XDG_CONFIG_HOME");
  if (folder.empty()) {
    const std::string home = Environment("HOME");
    if (home.empty()) return {};
    folder = home + "/.config";
  }
  return folder + "/rkv/config.ini";
}

Status UseConfigFile(CLI::App& program, const std::vector<std::string>& arguments) {
  std::error_code error;
  std::string path = ValueOf("--config", arguments);
  const std::string preset = ValueOf("--preset", arguments);
  const bool named = !path.empty();
  if (!named) path = DefaultConfigPath();
  if (!std::filesystem::is_regular_file(path, error)) {
    if (named) return BadFile(fmt::format("cannot read the config file '{}'", path));
    if (preset.empty()) return OkStatus();
    return BadFile(fmt::format(
        "there is no config file for the preset '{}': pass one with --config, or create '{}'",
        preset, path));
  }
  program.set_config("--config", path, "config file", true)->group("");
  program.config_formatter(std::make_shared<ConfigReader>(program, path, preset));
  return OkStatus();
}

}  // namespace rkv::app
