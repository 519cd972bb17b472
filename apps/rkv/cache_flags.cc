// Flags of the cache, one for each of its options.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <stdexcept>

#include "add_flag.h"
#include "choices.h"
#include "flags.h"
#include "terminal.h"

namespace rkv::app {

namespace {

struct CacheFlag {
  std::string_view option;
  const char* names;
  const char* type;
  const char* help;
};
constexpr CacheFlag kCacheFlags[] = {
    {"policy", "--policy", "POLICY",
     "what stays, NAME[:option=value,...], see below; default: retentive with a budget, else full"},
    {"budget", "--budget", "BUDGET",
     "what the cache may hold: 20% (kept), 512t (tokens) or 64MiB; default: no limit"},
    {"absorb", "--absorb", "MEMORY",
     "what remembers tokens that leave, NAME[:option=value,...]; see below"},
    {"ladder", "--ladder", "LADDER",
     "precisions that tokens fade through: auto, none, or a list such as f16,q4_0,q2"},
    {"split", "--split", "SPLIT",
     "the budget over layers and heads: uniform, pooled (to where it helps most), or auto (pooled "
     "where most tokens are of pictures)"},
    {"compression", "--compress", "WHEN",
     "streaming: the budget holds at every moment (default); prompt: once a prompt has been read"},
    {"type_k", "--cache-type-k", "TYPE", "one type for all keys, -ctk: f16, q8_0, q4_0, ..."},
    {"type_v", "--cache-type-v", "TYPE", "one type for all values, -ctv"},
};

}  // namespace

void AddCacheFlags(CLI::App& command, CommonFlags& flags) {
  for (const OptionText& option : OptionTexts({})) {
    const auto flag = std::ranges::find(kCacheFlags, option.name, &CacheFlag::option);
    if (flag == std::end(kCacheFlags)) {
      throw std::logic_error(fmt::format("the cache's option {} has no flag", option.name));
    }
    AddFlag(command, flag->names, flags.cache[std::string(option.name)], flag->help)
        ->type_name(flag->type);
  }
}

Result<CacheOptions> ParseCacheOptions(const CommonFlags& flags) {
  RKV_ASSIGN_OR_RETURN(CacheOptions options, rkv::ParseCacheOptions(flags.cache));
  options.policy = ChosenPolicy(options);
  const PolicyDescription* policy = FindPolicy(options.policy.name);
  if (policy != nullptr && policy->evicts && options.budget.unlimited()) {
    Tell("note: there is no --budget, so policy {} compresses nothing\n", policy->name);
  }
  return options;
}

std::string PolicyHelp() {
  std::string text = "Policies:\n";
  const auto show = [&text](const PolicyDescription::Option& option) {
    text += fmt::format("    {:<24}{}\n", fmt::format("{}={}", option.name, option.default_value),
                        option.help);
  };
  for (const PolicyDescription& policy : DescribePolicies()) {
    text += fmt::format("  {:<26}{}\n", policy.name, policy.summary);
    for (const auto& option : policy.options) show(option);
  }
  text += "  every policy but full\n";
  for (const auto& option : DescribeCommonPolicyOptions()) show(option);
  text += "\nWhat remembers tokens that leave (--absorb):\n";
  for (const PolicyDescription& absorber : DescribeAbsorbers()) {
    text += fmt::format("  {:<26}{}\n", absorber.name, absorber.summary);
    for (const auto& option : absorber.options) show(option);
  }
  return text;
}

}  // namespace rkv::app
