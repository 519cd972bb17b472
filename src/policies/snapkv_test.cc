#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <vector>

#include "policies/policy.h"
#include "support/score_data.h"

namespace rkv {
namespace {

// Of the attention of the tokens at places within pool / 2, of those that are there.
std::vector<double> Pooled(const ScoreData& data, int64_t pool, bool average) {
  std::map<int64_t, double> at;
  for (size_t i = 0; i < data.n(); ++i) at[data.token_index[i]] = data.attention[i];
  std::vector<double> pooled;
  for (const int64_t place : data.token_index) {
    std::vector<double> neighbours;
    for (int64_t other = place - pool / 2; other <= place + pool / 2; ++other) {
      if (at.contains(other)) neighbours.push_back(at[other]);
    }
    double sum = 0;
    for (const double attention : neighbours) sum += attention;
    pooled.push_back(average ? sum / static_cast<double>(neighbours.size())
                             : std::ranges::max(neighbours));
  }
  return pooled;
}

TEST(SnapKvPolicyTest, PoolsOverNeighboursInTheConversation) {
  ForRandomScoreData([](const ScoreData& data) {
    for (const int pool : {1, 3, 7, 31, 255}) {
      const std::string spec = fmt::format("snapkv:pool={}", pool);
      ExpectScores(ScoresOf(spec, data), Pooled(data, pool, false), 0.0, 0.0);
      ExpectScores(ScoresOf(spec + ",average=1", data), Pooled(data, pool, true), 1e-6, 1e-37);
    }
    EXPECT_EQ(ScoresOf("snapkv", data), ScoresOf("snapkv:queries=32,pool=7,average=0", data));
    EXPECT_EQ(ScoresOf("snapkv:pool=6", data), ScoresOf("snapkv:pool=7", data));
    EXPECT_EQ(ScoresOf("snapkv:pool=1", data), data.attention);
  });
}

TEST(SnapKvPolicyTest, AGapIsNotBridged) {
  ScoreData data;
  data.token_index = {10, 11, 14, 15, 16, 30};  // 11 and 14 are adjacent in the list only
  data.tokens.resize(data.n());
  data.attention = {0.0f, 0.9f, 0.1f, 0.2f, 0.0f, 0.05f};
  EXPECT_EQ(ScoresOf("snapkv:pool=3", data),
            (std::vector<float>{0.9f, 0.9f, 0.2f, 0.2f, 0.2f, 0.05f}));
  EXPECT_EQ(ScoresOf("snapkv:pool=7", data),
            (std::vector<float>{0.9f, 0.9f, 0.9f, 0.2f, 0.2f, 0.05f}));
  const std::vector<float> average = ScoresOf("snapkv:pool=3,average=1", data);
  EXPECT_FLOAT_EQ(average[0], 0.45f);
  EXPECT_FLOAT_EQ(average[2], 0.15f);
  EXPECT_FLOAT_EQ(average[3], 0.1f);
  EXPECT_FLOAT_EQ(average[5], 0.05f);
}

// The whole passage around the token that was attended to stays, rather than other single tokens.
TEST(SnapKvPolicyTest, KeepsPassages) {
  Random random(5);
  for (int round = 0; round < 50; ++round) {
    ScoreData data;
    const size_t n = 20 + random.NextBelow(100);
    for (uint32_t i = 0; i < n; ++i) {
      data.token_index.push_back(i);
      data.attention.push_back(0.1f * static_cast<float>(random.NextDouble()));
    }
    data.tokens.resize(n);
    const size_t peak = 3 + random.NextBelow(n - 6);
    data.attention[peak] = 1.0f;
    const std::vector<float> scores = ScoresOf("snapkv", data);
    for (size_t i = 0; i < n; ++i) {
      EXPECT_EQ(scores[i] == 1.0f, i + 3 >= peak && i <= peak + 3) << i << " of peak " << peak;
    }
  }
}

}  // namespace
}  // namespace rkv
