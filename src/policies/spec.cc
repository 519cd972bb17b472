// The text forms of what a user chooses: NAME[:option=value,...], element types, ladders, splits.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>

#include "base/strings.h"
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
  return InvalidArgument(
      fmt::format("option '{}' is not name=number; write for example streaming:sinks=4", text));
}

// Names are in lower case; "H2O" can only mean h2o.
Result<NamedSpec> ParseNamedSpec(std::string_view what, std::string_view as_written) {
  NamedSpec spec;
  const std::string lower = ToLower(as_written);
  const std::string_view text = lower;
  const size_t colon = text.find(':');
  spec.name = std::string(text.substr(0, colon));
  if (spec.name.empty()) return InvalidArgument(fmt::format("the {} has no name", what));
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

constexpr std::string_view kTypeNames[kElementTypes] = {"f16", "bf16", "q8_0", "q4_0", "q2"};
constexpr std::string_view kSplitNames[] = {"uniform", "pooled", "auto"};

constexpr std::string_view kCompressionNames[] = {"streaming", "prompt"};

template <typename T, size_t n>
Result<T> ParseName(std::string_view what, const std::string_view (&names)[n],
                    std::string_view text) {
  const auto found = std::ranges::find(names, ToLower(text));
  if (found != std::end(names)) return static_cast<T>(found - std::begin(names));
  return InvalidArgument(
      fmt::format("unknown {} '{}'; there are: {}", what, text, fmt::join(names, ", ")));
}

}  // namespace

Result<PolicySpec> ParsePolicySpec(std::string_view text) { return ParseNamedSpec("policy", text); }
PolicySpec ChosenPolicy(const CacheOptions& options) {
  if (!options.policy.name.empty()) return options.policy;
  return {.name = options.budget.unlimited() ? "full" : "retentive", .options = {}};
}

Result<AbsorbSpec> ParseAbsorbSpec(std::string_view text) {
  return ParseNamedSpec("absorber", text);
}

Result<ElementType> ParseElementType(std::string_view text) {
  return ParseName<ElementType>("cache type", kTypeNames, text);
}
std::string_view ToString(ElementType type) { return kTypeNames[static_cast<size_t>(type)]; }

Result<Ladder> ParseLadder(std::string_view text) {
  if (ToLower(text) == "auto") {
    return Ladder{{ElementType::kF16, ElementType::kQ8_0, ElementType::kQ4_0, ElementType::kQ2}};
  }
  if (ToLower(text) == "none") return Ladder{{ElementType::kF16}};
  Ladder ladder;
  while (true) {
    const size_t comma = text.find(',');
    RKV_ASSIGN_OR_RETURN(const ElementType type, ParseElementType(text.substr(0, comma)));
    if (!ladder.rungs.empty() && type <= ladder.rungs.back()) {
      return InvalidArgument(fmt::format(
          "in the ladder, {} comes after {}; write the types from the most precise down",
          ToString(type), ToString(ladder.rungs.back())));
    }
    ladder.rungs.push_back(type);
    if (comma == std::string_view::npos) return ladder;
    text.remove_prefix(comma + 1);
  }
}
std::string ToString(const Ladder& ladder) {
  std::string text;
  for (const ElementType type : ladder.rungs) {
    text += fmt::format("{}{}", text.empty() ? "" : ",", ToString(type));
  }
  return text;
}

Result<Split> ParseSplit(std::string_view text) {
  return ParseName<Split>("split", kSplitNames, text);
}
std::string_view ToString(Split split) { return kSplitNames[static_cast<size_t>(split)]; }

Result<Compression> ParseCompression(std::string_view text) {
  return ParseName<Compression>("time of compression", kCompressionNames, text);
}
std::string_view ToString(Compression compression) {
  return kCompressionNames[static_cast<size_t>(compression)];
}

std::string ToString(const NamedSpec& spec) {
  std::string text = spec.name;
  char separator = ':';
  for (const auto& [name, value] : spec.options) {
    text += fmt::format("{}{}={}", separator, name, value);
    separator = ',';
  }
  return text;
}

}  // namespace rkv
