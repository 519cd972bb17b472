// Random input for policies, with what is rare in practice but must work: one token, ties, gaps,
// equal tokens, zeros, attention over many orders of magnitude.
#ifndef RETENTIVEKV_TESTS_SUPPORT_SCORE_DATA_H_
#define RETENTIVEKV_TESTS_SUPPORT_SCORE_DATA_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/random.h"
#include "policies/policy.h"

namespace rkv {

enum class ScoreDataKind { kSmooth, kTies, kAllEqual, kAllZero, kManyScales, kSomeZero };
inline constexpr size_t kScoreDataKinds = 6;

struct ScoreData : TokenRows {
  size_t layer = 0;
  size_t kv_head = 0;
  uint64_t tokens_seen = 0;
  std::vector<uint32_t> token_index;  // [n]
  std::vector<TokenInfo> tokens;      // [n]
  size_t d_k = 0;
  size_t d_v = 0;
  std::vector<float> keys;       // [n, d_k]
  std::vector<float> values;     // [n, d_v]
  std::vector<float> attention;  // [n]
  std::vector<float> entropy;    // [n]
  std::vector<float> surprisal;  // [n] or empty

  size_t n() const { return token_index.size(); }

  void Read(size_t i, float* key, float* value) const override {
    if (key != nullptr) std::copy_n(keys.data() + i * d_k, d_k, key);
    if (value != nullptr) std::copy_n(values.data() + i * d_v, d_v, value);
  }

