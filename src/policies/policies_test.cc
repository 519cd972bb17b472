#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <span>
#include <vector>

#include "base/random.h"
#include "policies/policy.h"
#include "support/score_data.h"

namespace rkv {
namespace {

TEST(PolicyRegistryTest, NamesAreUniqueAndDescribed) {
  std::set<std::string_view> names;
  for (const PolicyInfo* info : Policies()) {
    EXPECT_TRUE(names.insert(info->name).second) << info->name;
    EXPECT_FALSE(info->summary.empty());
    EXPECT_TRUE(MakePolicy({.name = std::string(info->name), .options = {}}).ok());
  }
  EXPECT_EQ(DescribePolicies().size(), names.size());
}

TEST(PolicyRegistryTest, UnknownNamesAndOptionsListWhatIsPossible) {
  const auto unknown = MakePolicy({.name = "h3o", .options = {}});
  EXPECT_EQ(unknown.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(unknown.status().message().find("full, retentive"), std::string::npos);
  const auto option = MakePolicy({.name = "streaming", .options = {{"sink", 4.0}}});
  EXPECT_EQ(option.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(option.status().message().find("sinks"), std::string::npos);
  EXPECT_FALSE(MakePolicy({.name = "streaming", .options = {{"sinks", -1.0}}}).ok());
  EXPECT_FALSE(MakePolicy({.name = "full", .options = {{"sinks", 1.0}}}).ok());
}

TEST(PolicySpecTest, ParsesAndPrints) {
  for (const char* text : {"full", "streaming", "streaming:sinks=8", "p:a=1,b=0.5"}) {
    const auto spec = ParsePolicySpec(text);
    ASSERT_TRUE(spec.ok());
    EXPECT_EQ(ToString(*spec), text);
  }
  for (const char* text : {"", ":sinks=1", "streaming:", "streaming:sinks", "streaming:sinks=x",
                           "streaming:=1", "streaming:sinks=1,", "streaming:sinks=1;2"}) {
    EXPECT_FALSE(ParsePolicySpec(text).ok()) << text;
  }
}

// Every option of every policy, at its limits and just beyond.
TEST(PolicyRegistryTest, OptionsHaveLimits) {
  for (const PolicyInfo* info : Policies()) {
    std::vector<SpecOption> options(info->options.begin(), info->options.end());
    if (info->evicts) {
      const std::span<const SpecOption> common = CommonPolicyOptions();
      options.insert(options.end(), common.begin(), common.end());
    }
    std::set<std::string_view> names;
    for (const SpecOption& option : options) {
      EXPECT_TRUE(names.insert(option.name).second) << info->name << " has two " << option.name;
      EXPECT_FALSE(option.help.empty()) << option.name;
      EXPECT_LT(option.min, option.max) << option.name;
      const auto made_with = [&](double value) {
        return MakePolicy(
            {.name = std::string(info->name), .options = {{std::string(option.name), value}}});
      };
      for (const double value : {option.default_value, option.min, option.max}) {
        EXPECT_TRUE(made_with(value).ok()) << info->name << ":" << option.name << "=" << value;
      }
      for (const double value : {option.min - 1, option.max + 1, std::nan(""), HUGE_VAL}) {
        const auto made = made_with(value);
        EXPECT_EQ(made.status().code(), StatusCode::kInvalidArgument) << info->name << value;
        EXPECT_NE(made.status().message().find(option.name), std::string::npos);
      }
    }
  }
}

// The contract of every policy, with its options at their defaults and at their limits. Given only
// its needs, it scores every token with a finite number, the same each time.
TEST(PolicyMatrixTest, ScoresAreFiniteAndRepeatable) {
  std::vector<PolicyChoice> choices;
  for (const PolicyInfo* info : Policies()) {
    choices.push_back(PolicyFrom(info->name));
    for (const SpecOption& option : info->options) {
      for (const double value : {option.min, option.max}) {
        auto choice = MakePolicy(
            {.name = std::string(info->name), .options = {{std::string(option.name), value}}});
        ASSERT_TRUE(choice.ok());
        choices.push_back(*choice);
      }
    }
  }
  ForRandomScoreData([&](const ScoreData& data) {
    for (const PolicyChoice& choice : choices) {
      const std::vector<float> scores = ScoresOf(*choice.policy, data);
      EXPECT_TRUE(std::ranges::all_of(scores, [](float x) { return std::isfinite(x); }))
          << choice.info->name;
      EXPECT_EQ(scores, ScoresOf(*choice.policy, data)) << choice.info->name;
    }
  });
}

TEST(PolicyMatrixTest, NoTokensAreNoTrouble) {
  for (const PolicyInfo* info : Policies()) {
    const ScoreData none;
    EXPECT_TRUE(ScoresOf(info->name, none).empty());
  }
}

// Policies do not favour a slot: for identical tokens all scores are equal, up to the rounding of
// means. Only streaming and random distinguish tokens by their place.
TEST(PolicyMatrixTest, EqualTokensHaveEqualScores) {
  Random random(11);
  for (int round = 0; round < 20; ++round) {
    ScoreData data = RandomScoreData(random, ScoreDataKind::kAllEqual);
    data.tokens.assign(data.n(), TokenInfo{.modality = static_cast<Modality>(round % 3)});
    for (const PolicyInfo* info : Policies()) {
      const std::vector<float> scores = ScoresOf(info->name, data);
      const bool equal = std::ranges::all_of(
          scores, [&](float score) { return std::abs(score - scores.front()) <= 1e-6f; });
      const bool by_place = info->name == "streaming" || info->name == "random";
      EXPECT_EQ(equal, !by_place || data.n() == 1) << info->name << " of " << data.n();
    }
  }
}

// A token that stands for several gets the score that it would have among all of them.
TEST(RetentivePolicyTest, ASampleStandsForAll) {
  const PolicyChoice choice = PolicyFrom("retentive");
  ForRandomScoreData([&](const ScoreData& sample) {
    ScoreData all = sample;
    std::vector<float> stands_for;
    const auto repeat = [&all](size_t i) {
      const auto append = [i](std::vector<float>& rows, size_t d) {
        for (size_t e = 0; e < d; ++e) rows.push_back(rows[i * d + e]);
      };
      all.token_index.push_back(all.token_index[i]);
      all.tokens.push_back(all.tokens[i]);
      all.attention.push_back(0.0f);
      append(all.keys, all.d_k);
      append(all.values, all.d_v);
    };
    for (size_t i = 0; i < sample.n(); ++i) {
      stands_for.push_back(static_cast<float>(1 + i % 4));
      for (size_t copy = 0; copy < i % 4; ++copy) repeat(i);
    }
    const auto errors = [&](const ScoreData& data, std::span<const float> counts) {
      ScoreContext context = data.Context(choice.policy->needs());
      context.room = 1.0;
      context.stands_for = counts;
      std::vector<float> scores(data.n()), precision_errors(data.n());
      choice.policy->ScoreAll(context, scores, precision_errors);
      return precision_errors;
    };
    const std::vector<float> expected = errors(all, {});
    double largest = 0;
    for (const float x : expected) largest = std::max(largest, static_cast<double>(x));
    double value = 0;
    for (const float x : sample.values) value = std::max(value, std::abs(static_cast<double>(x)));
    ExpectScores(errors(sample, stands_for), AsDouble(std::span(expected).first(sample.n())), 1e-3,
                 1e-5 * largest + 1e-8 * value * value);  // Residuals of equal rows are rounding.
  });
}

// Text that the model foretold counts less, and other text more. Pictures and text of which
// nothing is known count as before.
TEST(RetentivePolicyTest, SurprisingTextCountsMore) {
  ScoreData data;
  data.tokens_seen = 6;
  data.token_index = {0, 1, 2, 3, 4, 5};
  data.tokens.resize(6);
  data.tokens[5].modality = Modality::kImage;
  data.attention.assign(6, 0.0f);
  data.d_k = data.d_v = 1;
  data.keys = data.values = {1.0f, -2.0f, 3.0f, -4.0f, 5.0f, 6.0f};
  const auto errors = [&](const char* policy) {
    const PolicyChoice choice = PolicyFrom(policy);
    ScoreContext context = data.Context(choice.policy->needs());
    context.room = 1.0;
    std::vector<float> scores(6), precision_errors(6);
    choice.policy->ScoreAll(context, scores, precision_errors);
    return precision_errors;
  };
  const std::vector<float> before = errors("retentive");
  const float nan = std::numeric_limits<float>::quiet_NaN();
  data.surprisal = {-1.0f, 0.0f, 2.0f, nan, 100.0f, nan};
  for (const double strength : {1.0, 3.0}) {
    const std::vector<float> after =
        errors(fmt::format("retentive:surprisal={}", strength).c_str());
    const auto factor = [&](double score) {
      return (1 + strength * std::exp(1.5 * std::min(score, 3.0) - 1.125)) / (1 + strength);
    };
    const double factors[] = {factor(-1), factor(0), factor(2), 1, factor(100), 1};
    for (size_t i = 0; i < 6; ++i) {
      EXPECT_NEAR(after[i], factors[i] * before[i], 1e-5 * factors[i] * before[i]) << i;
    }
  }
  EXPECT_EQ(errors("retentive:surprisal=0"), before);
}

// The reference: the tokens with the largest index.
TEST(StreamingPolicyTest, OrdersByRecency) {
  ForRandomScoreData([](const ScoreData& data) {
    EXPECT_TRUE(std::ranges::is_sorted(ScoresOf("streaming", data), std::ranges::less_equal()));
  });
}

}  // namespace
}  // namespace rkv
