#include "eval/configurations.h"

#include <fmt/format.h>

#include <algorithm>

#include "retentivekv/memory.h"

namespace rkv::app {

namespace {

// Configurations that say where a result comes from. `policy`: a spec; `absorb` and `ladder`: as on
// the command line, "" for what goes with the policy; `type`: of all keys and values, "" for any.
struct Control {
  const char* label;
  const char* policy;
  const char* absorb;
  const char* ladder;
  const char* type;
};
constexpr Control kControls[] = {
    {"q8_0 full cache", "full", "", "", "q8_0"},
    {"q4_0 full cache", "full", "", "", "q4_0"},
    {"q2 full cache", "full", "", "", "q2"},
    // Parts of retentive left out, or added.
    {"retentive, f16 only", "retentive", "", "none", ""},
    {"retentive, no novelty", "retentive:novelty=0", "", "", ""},
    {"retentive, no attention", "retentive:attention=0", "", "", ""},
    {"retentive, states solved", "retentive", "clusters:share=-1", "", ""},
    {"retentive, a quarter for states", "retentive", "clusters:share=0.25", "", ""},
    {"retentive, one state a head", "retentive", "clusters:share=0.001", "", ""},
    {"retentive, states by place", "retentive", "states:share=0.1", "", ""},
    // The published method, and its parts.
    {"paper, attention only (lambda = 1)", "paper:lambda=1", "", "", ""},
    {"paper, no retrieval", "paper", "none", "", ""},
    {"paper, joint readout", "paper", "states", "", ""},
    {"paper, one state a head", "paper", "states:additive=1,share=0.01", "", ""},
    // Other scorers on our ladder.
    {"h2o on the ladder", "h2o", "", "auto", ""},
    {"snapkv on the ladder", "snapkv", "", "auto", ""},
    {"keydiff on the ladder", "keydiff", "", "auto", ""},
};

const PolicyDescription* FindPolicy(std::string_view name) {
  static const std::vector<PolicyDescription> policies = DescribePolicies();
  const auto found = std::ranges::find(policies, name, &PolicyDescription::name);
  return found == policies.end() ? nullptr : &*found;
}

std::vector<std::string_view> Split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const size_t end = text.find(separator);
    parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

Result<MemoryOptions> ControlOptions(const Control& control) {
  MemoryOptions options;
  RKV_ASSIGN_OR_RETURN(options.policy, ParsePolicySpec(control.policy));
  if (*control.absorb != '\0') {
    RKV_ASSIGN_OR_RETURN(options.absorb, ParseAbsorbSpec(control.absorb));
  }
  if (*control.ladder != '\0') {
    RKV_ASSIGN_OR_RETURN(options.ladder, ParseLadder(control.ladder));
  }
  if (*control.type != '\0') {
    RKV_ASSIGN_OR_RETURN(options.type_k, ParseElementType(control.type));
    options.type_v = options.type_k;
  }
  return options;
}

// Unknown names and options, found on a small cache without a budget.
Status CheckOptions(const MemoryOptions& options) {
  const MemoryShape shape{.layers = {{.n_head = 1, .n_kv_head = 1, .d_k = 64, .d_v = 64}}};
  const Result<Memory> memory = Memory::Create(shape, options);
  return memory.ok() ? OkStatus() : memory.status();
}

std::string LabelOf(const MemoryOptions& options) {
  std::string label = ToString(options.policy);
  if (options.absorb.has_value()) label += fmt::format(", absorb {}", ToString(*options.absorb));
  if (options.ladder.has_value()) label += fmt::format(", ladder {}", ToString(*options.ladder));
  if (options.split.has_value()) label += fmt::format(", split {}", ToString(*options.split));
  return label;
}

void AddDefaults(const std::vector<std::pair<std::string, double>>& defaults, PolicySpec& policy) {
  for (const auto& option : defaults) {
    const auto same = [&](const auto& set) { return set.first == option.first; };
    if (std::ranges::none_of(policy.options, same)) policy.options.push_back(option);
  }
}

}  // namespace

Result<std::vector<PolicySpec>> ParsePolicyList(const std::vector<std::string>& lists) {
  std::vector<std::string> texts;
  for (const std::string& list : lists) {
    bool first = true;
    for (const std::string_view part : Split(list, ',')) {
      const bool option =
          part.find('=') != std::string_view::npos && part.find(':') == std::string_view::npos;
      if (option && first) {
        return InvalidArgument(fmt::format("the option '{}' follows no policy", part));
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
  for (const std::string_view part : Split(list, ',')) {
    RKV_ASSIGN_OR_RETURN(const Budget budget, ParseBudget(part));
    budgets.push_back(budget);
  }
  return budgets;
}

Result<std::vector<Configuration>> MakeConfigurations(const ConfigurationChoices& choices) {
  std::vector<Configuration> configurations = {{.label = "full", .options = {}}};
  for (const PolicySpec& policy : choices.policies) {
    Configuration configuration;
    configuration.options.policy = policy;
    const PolicyDescription* known = FindPolicy(policy.name);
    if (known != nullptr && known->evicts) {
      configuration.takes_budget = true;
      configuration.options.absorb = choices.absorb;
      configuration.options.ladder = choices.ladder;
      configuration.options.split = choices.split;
      configuration.options.compression = choices.compression;
    }
    configuration.label = LabelOf(configuration.options);
    if (configuration.takes_budget) AddDefaults(choices.defaults, configuration.options.policy);
    RKV_RETURN_IF_ERROR(CheckOptions(configuration.options));
    if (configuration.label != "full") configurations.push_back(std::move(configuration));
  }
  if (!choices.controls) return configurations;
  for (const Control& control : kControls) {
    Configuration configuration{.label = control.label, .options = {}};
    RKV_ASSIGN_OR_RETURN(configuration.options, ControlOptions(control));
    const PolicyDescription* known = FindPolicy(configuration.options.policy.name);
    if (known == nullptr) continue;
    configuration.takes_budget = known->evicts;
    configuration.options.compression = choices.compression;
    if (known->evicts) AddDefaults(choices.defaults, configuration.options.policy);
    configurations.push_back(std::move(configuration));
  }
  return configurations;
}

}  // namespace rkv::app
