#include "eval/rows.h"

#include <fmt/format.h>

namespace rkv::app {

namespace {

constexpr double kFullBar = 0.9;
constexpr Budget kBarBudget = {.unit = Budget::Unit::kPercent, .amount = 20};

std::optional<double> Headroom(const Measurement& measurement, const Measurement& full,
                               const Measurement* chance) {
  if (chance == nullptr) return std::nullopt;
  const double room = full.accuracy.value() - chance->accuracy.value();
  if (room < kMinHeadroom) return std::nullopt;
  return (measurement.accuracy.value() - chance->accuracy.value()) / room;
}

}  // namespace

const Measurement* FindMeasurement(const SuiteResult& result, const Regime& regime,
                                   const std::string& label, const std::optional<Budget>& budget) {
  for (size_t c = 0; c < result.configurations.size(); ++c) {
    if (result.configurations[c].label != label) continue;
    const auto budgets = BudgetsOf(result.configurations[c], result.budgets);
    for (size_t b = 0; b < budgets.size(); ++b) {
      const bool same = budgets[b].has_value() == budget.has_value() &&
                        (!budget.has_value() || ToString(*budgets[b]) == ToString(*budget));
      const Measurement& found = regime.cells[c][b];
      if (same && found.refused.empty()) return &found;
    }
  }
  return nullptr;
}

std::vector<Row> RowsOf(const SuiteResult& result, const Regime& regime, uint64_t seed) {
  std::vector<Row> rows;
  const Measurement& full = regime.cells.front().front();
  for (size_t c = 0; c < result.configurations.size(); ++c) {
    const Configuration& configuration = result.configurations[c];
    const auto budgets = BudgetsOf(configuration, result.budgets);
    for (size_t b = 0; b < budgets.size(); ++b) {
      const Measurement& measurement = regime.cells[c][b];
      Row& row = rows.emplace_back();
      row.configuration = &configuration;
      row.budget = budgets[b];
      row.measurement = &measurement;
      if (!measurement.refused.empty()) continue;
      row.accuracy = BootstrapInterval(measurement.accuracy, seed);
      row.kl = BootstrapInterval(measurement.kl, seed);
      row.minus_full = BootstrapDifference(measurement.accuracy, full.accuracy, seed);
      const double best = full.accuracy.value();
      row.relative = best == 0 ? 0 : measurement.accuracy.value() / best;
      if (!row.budget.has_value()) continue;
      row.headroom =
          Headroom(measurement, full, FindMeasurement(result, regime, kChance, row.budget));
      const Measurement* ours = FindMeasurement(result, regime, kOurs, row.budget);
      if (ours != nullptr && ours != &measurement) {
        row.ours_minus = BootstrapDifference(ours->accuracy, measurement.accuracy, seed);
      }
    }
  }
  return rows;
}

std::vector<std::string> MissedBars(const SuiteResult& result) {
  std::vector<std::string> missed;
  for (const Regime& regime : result.regimes) {
    const double full = regime.cells.front().front().accuracy.value();
    if (full < kFullBar) {
      missed.push_back(fmt::format("in '{}', full has {:.3f} of {}; expected at least {}",
                                   regime.name, full, result.accuracy_name, kFullBar));
    }
    const Measurement* ours = FindMeasurement(result, regime, kOurs, kBarBudget);
    const Measurement* chance = FindMeasurement(result, regime, kChance, kBarBudget);
    if (ours == nullptr || chance == nullptr) continue;
    if (ours->accuracy.value() <= chance->accuracy.value()) {
      missed.push_back(
          fmt::format("in '{}', {} at {} has {:.3f} of {}; expected more than the {:.3f} of {}",
                      regime.name, kOurs, ToString(kBarBudget), ours->accuracy.value(),
                      result.accuracy_name, chance->accuracy.value(), kChance));
    }
  }
  return missed;
}

}  // namespace rkv::app
