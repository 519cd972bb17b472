// The results of a suite: one measurement for each regime, configuration and budget.
#ifndef RETENTIVEKV_APPS_RKV_EVAL_MEASUREMENT_H_
#define RETENTIVEKV_APPS_RKV_EVAL_MEASUREMENT_H_

#include <functional>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "eval/configurations.h"
#include "eval/statistics.h"
#include "retentivekv/engine.h"

namespace rkv::app {

// Right answers among the measured ones.
struct Tally {
  double right = 0;
  double n = 0;

  double value() const { return n == 0 ? 0 : right / n; }
};

struct Measurement {
  std::string refused;      // the reason, if it was not measured
  Ratio accuracy;           // right answers, or places with the same likeliest token as `full`
  Ratio kl;                 // KL(full || this) of the next token, in nats
  Ratio missed;             // share of the attention of `full` on tokens evicted here
  uint64_t held_bytes = 0;  // maximum after any turn
  double kept = 0;          // held_bytes over those of a full f16 cache, maximum after any turn
  double seconds = 0;
  // Accuracy by the number of the question in its conversation, by family, and by seed.
  std::vector<Tally> by_question;
  std::map<std::string, Tally> by_family;
  std::map<std::string, Tally> by_seed;

  void AddStats(const CacheStats& stats);
  // Adds the measurement of further conversations.
  void Add(const Measurement& part);
};

nlohmann::ordered_json ToJson(const Measurement& measurement);
// Throws nlohmann::json::exception for JSON that ToJson() did not make.
Measurement MeasurementFromJson(const nlohmann::ordered_json& json);

// Attention of an answer, [head][token].
using HeadShares = std::vector<std::vector<float>>;
HeadShares SharesOf(const Inspection& inspection);

// The share of the attention of `full` on tokens that are on no rung here; the mean over heads.
double MissedShare(const HeadShares& full, const Inspection& inspection);

struct Regime {
  std::string name;
  std::string description;
  // [configuration][budget]; a configuration without a budget has one cell.
  std::vector<std::vector<Measurement>> cells;
};

struct SuiteResult {
  std::string accuracy_name;  // meaning of Measurement::accuracy
  std::string unit_name;      // unit that the bootstrap resamples
  std::vector<Configuration> configurations;
  std::vector<Budget> budgets;
  std::vector<Regime> regimes;
};

// Reports progress: the current measurement, and the finished share of the suite, 0 to 1.
using EvalProgress = std::function<void(std::string_view what, double fraction)>;

// The budgets of a configuration: all, or none.
std::vector<std::optional<Budget>> BudgetsOf(const Configuration& configuration,
                                             const std::vector<Budget>& budgets);

// "h2o 20%"
std::string NameOf(const Configuration& configuration, const std::optional<Budget>& budget);

// The options with the budget set.
CacheOptions WithBudget(const CacheOptions& options, const std::optional<Budget>& budget);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_EVAL_MEASUREMENT_H_
