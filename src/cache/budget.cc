// The text form of a budget.
#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "base/strings.h"
#include "retentivekv/options.h"

namespace rkv {

namespace {

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

}  // namespace

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

}  // namespace rkv
