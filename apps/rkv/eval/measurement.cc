#include "eval/measurement.h"

#include <fmt/format.h>

#include <algorithm>

namespace rkv::app {

void Measurement::AddStats(const MemoryStats& stats) {
  held_bytes = std::max(held_bytes, stats.held_bytes);
  kept = std::max(kept, stats.kept());
}

std::vector<std::optional<Budget>> BudgetsOf(const Configuration& configuration,
                                             const std::vector<Budget>& budgets) {
  if (!configuration.takes_budget) return {std::nullopt};
  return {budgets.begin(), budgets.end()};
}

std::string NameOf(const Configuration& configuration, const std::optional<Budget>& budget) {
  if (!budget.has_value()) return configuration.label;
  return fmt::format("{} {}", configuration.label, ToString(*budget));
}

MemoryOptions WithBudget(const MemoryOptions& options, const std::optional<Budget>& budget) {
  MemoryOptions result = options;
  if (budget.has_value()) result.budget = *budget;
  return result;
}

size_t CountCells(const std::vector<Configuration>& configurations,
                  const std::vector<Budget>& budgets) {
  size_t n = 0;
  for (const Configuration& configuration : configurations) {
    n += BudgetsOf(configuration, budgets).size();
  }
  return n;
}

}  // namespace rkv::app
