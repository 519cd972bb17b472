// The needs of the published policies. Those that use attention are tested against their formulas
// in double precision.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "policies/policy.h"
#include "support/score_data.h"

namespace rkv {
namespace {

using Queries = PolicyNeeds::Queries;

constexpr const char* kPublished[] = {
    "random", "h2o", "tova", "snapkv", "knorm", "keydiff", "expected-attention",
    "lookm",  "tgv", "paper"};

// The needs of a policy are its cost; docs/policies.md lists the same.
TEST(PolicyNeedsTest, AreThoseOfTheMethods) {
  const auto needs = [](std::string_view spec) { return PolicyFrom(spec).policy->needs(); };
  for (const char* name : {"full", "streaming", "random", "knorm", "keydiff"}) {
    EXPECT_EQ(needs(name).queries, Queries::kNone) << name;
  }
  for (const char* name : {"h2o", "lookm", "tgv"}) {
    EXPECT_EQ(needs(name).queries, Queries::kAll) << name;
    EXPECT_EQ(needs(name).decay, 1.0) << name;
  }
  EXPECT_EQ(needs("tova").queries, Queries::kWindow);
  EXPECT_EQ(needs("tova").window, 1u);
  EXPECT_EQ(needs("tova").decay, 0.0);
  for (const char* name : {"snapkv", "expected-attention", "paper"}) {
    const PolicyNeeds of_20 = needs(std::string(name) + ":queries=20");
    EXPECT_EQ(of_20.queries, Queries::kWindow) << name;
    EXPECT_EQ(of_20.window, 20u) << name;
    EXPECT_DOUBLE_EQ(of_20.decay, 0.95) << name;
    EXPECT_EQ(needs(std::string(name) + ":queries=1").decay, 0.0) << name;
  }
  for (const std::string name : kPublished) {
    const PolicyNeeds own = needs(name);
    EXPECT_EQ(own.expected, name == "expected-attention") << name;
    EXPECT_EQ(own.text_weighted, name == "tgv") << name;
    EXPECT_EQ(own.only_text, name == "tgv" || name == "paper") << name;
    EXPECT_EQ(own.entropy, name == "paper") << name;
  }
  EXPECT_FALSE(needs("paper:lambda=1").entropy);
  EXPECT_TRUE(needs("paper:lambda=0.99").entropy);
}

TEST(PolicyDefaultsTest, AreThoseOfTheMethods) {
  const std::set<std::string> comparable = {"h2o",   "tova", "snapkv", "expected-attention",
                                            "lookm", "tgv"};
  for (const std::string name : kPublished) {
    const PolicyInfo& info = *PolicyFrom(name).info;
    EXPECT_TRUE(info.evicts) << name;
    EXPECT_FALSE(info.scores_are_errors) << name;
    EXPECT_EQ(info.ladder, "none") << name;
    EXPECT_EQ(info.absorb, name == "lookm"   ? "merge"
                           : name == "paper" ? "states:additive=1"
                                             : "none")
        << name;
    EXPECT_EQ(info.comparable, comparable.contains(name)) << name;
  }
}

TEST(H2oPolicyTest, IsAccumulatedAttention) {
  ForRandomScoreData(
      [](const ScoreData& data) { EXPECT_EQ(ScoresOf("h2o:recent=0", data), data.attention); });
}

// Half of what fits is for recent tokens.
TEST(H2oPolicyTest, RecentTokensComeFirst) {
  ScoreData data;
  data.tokens_seen = 100;
  data.token_index = {0, 3, 79, 80, 98, 99};
  data.tokens.resize(6);
  data.attention = {5.0f, 9.0f, 1.0f, 0.5f, 0.0f, 2.0f};
  const PolicyChoice choice = PolicyFrom("h2o");
  ScoreContext context = data.Context(choice.policy->needs());
  context.room = 0.4;  // 40 tokens fit, 20 of them recent ones
  std::vector<float> scores(6);
  choice.policy->Score(context, scores);
  EXPECT_EQ(scores, (std::vector<float>{5.0f, 9.0f, 1.0f, 10.5f, 10.0f, 12.0f}));
}

TEST(TovaPolicyTest, IsTheLastQuerysAttention) {
  ForRandomScoreData(
      [](const ScoreData& data) { EXPECT_EQ(ScoresOf("tova", data), data.attention); });
}

TEST(ExpectedAttentionPolicyTest, IsTheEstimateTimesTheValuesLength) {
  ForRandomScoreData([](const ScoreData& data) {
    std::vector<double> expected;
    for (size_t i = 0; i < data.n(); ++i) {
      expected.push_back(data.attention[i] * Length(Row(data.values, i, data.d_v)));
    }
    ExpectScores(ScoresOf("expected-attention", data), expected, kRounding, 1e-37);
    EXPECT_EQ(ScoresOf("expected-attention:value_norm=0", data), data.attention);
  });
}

TEST(ExpectedAttentionPolicyTest, AnEstimateThatOverflowsStaysFinite) {
  ScoreData data;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  data.token_index = {0, 1, 2, 3};
  data.tokens.resize(4);
  data.attention = {kInfinity, kInfinity, 3e38f, 1.0f};
  data.d_v = 1;
  data.values = {2.0f, 0.0f, 1e30f, 1.0f};
  const std::vector<float> scores = ScoresOf("expected-attention", data);
  EXPECT_EQ(scores, (std::vector<float>{std::numeric_limits<float>::max(), 0.0f,
                                        std::numeric_limits<float>::max(), 1.0f}));
}

TEST(PaperPolicyTest, IsTheWeightedSumOfRelativeAttentionAndEntropy) {
  ForRandomScoreData([](const ScoreData& data) {
    const double most = std::ranges::max(data.attention);
    for (const double lambda : {0.0, 0.25, 0.5, 1.0}) {
      std::vector<double> expected;
      for (size_t i = 0; i < data.n(); ++i) {
        const double alpha = most > 0 ? data.attention[i] / most : 0.0;
        expected.push_back(lambda * alpha + (1 - lambda) * data.entropy[i]);
      }
      const std::vector<float> scores = ScoresOf(fmt::format("paper:lambda={}", lambda), data);
      ExpectScores(scores, expected, kRounding, 1e-37);
      for (const float score : scores) EXPECT_TRUE(score >= 0 && score <= 1) << score;
      if (lambda == 0.5) {
        EXPECT_EQ(ScoresOf("paper", data), scores);
      }
    }
  });
}

TEST(PaperPolicyTest, WithoutEntropyItRanksAsAttentionDoes) {
  ForRandomScoreData([](const ScoreData& data) {
    const std::vector<float> scores = ScoresOf("paper:lambda=1", data);
    for (size_t i = 0; i < data.n(); ++i) {
      for (size_t j = 0; j < data.n(); ++j) {
        if (data.attention[i] == data.attention[j]) {
          EXPECT_EQ(scores[i], scores[j]);
        }
        if (data.attention[i] < data.attention[j]) {
          EXPECT_LE(scores[i], scores[j]);
        }
        // Further apart than rounding, and not both below the range of a float.
        if (data.attention[i] < 0.999f * data.attention[j] && scores[j] > 1e-30f) {
          EXPECT_LT(scores[i], scores[j]);
        }
      }
    }
  });
}

}  // namespace
}  // namespace rkv