  // Exactly what a policy is promised, for as long as this lives.
  ScoreContext Context(const PolicyNeeds& needs) const {
    ScoreContext context;
    context.layer = layer;
    context.kv_head = kv_head;
    context.tokens_seen = tokens_seen;
    context.token_index = token_index;
    context.tokens = tokens;
    context.rows = this;
    context.d_k = d_k;
    context.d_v = d_v;
    if (needs.queries != PolicyNeeds::Queries::kNone) context.attention = attention;
    if (needs.entropy) context.entropy = entropy;
    if (needs.surprisal) context.surprisal = surprisal;
    return context;
  }
};

// One number of a kind; `scale` is its usual size.
inline float RandomNumber(Random& random, ScoreDataKind kind, bool is_signed, double scale) {
  const double sign = is_signed && random.NextBelow(2) == 0 ? -1.0 : 1.0;
  switch (kind) {
    case ScoreDataKind::kSmooth:
      break;
    case ScoreDataKind::kTies:
      return static_cast<float>(sign * scale * static_cast<double>(random.NextBelow(3)) / 4.0);
    case ScoreDataKind::kAllEqual:
      return static_cast<float>(scale / 3.0);
    case ScoreDataKind::kAllZero:
      return 0.0f;
    case ScoreDataKind::kManyScales:
      return static_cast<float>(sign * scale * std::exp(8.0 * random.NextGaussian()));
    case ScoreDataKind::kSomeZero:
      if (random.NextBelow(2) == 0) return 0.0f;
      break;
  }
  return static_cast<float>(sign * scale * random.NextDouble());
}

// n rows; for kSomeZero, whole rows are.
inline std::vector<float> RandomRows(Random& random, ScoreDataKind kind, size_t n, size_t d) {
  std::vector<float> rows(n * d);
  const bool by_row = kind == ScoreDataKind::kSomeZero;
  for (size_t i = 0; i < n; ++i) {
    if (by_row && random.NextBelow(2) == 0) continue;
    for (size_t c = 0; c < d; ++c) {
      rows[i * d + c] = RandomNumber(random, by_row ? ScoreDataKind::kSmooth : kind, true, 4.0);
    }
  }
  return rows;
}

inline ScoreData RandomScoreData(Random& random, ScoreDataKind kind) {
  constexpr size_t kSizes[] = {1, 2, 3, 7, 64, 129};
  constexpr size_t kHeadSizes[] = {1, 3, 8, 33, 64};
  ScoreData data;
  data.layer = random.NextBelow(40);
  data.kv_head = random.NextBelow(8);
  const size_t n =
      random.NextBelow(2) == 0 ? kSizes[random.NextBelow(6)] : 1 + random.NextBelow(200);
  const double share_text = static_cast<double>(random.NextBelow(5)) / 4.0;  // 0 and 1 too
  const size_t max_gap = 1 + random.NextBelow(12);
  auto place = static_cast<uint32_t>(random.NextBelow(30));
  for (size_t i = 0; i < n; ++i) {
    data.token_index.push_back(place);
    place += random.NextBelow(2) == 0 ? 1 : static_cast<uint32_t>(1 + random.NextBelow(max_gap));
    TokenInfo token;
    if (random.NextDouble() >= share_text) {
      token.modality = random.NextBelow(4) == 0 ? Modality::kAudio : Modality::kImage;
      token.column = static_cast<uint16_t>(i);
    }
    data.tokens.push_back(token);
  }
  data.tokens_seen = data.token_index.back() + 1 + random.NextBelow(4);
  data.d_k = kHeadSizes[random.NextBelow(5)];
  data.d_v = kHeadSizes[random.NextBelow(5)];
  data.keys = RandomRows(random, kind, n, data.d_k);
  data.values = RandomRows(random, kind, n, data.d_v);
  for (size_t i = 0; i < n; ++i) {
    data.attention.push_back(RandomNumber(random, kind, false, 1.0));
    data.entropy.push_back(std::min(1.0f, RandomNumber(random, kind, false, 1.0)));
  }
  return data;
}

// Calls check(data) on many inputs, as many of each kind.
template <typename Check>
void ForRandomScoreData(const Check& check) {
  for (uint64_t seed = 0; seed < 40 * kScoreDataKinds; ++seed) {
    Random random(seed);
    const auto kind = static_cast<ScoreDataKind>(seed % kScoreDataKinds);
    SCOPED_TRACE("seed " + std::to_string(seed));
    check(RandomScoreData(random, kind));
    if (testing::Test::HasFailure()) return;  // One is enough to read.
  }
}

// The policy that `spec` names, for example "snapkv:pool=3".
inline PolicyChoice PolicyFrom(std::string_view spec) {
  auto parsed = ParsePolicySpec(spec);
  EXPECT_TRUE(parsed.ok()) << spec;
  auto choice = MakePolicy(*parsed);
  EXPECT_TRUE(choice.ok()) << choice.status().message();
  return *choice;
}

// Scores given only what the policy asks for.
inline std::vector<float> ScoresOf(const Policy& policy, const ScoreData& data) {
  std::vector<float> scores(data.n(), std::numeric_limits<float>::quiet_NaN());
  policy.Score(data.Context(policy.needs()), scores);
  return scores;
}
inline std::vector<float> ScoresOf(std::string_view spec, const ScoreData& data) {
  return ScoresOf(*PolicyFrom(spec).policy, data);
}

inline constexpr double kRounding = 1e-6;  // of a float, and of a few operations on them

inline std::vector<double> AsDouble(std::span<const float> x) { return {x.begin(), x.end()}; }

inline std::vector<double> Row(const std::vector<float>& rows, size_t i, size_t d) {
  return AsDouble(std::span(rows).subspan(i * d, d));
}

inline double Length(const std::vector<double>& x) {
  double sum = 0;
  for (const double value : x) sum += value * value;
  return std::sqrt(sum);
}

// |actual - expected| <= relative * |expected| + absolute, token by token.
inline void ExpectScores(std::span<const float> actual, std::span<const double> expected,
                         double relative, double absolute) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    EXPECT_NEAR(actual[i], expected[i], relative * std::abs(expected[i]) + absolute)
        << "token " << i << " of " << actual.size();
  }
}

}  // namespace rkv

#endif  // RETENTIVEKV_TESTS_SUPPORT_SCORE_DATA_H_
