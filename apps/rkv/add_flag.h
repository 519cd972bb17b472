// Helpers that register a flag with its environment variable, and with a parser if its text is not
// the value.
#ifndef RETENTIVEKV_APPS_RKV_ADD_FLAG_H_
#define RETENTIVEKV_APPS_RKV_ADD_FLAG_H_

#include <CLI/CLI.hpp>
#include <charconv>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "flags.h"

namespace rkv::app {

template <typename T>
CLI::Option* AddFlag(CLI::App& command, const std::string& names, T& value,
                     const std::string& help) {
  const std::string long_name = names.substr(names.rfind("--"));
  return command.add_option(names, value, help)->envname(EnvironmentName(long_name));
}

// A flag whose text `parse` reads; `parse` returns a Status.
template <typename Parse>
CLI::Option* AddParsed(CLI::App& command, const std::string& names, const Parse& parse,
                       const std::string& help) {
  const std::string long_name = names.substr(names.rfind("--"));
  const auto read = [parse, long_name](const std::string& text) {
    const Status status = parse(text);
    if (!status.ok()) throw CLI::ValidationError(long_name, status.message());
  };
  return command.add_option_function<std::string>(names, read, help)
      ->envname(EnvironmentName(long_name));
}

// The same for a repeatable flag that also takes several values between commas.
template <typename Parse>
CLI::Option* AddParsedList(CLI::App& command, const std::string& names, const Parse& parse,
                           const std::string& help) {
  const std::string name = names.substr(names.rfind("--"));
  const auto read = [parse, name](const std::vector<std::string>& texts) {
    for (const std::string& text : texts) {
      const Status status = parse(text);
      if (!status.ok()) throw CLI::ValidationError(name, status.message());
    }
  };
  return Repeatable(command.add_option_function<std::vector<std::string>>(names, read, help)
                        ->envname(EnvironmentName(name))
                        ->delimiter(','));
}

// A switch, named by its effect.
inline CLI::Option* AddSwitch(CLI::App& command, const std::string& name,
                              const std::function<void()>& turn, const std::string& help) {
  return command.add_flag_callback(name, turn, help)->envname(EnvironmentName(name));
}

template <typename T>
bool ParseWhole(std::string_view text, T& number, int base = 10) {
  const char* const end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, number, base);
  return error == std::errc() && at == end;
}

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_ADD_FLAG_H_
