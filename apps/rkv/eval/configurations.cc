// The configurations of `rkv eval`: the full cache, the chosen policies, and controls.
#include "eval/configurations.h"

#include <fmt/format.h>

#include <algorithm>

#include "choices.h"

namespace rkv::app {

namespace {

// Configurations that isolate the cause of a result. `policy`: a spec; `absorb` and `ladder`: as on
// the command line, "" for the policy's default; `type_k`, `type_v`: of all keys and of all values,
// "" for any.
struct Control {
  const char* label;
  const char* policy;
  const char* absorb;
  const char* ladder;
  const char* type_k = "";
  const char* type_v = "";
};
// Every token in the same types.
constexpr Control kQuantised[] = {
    {"q8_0 full cache", "full", "", "", "q8_0", "q8_0"},
    {"q4_0 full cache", "full", "", "", "q4_0", "q4_0"},
    {"q4_0/q2 full cache", "full", "", "", "q4_0", "q2"},
    {"q3 full cache", "full", "", "", "q3", "q3"},
    {"q42/q3 full cache", "full", "", "", "q42", "q3"},
    {"q2 full cache", "full", "", "", "q2", "q2"},
};
constexpr std::pair<const char*, Stock> kStock[] = {
    {"llama.cpp, flash attention", Stock::kFlashAttention},
    {"llama.cpp, no flash attention", Stock::kNoFlashAttention},
};
constexpr Control kControls[] = {
    // retentive without or with single parts.
    {"retentive, f16 only", "retentive", "", "none"},
    {"retentive, no surprisal", "retentive:surprisal=0", "", ""},
    {"retentive, no novelty", "retentive:novelty=0", "", ""},
    {"retentive, no attention", "retentive:attention=0", "", ""},
    {"retentive, no states", "retentive", "none", ""},
    {"retentive, states not read", "retentive", "clusters:additive=1e-9", ""},
    {"retentive, states solved", "retentive", "clusters:share=-1", ""},
    {"retentive, a quarter for states", "retentive", "clusters:share=0.25", ""},
    {"retentive, one state a head", "retentive", "clusters:share=0.001", ""},
    {"retentive, states by place", "retentive", "states:share=0.1", ""},
    // The published method, and its parts.
    {"paper, attention only (lambda = 1)", "paper:lambda=1", "", ""},
    {"paper, states' bytes for tokens", "paper", "none", ""},
    // A readout of almost zero: states take their bytes and are not read.
    {"paper, no retrieval", "paper", "states:additive=1e-9", ""},
    {"paper, joint readout", "paper", "states", ""},
    {"paper, one state a head", "paper", "states:additive=1,share=0.01", ""},
    // Other scorers on our ladder.
    {"h2o on the ladder", "h2o", "", "auto"},
    {"snapkv on the ladder", "snapkv", "", "auto"},
    {"keydiff on the ladder", "keydiff", "", "auto"},
};

Result<CacheOptions> ControlOptions(const Control& control) {
  return ParseCacheOptions({{"policy", control.policy},
                            {"absorb", control.absorb},
                            {"ladder", control.ladder},
                            {"type_k", control.type_k},
                            {"type_v", control.type_v}});
}

void AddDefaults(const std::vector<std::pair<std::string, double>>& defaults, PolicySpec& policy) {
  for (const auto& option : defaults) {
    const auto same = [&](const auto& set) { return set.first == option.first; };
    if (std::ranges::none_of(policy.options, same)) policy.options.push_back(option);
  }
}

}  // namespace

std::string UnusualOptions(const CacheOptions& options, bool takes_budget,
                           std::string_view separator) {
  CacheOptions usual{.policy = options.policy, .budget = options.budget};
  // Nothing is compressed without a budget, so the time of compression does not matter.
  usual.compression = takes_budget ? kEvalCompression : options.compression;
  const std::vector<OptionText> usual_texts = OptionTexts(usual);
  std::string text;
  for (const OptionText& option : OptionTexts(options)) {
    if (std::ranges::find(usual_texts, option) != usual_texts.end()) continue;
    text += fmt::format("{}{} {}", separator, option.label, option.text);
  }
  return text;
}

Result<std::vector<PolicySpec>> ParsePolicyList(const std::vector<std::string>& lists) {
  std::vector<std::string> texts;
  for (const std::string& list : lists) {
    bool first = true;
    for (const std::string_view part : SplitList(list)) {
      const bool option =
          part.find('=') != std::string_view::npos && part.find(':') == std::string_view::npos;
      if (option && first) {
        return InvalidArgument(fmt::format("the option '{}' has no policy before it", part));
      }
      if (option) {
        texts.back() += fmt::format(",{}", part);
      } else if (part == "all") {
        for (const PolicyDescription& policy : DescribePolicies()) texts.push_back(policy.name);
      } else {
        texts.emplace_back(part);
      }
      first = false;
    }
  }
  std::vector<PolicySpec> policies;
  for (const std::string& text : texts) {
    RKV_ASSIGN_OR_RETURN(PolicySpec policy, ParsePolicySpec(text));
    if (std::ranges::find(policies, policy) == policies.end()) {
      policies.push_back(std::move(policy));
    }
  }
  return policies;
}

Result<std::vector<Budget>> ParseBudgetList(std::string_view list) {
  std::vector<Budget> budgets;
  for (const std::string_view part : SplitList(list)) {
    RKV_ASSIGN_OR_RETURN(const Budget budget, ParseBudget(part));
    budgets.push_back(budget);
  }
  return budgets;
}

Result<std::vector<Configuration>> MakeConfigurations(const ConfigurationChoices& choices) {
  std::vector<Configuration> configurations = {
      {.label = "full", .options = {.policy = {.name = "full", .options = {}}}}};
  for (const PolicySpec& policy : choices.policies) {
    Configuration configuration{.label = {}, .options = {.policy = policy}};
    const PolicyDescription* known = FindPolicy(policy.name);
    if (known != nullptr && known->evicts) {
      configuration.takes_budget = true;
      configuration.options = choices.cache;
      configuration.options.policy = policy;
      configuration.options.budget = {};
    }
    configuration.label =
        ToString(policy) + UnusualOptions(configuration.options, configuration.takes_budget, ", ");
    if (configuration.takes_budget) AddDefaults(choices.defaults, configuration.options.policy);
    RKV_RETURN_IF_ERROR(CheckOptions(configuration.options));
    if (configuration.label != "full") configurations.push_back(std::move(configuration));
  }
  const auto add = [&](const Control& control) -> Status {
    Configuration configuration{.label = control.label, .options = {}, .control = true};
    RKV_ASSIGN_OR_RETURN(configuration.options, ControlOptions(control));
    const PolicyDescription* known = FindPolicy(configuration.options.policy.name);
    if (known == nullptr) return OkStatus();
    configuration.takes_budget = known->evicts;
    configuration.options.compression = choices.cache.compression;
    if (known->evicts) AddDefaults(choices.defaults, configuration.options.policy);
    RKV_RETURN_IF_ERROR(CheckOptions(configuration.options));
    configurations.push_back(std::move(configuration));
    return OkStatus();
  };
  if (choices.plain || choices.controls) {
    for (const Control& control : kQuantised) RKV_RETURN_IF_ERROR(add(control));
  }
  if (choices.plain) {
    for (const auto& [label, stock] : kStock) {
      configurations.push_back({.label = label,
                                .options = configurations.front().options,
                                .control = true,
                                .stock = stock});
    }
  }
  if (choices.controls) {
    for (const Control& control : kControls) RKV_RETURN_IF_ERROR(add(control));
  }
  return configurations;
}

}  // namespace rkv::app
