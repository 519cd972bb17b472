#include "eval/configurations.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace rkv::app {
namespace {

std::vector<std::string> Parsed(const std::vector<std::string>& lists) {
  const auto policies = ParsePolicyList(lists);
  EXPECT_TRUE(policies.ok()) << policies.status().message();
  std::vector<std::string> texts;
  for (const PolicySpec& policy : *policies) texts.push_back(ToString(policy));
  return texts;
}

TEST(ConfigurationsTest, CommasSeparatePoliciesAndTheirOptions) {
  using Texts = std::vector<std::string>;
  EXPECT_EQ(Parsed({"a,b:x=1,y=2,c"}), (Texts{"a", "b:x=1,y=2", "c"}));
  EXPECT_EQ(Parsed({"b:x=1,c:y=2"}), (Texts{"b:x=1", "c:y=2"}));
  EXPECT_EQ(Parsed({"a,b:x=1", "c,a"}), (Texts{"a", "b:x=1", "c"}));
  EXPECT_FALSE(ParsePolicyList({"x=1"}).ok());
  EXPECT_FALSE(ParsePolicyList({"a,,b"}).ok());
  EXPECT_FALSE(ParsePolicyList({""}).ok());
  Texts all;
  for (const PolicyDescription& policy : DescribePolicies()) all.push_back(policy.name);
  EXPECT_EQ(Parsed({"all"}), all);
}

TEST(ConfigurationsTest, BudgetsAreAList) {
  const auto budgets = ParseBudgetList("50%,64t,2MiB");
  ASSERT_TRUE(budgets.ok());
  ASSERT_EQ(budgets->size(), 3u);
  EXPECT_EQ(ToString((*budgets)[1]), "64t");
  EXPECT_FALSE(ParseBudgetList("50%,0.2").ok());
}

TEST(ConfigurationsTest, FullComesFirstAndDefaultsDoNotOverride) {
  ConfigurationChoices choices;
  choices.policies = *ParsePolicyList({"streaming:sinks=7,full"});
  choices.defaults = {{"sinks", 1}, {"window", 1}};
  const auto made = MakeConfigurations(choices);
  ASSERT_TRUE(made.ok()) << made.status().message();
  ASSERT_EQ(made->size(), 2u);
  EXPECT_EQ((*made)[0].label, "full");
  EXPECT_FALSE((*made)[0].takes_budget);
  EXPECT_EQ((*made)[1].label, "streaming:sinks=7");
  EXPECT_EQ(ToString((*made)[1].options.policy), "streaming:sinks=7,window=1");
  EXPECT_TRUE((*made)[1].takes_budget);
}

TEST(ConfigurationsTest, LabelsNameAllThatIsUnusual) {
  const auto label = [](const CacheOptions& cache) {
    ConfigurationChoices choices;
    choices.policies = *ParsePolicyList({"streaming"});
    choices.cache = cache;
    const auto made = MakeConfigurations(choices);
    EXPECT_TRUE(made.ok()) << made.status().message();
    return made.ok() ? made->back().label : "";
  };
  EXPECT_EQ(label({.compression = kEvalCompression}), "streaming");
  EXPECT_EQ(label({}), "streaming, compress streaming");
  EXPECT_EQ(label({.absorb = *ParseAbsorbSpec("merge"),
                   .split = Split::kUniform,
                   .compression = kEvalCompression,
                   .type_k = ElementType::kQ8_0,
                   .type_v = ElementType::kQ4_0}),
            "streaming, absorb merge, split uniform, K q8_0, V q4_0");
}

TEST(ConfigurationsTest, UnknownPoliciesAndOptionsAreRefused) {
  ConfigurationChoices choices;
  choices.policies = *ParsePolicyList({"nonsense"});
  EXPECT_EQ(MakeConfigurations(choices).status().code(), StatusCode::kInvalidArgument);
  choices.policies = *ParsePolicyList({"streaming:sink=1"});
  EXPECT_EQ(MakeConfigurations(choices).status().code(), StatusCode::kInvalidArgument);
}

TEST(ConfigurationsTest, ControlsHaveLabelsOfTheirOwn) {
  ConfigurationChoices choices;
  choices.controls = true;
  const auto made = MakeConfigurations(choices);
  ASSERT_TRUE(made.ok());
  const auto q4 = std::ranges::find(*made, "q4_0 full cache", &Configuration::label);
  ASSERT_NE(q4, made->end());
  EXPECT_EQ(q4->options.type_k, ElementType::kQ4_0);
  EXPECT_FALSE(q4->takes_budget);
}

TEST(ConfigurationsTest, PlainCachesAreThereOnce) {
  ConfigurationChoices choices;
  choices.plain = true;
  const std::vector<Configuration> plain = *MakeConfigurations(choices);
  const auto k4v2 = std::ranges::find(plain, "q4_0/q2 full cache", &Configuration::label);
  ASSERT_NE(k4v2, plain.end());
  EXPECT_EQ(k4v2->options.type_k, ElementType::kQ4_0);
  EXPECT_EQ(k4v2->options.type_v, ElementType::kQ2);
  for (const Stock stock : {Stock::kFlashAttention, Stock::kNoFlashAttention}) {
    EXPECT_EQ(std::ranges::count(plain, stock, &Configuration::stock), 1);
  }
  choices.controls = true;
  const std::vector<Configuration> all = *MakeConfigurations(choices);
  std::set<std::string> labels;
  for (const Configuration& configuration : all) {
    EXPECT_TRUE(labels.insert(configuration.label).second) << configuration.label;
  }
  EXPECT_TRUE(labels.contains("retentive, no surprisal"));
}

}  // namespace
}  // namespace rkv::app
