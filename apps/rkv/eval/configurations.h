// The configurations that `rkv eval` compares: the rows of its tables.
#ifndef RETENTIVEKV_APPS_RKV_EVAL_CONFIGURATIONS_H_
#define RETENTIVEKV_APPS_RKV_EVAL_CONFIGURATIONS_H_

#include <string>
#include <string_view>
#include <vector>

#include "retentivekv/options.h"
#include "retentivekv/status.h"

namespace rkv::app {

// As in the policies' papers.
inline constexpr Compression kEvalCompression = Compression::kPrompt;

// Stock llama.cpp with its own full cache. Its distance from `full` is that of two ways to compute
// the same: the floor of noise.
enum class Stock { kNo, kFlashAttention, kNoFlashAttention };

struct Configuration {
  std::string label;
  CacheOptions options;       // without the budget
  bool takes_budget = false;  // false: measured once
  bool control = false;
  Stock stock = Stock::kNo;  // not kNo: `options` is not used
};

// Parses a list of policies such as "h2o,snapkv:window=4,sinks=2,tova". An item with a '=' and no
// ':' is a further option of the policy before it. "all" stands for every policy.
Result<std::vector<PolicySpec>> ParsePolicyList(const std::vector<std::string>& lists);

// Parses a list of budgets such as "50%,20%,64t".
Result<std::vector<Budget>> ParseBudgetList(std::string_view list);

// " | ladder f16" for each option, beside policy and budget, that differs from the evaluation's
// default. `separator` comes before each.
std::string UnusualOptions(const CacheOptions& options, bool takes_budget,
                           std::string_view separator);

struct ConfigurationChoices {
  std::vector<PolicySpec> policies;
  // For every policy that evicts; its policy and budget are ignored.
  CacheOptions cache = {.compression = kEvalCompression};
  bool controls = false;
  // Quantised full caches and stock llama.cpp. The controls have quantised caches too.
  bool plain = false;
  // Default options of policies that evict.
  std::vector<std::pair<std::string, double>> defaults;
};

// Policy "full" first, then the policies, plain caches and controls. kInvalidArgument for unknown
// policies and options.
Result<std::vector<Configuration>> MakeConfigurations(const ConfigurationChoices& choices);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_EVAL_CONFIGURATIONS_H_
