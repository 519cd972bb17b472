// The rows of a result: a measurement, and values computed from it and others of its regime.
#ifndef RETENTIVEKV_APPS_RKV_EVAL_ROWS_H_
#define RETENTIVEKV_APPS_RKV_EVAL_ROWS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "eval/measurement.h"

namespace rkv::app {

// The policy under evaluation, and the one that marks chance.
inline constexpr const char* kOurs = "retentive";
inline constexpr const char* kChance = "random";

// A smaller headroom means nothing: all differences between `random` and `full` are noise.
inline constexpr double kMinHeadroom = 0.05;

struct Row {
  const Configuration* configuration = nullptr;
  std::optional<Budget> budget;
  const Measurement* measurement = nullptr;
  Interval accuracy;
  Interval kl;
  double relative = 0;  // accuracy over that of `full`
  Interval minus_full;  // of the accuracy minus that of `full`
  // (accuracy - that of `random`) / (that of `full` - that of `random`), at the same budget.
  std::optional<double> headroom;
  std::optional<Interval> ours_minus;  // accuracy of `retentive` minus this one, at the same budget
};

// Refused measurements have only the first three members set. All intervals resample the same
// units.
std::vector<Row> RowsOf(const SuiteResult& result, const Regime& regime, uint64_t seed);

// The measurement of a label at a budget; null: there is none.
const Measurement* FindMeasurement(const SuiteResult& result, const Regime& regime,
                                   const std::string& label, const std::optional<Budget>& budget);

// The bars that a quick run has to reach: `full` at 0.9, and `retentive` above `random` at 20 %.
// Returns one sentence for each missed bar.
std::vector<std::string> MissedBars(const SuiteResult& result);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_EVAL_ROWS_H_
