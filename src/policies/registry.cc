#include <fmt/format.h>

#include "policies/policy.h"

// The registry: one line per policy. Command-line help, documentation and the test matrix follow.
#define RKV_POLICIES(X)       \
  X(kFullPolicy)              \
  X(kRetentivePolicy)         \
  X(kStreamingPolicy)         \
  X(kRandomPolicy)            \
  X(kH2oPolicy)               \
  X(kTovaPolicy)              \
  X(kSnapKvPolicy)            \
  X(kKnormPolicy)             \
  X(kKeyDiffPolicy)           \
  X(kExpectedAttentionPolicy) \
  X(kLookMPolicy)             \
  X(kTgvPolicy)               \
  X(kPaperPolicy)

namespace rkv {

#define RKV_DECLARE(policy) extern const PolicyInfo policy;
RKV_POLICIES(RKV_DECLARE)
#undef RKV_DECLARE

namespace {

#define RKV_ADDRESS(policy) &policy,
constexpr const PolicyInfo* kPolicies[] = {RKV_POLICIES(RKV_ADDRESS)};
#undef RKV_ADDRESS

constexpr SpecOption kCommonOptions[] = {
    {.name = "sinks",
     .default_value = 4,
     .min = 0,
     .max = 1 << 20,
     .help = "first tokens of the conversation that are always kept",
     .whole = true},
    {.name = "window",
     .default_value = 16,
     .min = 1,
     .max = 1 << 20,
     .help = "most recent tokens, which are always kept",
     .whole = true},
};

}  // namespace

std::span<const PolicyInfo* const> Policies() { return kPolicies; }

Result<const PolicyInfo*> FindPolicy(std::string_view name) {
  std::string names;
  for (const PolicyInfo* info : kPolicies) {
    if (info->name == name) return info;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", info->name);
  }
  return InvalidArgument(fmt::format("unknown policy '{}'; policies are: {}", name, names));
}

std::span<const SpecOption> CommonPolicyOptions() { return kCommonOptions; }

Result<PolicyChoice> MakePolicy(const PolicySpec& spec) {
  RKV_ASSIGN_OR_RETURN(const PolicyInfo* info, FindPolicy(spec.name));
  std::vector<SpecOption> options(info->options.begin(), info->options.end());
  if (info->evicts) {
    options.insert(options.end(), std::begin(kCommonOptions), std::end(kCommonOptions));
  }
  RKV_ASSIGN_OR_RETURN(const std::vector<double> values,
                       SpecValues(fmt::format("policy '{}'", info->name), options, spec.options));
  const size_t n_own = info->options.size();
  PolicyChoice choice{
      .info = info, .policy = info->create(std::span(values).first(n_own)), .keep = {}};
  if (info->evicts) {
    choice.keep = {.sinks = static_cast<size_t>(values[n_own]),
                   .window = static_cast<size_t>(values[n_own + 1])};
  }
  return choice;
}

PolicySpec ChosenPolicy(const CacheOptions& options) {
  if (!options.policy.name.empty()) return options.policy;
  return {.name = options.budget.unlimited() ? "full" : "retentive", .options = {}};
}

std::vector<PolicyDescription> DescribePolicies() {
  std::vector<PolicyDescription> descriptions;
  for (const PolicyInfo* info : kPolicies) {
    PolicyDescription description{.name = std::string(info->name),
                                  .summary = std::string(info->summary),
                                  .evicts = info->evicts,
                                  .absorb = std::string(info->absorb),
                                  .ladder = std::string(info->ladder),
                                  .options = {}};
    for (const SpecOption& option : info->options) {
      description.options.push_back(Describe(option));
    }
    descriptions.push_back(std::move(description));
  }
  return descriptions;
}

std::vector<PolicyDescription::Option> DescribeCommonPolicyOptions() {
  std::vector<PolicyDescription::Option> options;
  for (const SpecOption& option : kCommonOptions) options.push_back(Describe(option));
  return options;
}

}  // namespace rkv
