// Text forms of the cache's options, single and together. Every text from ToString() is parsed to
// the same value.
#include "retentivekv/options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/strings.h"

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

constexpr std::string_view kTypeNames[kElementTypes] = {"f16", "bf16", "q8_0", "q4_0", "q4", "q42",
                                                        "q41", "q3",   "q31",  "q2",   "q1"};
constexpr std::string_view kSplitNames[] = {"uniform", "pooled", "auto"};

constexpr std::string_view kCompressionNames[] = {"streaming", "prompt"};

struct Suffix {
  std::string_view text;
  Budget::Unit unit;
  double factor;
};

constexpr Suffix kSuffixes[] = {
    {"%", Budget::Unit::kPercent, 1},
    {"t", Budget::Unit::kTokens, 1},
    {"KiB", Budget::Unit::kBytes, 1024.0},
    {"MiB", Budget::Unit::kBytes, 1024.0 * 1024},
    {"GiB", Budget::Unit::kBytes, 1024.0 * 1024 * 1024},
    {"B", Budget::Unit::kBytes, 1},
    {"KB", Budget::Unit::kBytes, 1e3},
    {"MB", Budget::Unit::kBytes, 1e6},
    {"GB", Budget::Unit::kBytes, 1e9},
};

template <typename T, size_t n>
Result<T> ParseName(std::string_view what, const std::string_view (&names)[n],
                    std::string_view text) {
  const auto found = std::ranges::find(names, ToLower(text));
  if (found != std::end(names)) return static_cast<T>(found - std::begin(names));
  return InvalidArgument(
      fmt::format("unknown {} '{}'; choose one of: {}", what, text, fmt::join(names, ", ")));
}

// The text of an option, empty for unset.
template <typename T>
std::string TextOf(const T& value) {
  return std::string(ToString(value));
}
template <typename T>
std::string TextOf(const std::optional<T>& value) {
  return value.has_value() ? TextOf(*value) : std::string();
}

}  // namespace

Result<PolicySpec> ParsePolicySpec(std::string_view text) { return ParseNamedSpec("policy", text); }

Result<AbsorbSpec> ParseAbsorbSpec(std::string_view text) {
  return ParseNamedSpec("absorber", text);
}

Result<ElementType> ParseElementType(std::string_view text) {
  return ParseName<ElementType>("cache type", kTypeNames, text);
}
std::string_view ToString(ElementType type) { return kTypeNames[static_cast<size_t>(type)]; }

Result<Rung> ParseRung(std::string_view text) {
  const size_t slash = text.find('/');
  Rung rung;
  RKV_ASSIGN_OR_RETURN(rung.k, ParseElementType(text.substr(0, slash)));
  rung.v = rung.k;
  if (slash == std::string_view::npos) return rung;
  RKV_ASSIGN_OR_RETURN(rung.v, ParseElementType(text.substr(slash + 1)));
  return rung;
}
std::string ToString(const Rung& rung) {
  if (rung.k == rung.v) return std::string(ToString(rung.k));
  return fmt::format("{}/{}", ToString(rung.k), ToString(rung.v));
}

Result<Ladder> ParseLadder(std::string_view text) {
  const std::string lower = ToLower(text);
  if (lower == "auto") return Ladder();
  if (lower == "none") text = "f16";
  Ladder ladder;
  while (true) {
    const size_t comma = text.find(',');
    RKV_ASSIGN_OR_RETURN(const Rung rung, ParseRung(text.substr(0, comma)));
    if (!ladder.rungs.empty()) {
      const Rung& last = ladder.rungs.back();
      if (rung == last || rung.k < last.k || rung.v < last.v) {
        return InvalidArgument(fmt::format(
            "in the ladder, {} comes after {}; list the types from the most precise down",
            ToString(rung), ToString(last)));
      }
    }
    ladder.rungs.push_back(rung);
    if (comma == std::string_view::npos) return ladder;
    text.remove_prefix(comma + 1);
  }
}
std::string ToString(const Ladder& ladder) {
  if (ladder.rungs.empty()) return "auto";
  std::string text;
  for (const Rung& rung : ladder.rungs) {
    text += fmt::format("{}{}", text.empty() ? "" : ",", ToString(rung));
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

Result<Budget> ParseBudget(std::string_view text) {
  const auto refuse = [text](std::string_view why) {
    return InvalidArgument(fmt::format(
        "budget '{}' {}; write 20% (share kept), 512t (tokens) or 64MiB (bytes; KiB and GiB too)",
        text, why));
  };
  double amount = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), amount);
  if (error != std::errc() || !std::isfinite(amount)) return refuse("is not a number with a unit");
  const std::string_view suffix = TrimSpace(text.substr(static_cast<size_t>(end - text.data())));
  if (amount <= 0) return refuse("is not positive");
  if (suffix.empty()) return refuse("has no unit");
  for (const Suffix& known : kSuffixes) {
    if (ToLower(known.text) != ToLower(suffix)) continue;
    if (known.unit == Budget::Unit::kPercent && amount > 100) return refuse("is over 100 %");
    return Budget{.unit = known.unit, .amount = amount * known.factor};
  }
  return refuse(fmt::format("has the unknown unit '{}'", suffix));
}

std::string ToString(const Budget& budget) {
  switch (budget.unit) {
    case Budget::Unit::kPercent:
      return fmt::format("{}%", budget.amount);
    case Budget::Unit::kTokens:
      return fmt::format("{}t", budget.amount);
    case Budget::Unit::kBytes:
      break;
  }
  for (const Suffix& suffix : {kSuffixes[4], kSuffixes[3], kSuffixes[2]}) {
    const double amount = budget.amount / suffix.factor;
    if (amount >= 1 && amount == std::floor(amount))
      return fmt::format("{}{}", amount, suffix.text);
  }
  return fmt::format("{}B", budget.amount);
}

std::vector<OptionText> OptionTexts(const CacheOptions& options) {
  std::vector<OptionText> texts;
  ForEachOption(options, [&texts](const auto& option, const auto& value) {
    texts.push_back({.name = option.name, .label = option.label, .text = TextOf(value)});
  });
  return texts;
}

std::string ToString(const CacheOptions& options) {
  const std::vector<OptionText> defaults = OptionTexts({});
  std::string all;
  for (const OptionText& option : OptionTexts(options)) {
    if (std::ranges::find(defaults, option) != defaults.end()) continue;
    all += fmt::format("{}{}={}", all.empty() ? "" : " ", option.name, option.text);
  }
  return all;
}

Result<CacheOptions> ParseCacheOptions(const OptionTextMap& texts) {
  CacheOptions options;
  Status status = OkStatus();
  size_t n_known = 0;
  ForEachOption(options, [&](const auto& option, auto& value) {
    const auto text = texts.find(option.name);
    if (text == texts.end()) return;
    ++n_known;
    if (text->second.empty() || !status.ok()) return;
    auto parsed = option.parse(text->second);
    if (parsed.ok()) {
      value = *std::move(parsed);
    } else {
      status = parsed.status();
    }
  });
  if (!status.ok()) return status;
  if (n_known == texts.size()) return options;
  std::vector<std::string_view> names;
  for (const OptionText& option : OptionTexts({})) names.push_back(option.name);
  for (const auto& [name, text] : texts) {
    if (std::ranges::find(names, name) != names.end()) continue;
    return InvalidArgument(fmt::format("the cache has no option '{}'; its options are: {}", name,
                                       fmt::join(names, ", ")));
  }
  return options;
}

}  // namespace rkv
