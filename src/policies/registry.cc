#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "policies/policy.h"

// The registry: one line per policy. Command-line help, documentation and the test matrix follow.
#define RKV_POLICIES(X) \
  X(kFullPolicy)        \
  X(kStreamingPolicy)

namespace rkv {

#define RKV_DECLARE(policy) extern const PolicyInfo policy;
RKV_POLICIES(RKV_DECLARE)
#undef RKV_DECLARE

namespace {

#define RKV_ADDRESS(policy) &policy,
constexpr const PolicyInfo* kPolicies[] = {RKV_POLICIES(RKV_ADDRESS)};
#undef RKV_ADDRESS

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

Result<std::unique_ptr<Policy>> MakePolicy(const PolicySpec& spec) {
  RKV_ASSIGN_OR_RETURN(const PolicyInfo* info, FindPolicy(spec.name));
  std::vector<double> values;
  for (const PolicyOption& option : info->options) values.push_back(option.default_value);
  for (const auto& [name, value] : spec.options) {
    const auto option = std::ranges::find(info->options, name, &PolicyOption::name);
    if (option == info->options.end()) {
      return InvalidArgument(fmt::format("policy '{}' has no option '{}'; its options are: {}",
                                         spec.name, name, JoinNames(info->options)));
    }
    if (!(value >= option->min && value <= option->max)) {
      return InvalidArgument(fmt::format("option '{}' of policy '{}' is {}; it must be {} to {}",
                                         name, spec.name, value, option->min, option->max));
    }
    values[static_cast<size_t>(option - info->options.begin())] = value;
  }
  return info->create(values);
}

std::vector<PolicyDescription> DescribePolicies() {
  std::vector<PolicyDescription> descriptions;
  for (const PolicyInfo* info : kPolicies) {
    PolicyDescription description{.name = std::string(info->name),
                                  .summary = std::string(info->summary),
                                  .evicts = info->evicts,
                                  .options = {}};
    for (const PolicyOption& option : info->options) {
      description.options.push_back({.name = std::string(option.name),
                                     .default_value = option.default_value,
                                     .help = std::string(option.help)});
    }
    descriptions.push_back(std::move(description));
  }
  return descriptions;
}

}  // namespace rkv
