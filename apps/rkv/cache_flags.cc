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
     "policy that chooses the tokens to keep, NAME[:option=value,...], see below; default: "
     "retentive with a budget, else full"},
    {"budget", "--budget", "BUDGET",
     "budget of the cache: 20% (of a full cache), 512t (tokens) or 64MiB; default: no limit"},
    {"absorb", "--absorb", "ABSORBER",
     "absorber of evicted tokens, NAME[:option=value,...], see below; default: the policy's"},
    {"ladder", "--ladder", "LADDER",
     "ladder of precisions for tokens: auto, none, or a list such as f16,q4,q42/q3"},
    {"split", "--split", "SPLIT",
     "division of the budget over layers and KV heads: uniform, pooled (by benefit), or auto "
     "(pooled if most tokens are of pictures)"},
    {"compression", "--compress", "WHEN",
     "when to compress: streaming (the budget always holds, default) or prompt (after a prompt is "
     "read)"},
    {"type_k", "--cache-type-k", "TYPE", "type of all keys, -ctk: f16, q8_0, q4_0, ..."},
    {"type_v", "--cache-type-v", "TYPE", "type of all values, -ctv"},
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
  text += "  every policy except full\n";
  for (const auto& option : DescribeCommonPolicyOptions()) show(option);
  text += "\nAbsorbers (--absorb):\n";
  for (const PolicyDescription& absorber : DescribeAbsorbers()) {
    text += fmt::format("  {:<26}{}\n", absorber.name, absorber.summary);
    for (const auto& option : absorber.options) show(option);
  }
  return text;
}

}  // namespace rkv::app
