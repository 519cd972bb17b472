#include "base/spec_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace rkv {

Result<std::vector<double>> SpecValues(std::string_view what, std::span<const SpecOption> options,
                                       std::span<const std::pair<std::string, double>> chosen) {
  std::vector<double> values;
  for (const SpecOption& option : options) values.push_back(option.default_value);
  for (const auto& [name, value] : chosen) {
    const auto option = std::ranges::find(options, name, &SpecOption::name);
    if (option == options.end()) {
      return InvalidArgument(fmt::format("{} has no option '{}'; its options are: {}", what, name,
                                         JoinNames(options)));
    }
    if (std::ranges::count(chosen, name, &std::pair<std::string, double>::first) > 1) {
      return InvalidArgument(fmt::format("option '{}' of {} is given twice", name, what));
    }
    if (option->whole && value != std::floor(value)) {
      return InvalidArgument(
          fmt::format("option '{}' of {} is {}; it must be a whole number", name, what, value));
    }
    if (!(value >= option->min && value <= option->max)) {
      return InvalidArgument(fmt::format("option '{}' of {} is {}; it must be {} to {}", name, what,
                                         value, option->min, option->max));
    }
    values[static_cast<size_t>(option - options.begin())] = value;
  }
  return values;
}

PolicyDescription::Option Describe(const SpecOption& option) {
  return {.name = std::string(option.name),
          .default_value = option.default_value,
          .help = std::string(option.help)};
}

}  // namespace rkv
