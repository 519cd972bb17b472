// What a user can choose about the cache: a policy and a budget.
#ifndef RETENTIVEKV_OPTIONS_H_
#define RETENTIVEKV_OPTIONS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "retentivekv/status.h"

namespace rkv {

// How much may be held for a conversation, counting every byte: exact tokens, indices, slack.
// Percent is the share that is KEPT of what a full f16 cache of the tokens seen so far would take.
struct Budget {
  enum class Unit { kPercent, kTokens, kBytes };
  Unit unit = Unit::kPercent;
  double amount = 100.0;

  bool unlimited() const { return unit == Unit::kPercent && amount >= 100.0; }
};

// "20%" (kept), "512t" (the bytes of so many tokens of full cache), "64MiB" (also KiB, GiB, B).
// A bare number is refused: half of the field reads 0.2 as kept and half as removed.
Result<Budget> ParseBudget(std::string_view text);
std::string ToString(const Budget& budget);

// A policy by name, with options where they differ from its defaults.
struct PolicySpec {
  std::string name = "full";
  std::vector<std::pair<std::string, double>> options;
};

// "streaming" or "streaming:sinks=8". Names and options are checked when the policy is made.
Result<PolicySpec> ParsePolicySpec(std::string_view text);
std::string ToString(const PolicySpec& spec);

struct MemoryOptions {
  PolicySpec policy;
  Budget budget;
};

// What a user sees in a list of policies; generated from the registry.
struct PolicyDescription {
  struct Option {
    std::string name;
    double default_value = 0;
    std::string help;
  };
  std::string name;
  std::string summary;
  bool evicts = false;  // false: keeps everything and cannot meet a budget
  std::vector<Option> options;
};
std::vector<PolicyDescription> DescribePolicies();

}  // namespace rkv

#endif  // RETENTIVEKV_OPTIONS_H_
