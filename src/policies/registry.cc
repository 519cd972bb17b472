#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

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

constexpr PolicyOption kCommonOptions[] = {
    {.name = "sinks",
     .default_value = 4,
     .min = 0,
     .max = 1 << 20,
     .help = "first tokens of the conversation that are always kept"},
    {.name = "window",
     .default_value = 16,
     .min = 1,
     .max = 1 << 20,
     .help = "most recent tokens, which are always kept (retentive: 64)"},
};

PolicyDescription::Option Describe(const PolicyOption& option) {
  return {.name = std::string(option.name),
          .default_value = option.default_value,
          .help = std::string(option.help)};
}

template <typename Range>
std::string JoinNames(const Range& range) {
  std::vector<std::string_view> names;
  for (const auto& entry : range) {
    if constexpr (std::is_pointer_v<std::remove_cvref_t<decltype(entry)>>) {
      names.push_back(entry->name);
    } else {
      names.push_back(entry.name);
    }
  }
  return names.empty() ? "none" : fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace

std::span<const PolicyInfo* const> Policies() { return kPolicies; }

Result<const PolicyInfo*> FindPolicy(std::string_view name) {
  for (const PolicyInfo* info : kPolicies) {
    if (info->name == name) return info;
  }
  return InvalidArgument(
      fmt::format("unknown policy '{}'; policies are: {}", name, JoinNames(Policies())));
}

namespace {

// The value of an option in `values`, by its place in the policy's own and then the common options.
Status SetOption(const PolicyInfo& info, const std::string& name, double value,
                 std::span<double> values) {
  std::vector<PolicyOption> options(info.options.begin(), info.options.end());
  if (info.evicts) {
    options.insert(options.end(), std::begin(kCommonOptions), std::end(kCommonOptions));
  }
  const auto option = std::ranges::find(options, name, &PolicyOption::name);
  if (option == options.end()) {
    return InvalidArgument(fmt::format("policy '{}' has no option '{}'; its options are: {}",
                                       info.name, name, JoinNames(options)));
  }
  if (!(value >= option->min && value <= option->max)) {
    return InvalidArgument(fmt::format("option '{}' of policy '{}' is {}; it must be {} to {}",
                                       name, info.name, value, option->min, option->max));
  }
  values[static_cast<size_t>(option - options.begin())] = value;
  return OkStatus();
}

}  // namespace

std::span<const PolicyOption> CommonPolicyOptions() { return kCommonOptions; }

Result<PolicyChoice> MakePolicy(const PolicySpec& spec) {
  RKV_ASSIGN_OR_RETURN(const PolicyInfo* info, FindPolicy(spec.name));
  std::vector<double> values;
  for (const PolicyOption& option : info->options) values.push_back(option.default_value);
  for (const PolicyOption& option : kCommonOptions) {
    values.push_back(option.name == "window" ? info->window : option.default_value);
  }
  for (const auto& [name, value] : spec.options) {
    RKV_RETURN_IF_ERROR(SetOption(*info, name, value, values));
  }
  const size_t n_own = info->options.size();
  PolicyChoice choice{
      .info = info, .policy = info->create(std::span(values).first(n_own)), .keep = {}};
  if (info->evicts) {
    choice.keep = {.sinks = static_cast<size_t>(values[n_own]),
                   .window = static_cast<size_t>(values[n_own + 1])};
  }
  return choice;
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
    for (const PolicyOption& option : info->options) {
      description.options.push_back(Describe(option));
    }
    descriptions.push_back(std::move(description));
  }
  return descriptions;
}

std::vector<PolicyDescription::Option> DescribeCommonPolicyOptions() {
  std::vector<PolicyDescription::Option> options;
  for (const PolicyOption& option : kCommonOptions) options.push_back(Describe(option));
  return options;
}

}  // namespace rkv
