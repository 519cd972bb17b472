// The registry of all policies in this directory, from the list that cmake/PolicyList.cmake makes.
// Command-line help, errors and the tests of all policies use it.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "policies/policy.h"
#include "policies/policy_list.inc"  // made by CMake: RKV_POLICIES(X)

namespace rkv {

#define RKV_DECLARE(policy) extern const PolicyInfo policy;
RKV_POLICIES(RKV_DECLARE)
#undef RKV_DECLARE

namespace {

// The order of policies in lists for users. Others follow in order of name.
constexpr std::string_view kOrder[] = {
    "full",  "retentive", "streaming",          "random", "h2o", "tova", "snapkv",
    "knorm", "keydiff",   "expected-attention", "lookm",  "tgv", "paper"};

const auto& AllPolicies() {
#define RKV_ADDRESS(policy) &policy,
  static const auto policies = [] {
    std::array all = {RKV_POLICIES(RKV_ADDRESS)};
    const auto place = [](const PolicyInfo* info) {
      return std::pair(std::ranges::find(kOrder, info->name) - std::begin(kOrder), info->name);
    };
    std::ranges::sort(all, {}, place);
    return all;
  }();
#undef RKV_ADDRESS
  return policies;
}

constexpr SpecOption kCommonOptions[] = {
    {.name = "sinks",
     .default_value = 4,
     .min = 0,
     .max = 1 << 20,
     .help = "first tokens of the conversation, always kept",
     .whole = true},
    {.name = "window",
     .default_value = 16,
     .min = 1,
     .max = 1 << 20,
     .help = "most recent tokens, always kept",
     .whole = true},
};

}  // namespace

std::span<const PolicyInfo* const> Policies() { return AllPolicies(); }

Result<const PolicyInfo*> FindPolicy(std::string_view name) {
  std::string names;
  for (const PolicyInfo* info : Policies()) {
    if (info->name == name) return info;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", info->name);
  }
  return InvalidArgument(fmt::format("unknown policy '{}'; choose one of: {}", name, names));
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
  for (const PolicyInfo* info : Policies()) {
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
