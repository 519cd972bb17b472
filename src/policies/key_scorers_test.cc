// Scorers without attention, against their formulas in double precision.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "policies/policy.h"
#include "support/score_data.h"

namespace rkv {
namespace {

TEST(RandomPolicyTest, IsUniform) {
  constexpr size_t kTokens = 20000;
  constexpr size_t kBins = 50;
  ScoreData data;
  for (uint32_t i = 0; i < kTokens; ++i) data.token_index.push_back(i);
  data.tokens.resize(kTokens);
  for (const size_t head : {0, 1, 7}) {
    data.kv_head = head;
    const std::vector<float> scores = ScoresOf("random", data);
    std::vector<double> counts(kBins);
    double neighbours = 0;  // covariance of consecutive tokens
    for (size_t i = 0; i < kTokens; ++i) {
      ASSERT_GE(scores[i], 0.0f);
      ASSERT_LT(scores[i], 1.0f);
      ++counts[static_cast<size_t>(scores[i] * kBins)];
      if (i > 0) neighbours += (scores[i] - 0.5) * (scores[i - 1] - 0.5) / kTokens;
    }
    double chi_squared = 0;
    constexpr double kExpected = static_cast<double>(kTokens) / kBins;
    for (const double count : counts) {
      chi_squared += (count - kExpected) * (count - kExpected) / kExpected;
    }
    // 49 degrees of freedom: mean 49, standard deviation 9.9.
    EXPECT_GT(chi_squared, 49 - 4 * 9.9);
    EXPECT_LT(chi_squared, 49 + 5 * 9.9);
    // Its standard deviation is 1/12 / sqrt(n).
    EXPECT_LT(std::abs(neighbours), 5.0 / 12.0 / std::sqrt(kTokens));
  }
}

TEST(RandomPolicyTest, DiffersByHeadLayerAndSeedAndByNothingElse) {
  Random random(1);
  ScoreData data;
  for (uint32_t i = 0; i < 200; ++i) data.token_index.push_back(3 * i);
  data.tokens.resize(data.n());
  const std::vector<float> scores = ScoresOf("random", data);
  const auto n_same = [&](const std::vector<float>& others) {
    size_t n = 0;
    for (size_t i = 0; i < others.size(); ++i) n += others[i] == scores[i] ? 1 : 0;
    return n;
  };
  EXPECT_EQ(n_same(ScoresOf("random:seed=0", data)), data.n());
  EXPECT_LT(n_same(ScoresOf("random:seed=1", data)), 3u);
  EXPECT_LT(n_same(ScoresOf("random:seed=4294967295", data)), 3u);
  ScoreData other = data;
  other.layer = 1;
  EXPECT_LT(n_same(ScoresOf("random", other)), 3u);
  other = data;
  other.kv_head = 1;
  EXPECT_LT(n_same(ScoresOf("random", other)), 3u);
  const std::vector<float> of_head_1 = ScoresOf("random", other);
  other.kv_head = 0;
  other.layer = 1;
  EXPECT_NE(ScoresOf("random", other), of_head_1);

  // A token's score stays when others leave and the conversation grows.
  ScoreData fewer = data;
  fewer.tokens_seen = 12345;
  std::vector<float> expected;
  fewer.token_index.clear();
  for (size_t i = 0; i < data.n(); ++i) {
    if (random.NextBelow(2) == 0) continue;
    fewer.token_index.push_back(data.token_index[i]);
    expected.push_back(scores[i]);
  }
  EXPECT_EQ(ScoresOf("random", fewer), expected);
}

TEST(KnormPolicyTest, IsTheNegatedLength) {
  ForRandomScoreData([](const ScoreData& data) {
    std::vector<double> expected;
    for (size_t i = 0; i < data.n(); ++i) expected.push_back(-Length(Row(data.keys, i, data.d_k)));
    ExpectScores(ScoresOf("knorm", data), expected, kRounding, 0.0);
  });
}

double Cosine(const std::vector<double>& a, const std::vector<double>& b) {
  double dot = 0;
  for (size_t c = 0; c < a.size(); ++c) dot += a[c] * b[c];
  const double lengths = Length(a) * Length(b);
  return lengths == 0 ? 0.0 : dot / lengths;
}

TEST(KeyDiffPolicyTest, IsTheNegatedCosineToTheMeanDirection) {
  ForRandomScoreData([](const ScoreData& data) {
    std::vector<double> mean(data.d_k);
    for (size_t i = 0; i < data.n(); ++i) {
      const std::vector<double> key = Row(data.keys, i, data.d_k);
      const double length = Length(key);
      for (size_t c = 0; c < data.d_k && length > 0; ++c) {
        mean[c] += key[c] / length / static_cast<double>(data.n());
      }
    }
    // Directions that cancel leave only rounding in the mean, so it has no direction.
    if (Length(mean) < 1e-6 && Length(mean) > 0) return;
    std::vector<double> expected;
    for (size_t i = 0; i < data.n(); ++i) {
      expected.push_back(-Cosine(Row(data.keys, i, data.d_k), mean));
    }
    ExpectScores(ScoresOf("keydiff", data), expected, 0.0, kRounding);
  });
}

TEST(KeyDiffPolicyTest, LengthsDoNotMatterAndTheOddOneOutIsKept) {
  Random random(3);
  for (int round = 0; round < 50; ++round) {
    ScoreData data = RandomScoreData(random, ScoreDataKind::kSmooth);
    const std::vector<float> scores = ScoresOf("keydiff", data);
    ScoreData scaled = data;
    for (size_t i = 0; i < data.n(); ++i) {
      const float scale = std::exp2(static_cast<float>(random.NextBelow(20)) - 10.0f);
      for (size_t c = 0; c < data.d_k; ++c) scaled.keys[i * data.d_k + c] *= scale;
    }
    ExpectScores(ScoresOf("keydiff", scaled), AsDouble(scores), 0.0, kRounding);

    // All keys nearly alike, except one that points the other way.
    if (data.n() < 3) continue;
    for (size_t i = 0; i < data.n(); ++i) {
      for (size_t c = 0; c < data.d_k; ++c) {
        data.keys[i * data.d_k + c] = 1.0f + 0.01f * static_cast<float>(random.NextGaussian());
      }
    }
    const size_t odd = random.NextBelow(data.n());
    for (size_t c = 0; c < data.d_k; ++c) data.keys[odd * data.d_k + c] = -1.0f;
    const std::vector<float> with_odd = ScoresOf("keydiff", data);
    EXPECT_EQ(std::ranges::max_element(with_odd) - with_odd.begin(), static_cast<ptrdiff_t>(odd));
  }
}

}  // namespace
}  // namespace rkv
