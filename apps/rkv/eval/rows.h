// A measurement with what is computed from it and from others of its regime.
#ifndef RETENTIVEKV_APPS_RKV_EVAL_ROWS_H_
#define RETENTIVEKV_APPS_RKV_EVAL_ROWS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "eval/measurement.h"

namespace rkv::app {

// The policy that others are compared with, and the one that says what is worth nothing.
inline constexpr const char* kOurs = "retentive";
inline constexpr const char* kChance = "random";

// Headroom below this says nothing: everything between `random` and `full` is noise.
inline constexpr double kMinHeadroom = 0.05;

struct Row {
  const Configuration* configuration = nullptr;
  std::optional<Budget> budget;
  const Measurement* measurement = nullptr;
  Interval accuracy;
  Interval kl;
  double relative = 0;  // accuracy over that of `full`
  Interval minus_full;  // of accuracy minus that of `full`
  // (accuracy - that of `random`) / (that of `full` - that of `random`), at the same budget.
  std::optional<double> headroom;
  std::optional<Interval> ours_minus;  // of the accuracy of `retentive` minus this one's, likewise
};

// Without what is refused: those have no more than the first three members. Intervals draw the same
// units for all.
std::vector<Row> RowsOf(const SuiteResult& result, const Regime& regime, uint64_t seed);

// The measurement of a label at a budget; null: there is none.
const Measurement* FindMeasurement(const SuiteResult& result, const Regime& regime,
                                   const std::string& label, const std::optional<Budget>& budget);

// Loose bars that a quick run has to reach: `full` at 0.9, and `retentive` above `random` at 20 %.
// What is missed, as one sentence each.
std::vector<std::string> MissedBars(const SuiteResult& result);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_EVAL_ROWS_H_
