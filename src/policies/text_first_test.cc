// The policies that keep text before anything else.
#include <gtest/gtest.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "policies/policy.h"
#include "support/score_data.h"

namespace rkv {
namespace {

class TextFirstTest : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Policies, TextFirstTest, testing::Values("lookm", "tgv"));

bool IsText(const ScoreData& data, size_t i) { return data.tokens[i].modality == Modality::kText; }

TEST_P(TextFirstTest, EveryTextTokenOutranksEveryOther) {
  size_t n_pairs = 0;
  ForRandomScoreData([&](const ScoreData& data) {
    const std::vector<float> scores = ScoresOf(GetParam(), data);
    for (size_t i = 0; i < data.n(); ++i) {
      for (size_t j = 0; j < data.n(); ++j) {
        if (!IsText(data, i) || IsText(data, j)) continue;
        EXPECT_GT(scores[i], scores[j]) << data.attention[i] << ", " << data.attention[j];
        ++n_pairs;
      }
    }
  });
  EXPECT_GT(n_pairs, 10000u);
}

// The reference: sorted by (is text, attention).
TEST_P(TextFirstTest, WithinAModalityAttentionDecides) {
  ForRandomScoreData([](const ScoreData& data) {
    const std::vector<float> scores = ScoresOf(GetParam(), data);
    const auto rank = [&](size_t i) { return std::pair(IsText(data, i), data.attention[i]); };
    for (size_t i = 0; i < data.n(); ++i) {
      for (size_t j = 0; j < data.n(); ++j) {
        if (rank(i) == rank(j)) {
          EXPECT_EQ(scores[i], scores[j]);
        }
        if (rank(i) < rank(j)) {
          EXPECT_LE(scores[i], scores[j]);
        }
        if (IsText(data, i) == IsText(data, j) && data.attention[i] < 0.999f * data.attention[j]) {
          EXPECT_LT(scores[i], scores[j]) << data.attention[i] << ", " << data.attention[j];
        }
      }
    }
  });
}

// Where the budget is pooled, tokens of different heads are compared.
TEST_P(TextFirstTest, HoldsAcrossHeads) {
  Random random(7);
  for (int round = 0; round < 50; ++round) {
    ScoreData quiet = RandomScoreData(random, ScoreDataKind::kSmooth);
    ScoreData loud = RandomScoreData(random, ScoreDataKind::kSmooth);
    for (float& attention : quiet.attention) attention *= 1e-12f;
    for (float& attention : loud.attention) attention = 1.0f + 1e6f * attention;
    for (TokenInfo& token : quiet.tokens) token.modality = Modality::kText;
    for (TokenInfo& token : loud.tokens) token.modality = Modality::kImage;
    EXPECT_GT(std::ranges::min(ScoresOf(GetParam(), quiet)),
              std::ranges::max(ScoresOf(GetParam(), loud)));
    for (TokenInfo& token : quiet.tokens) token.modality = Modality::kAudio;
    EXPECT_LT(std::ranges::max(ScoresOf(GetParam(), quiet)),
              std::ranges::min(ScoresOf(GetParam(), loud)));
  }
}

}  // namespace
}  // namespace rkv
