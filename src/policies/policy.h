// A policy decides which exact tokens go when the budget is short, by scoring them. Selecting and
// evicting are shared and live in cache/. One policy is one file here and one line in registry.cc.
#ifndef RETENTIVEKV_POLICIES_POLICY_H_
#define RETENTIVEKV_POLICIES_POLICY_H_

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string_view>

#include "retentivekv/options.h"
#include "retentivekv/status.h"

namespace rkv {

// The tokens of one KV head that are up for eviction.
struct ScoreContext {
  std::span<const uint32_t> token_index;  // [n] place of each token in the conversation
  uint64_t tokens_seen = 0;               // length of the conversation so far
};

// Never evicted, whatever the budget.
inline constexpr float kAlwaysKeep = std::numeric_limits<float>::infinity();

// Stateless and thread-safe.
class Policy {
 public:
  virtual ~Policy() = default;

  // Higher is kept longer. REQUIRES: scores.size() == context.token_index.size().
  virtual void Score(const ScoreContext& context, std::span<float> scores) const = 0;

  // The fewest tokens a KV head must be allowed to hold for this policy to make sense.
  virtual size_t min_tokens() const = 0;
};

struct PolicyOption {
  std::string_view name;
  double default_value;
  double min;
  double max;
  std::string_view help;
};

struct PolicyInfo {
  std::string_view name;
  std::string_view summary;
  bool evicts;
  std::span<const PolicyOption> options;
  // `values` has one entry per option, in the order of `options`.
  std::unique_ptr<Policy> (*create)(std::span<const double> values);
};

// All policies, in the order in which users see them.
std::span<const PolicyInfo* const> Policies();

// The description of the policy a spec names; kInvalidArgument with the possible names.
Result<const PolicyInfo*> FindPolicy(std::string_view name);

// The policy itself; kInvalidArgument for unknown options and values out of range.
Result<std::unique_ptr<Policy>> MakePolicy(const PolicySpec& spec);

}  // namespace rkv

#endif  // RETENTIVEKV_POLICIES_POLICY_H_
