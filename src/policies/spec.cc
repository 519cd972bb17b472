// The text form of a policy: NAME[:option=value,...].
#include <fmt/format.h>

#include <charconv>

#include "retentivekv/options.h"

namespace rkv {

namespace {

Result<std::pair<std::string, double>> ParseOption(std::string_view text) {
  const size_t equals = text.find('=');
  double value = 0;
  if (equals != std::string_view::npos && equals > 0) {
    const std::string_view number = text.substr(equals + 1);
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), value);
    if (error == std::errc() && end == number.data() + number.size()) {
      return std::pair(std::string(text.substr(0, equals)), value);
    }
  }
  return InvalidArgument(fmt::format(
      "policy option '{}' is not name=number; write for example streaming:sinks=4", text));
}

}  // namespace

Result<PolicySpec> ParsePolicySpec(std::string_view text) {
  PolicySpec spec;
  const size_t colon = text.find(':');
  spec.name = std::string(text.substr(0, colon));
  if (spec.name.empty()) return InvalidArgument("the policy has no name");
  if (colon == std::string_view::npos) return spec;
  std::string_view rest = text.substr(colon + 1);
  while (true) {
    const size_t comma = rest.find(',');
    RKV_ASSIGN_OR_RETURN(auto option, ParseOption(rest.substr(0, comma)));
    spec.options.push_back(std::move(option));
    if (comma == std::string_view::npos) return spec;
    rest.remove_prefix(comma + 1);
  }
}

std::string ToString(const PolicySpec& spec) {
  std::string text = spec.name;
  char separator = ':';
  for (const auto& [name, value] : spec.options) {
    text += fmt::format("{}{}={}", separator, name, value);
    separator = ',';
  }
  return text;
}

}  // namespace rkv
