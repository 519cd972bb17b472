// States with a matrix of how values follow keys: the paper's S.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/f16.h"
#include "base/random.h"
#include "cache/kv_cache_impl.h"

namespace rkv {
namespace {

constexpr size_t kD = 16;
constexpr float kScale = 0.25f;

CacheShape OneHead() { return {.layers = {{.n_head = 1, .n_kv_head = 1, .d_k = kD, .d_v = kD}}}; }

struct Tokens {
  std::vector<uint16_t> k, v;  // [n, kD]

  size_t n() const { return k.size() / kD; }
  double key(size_t i, size_t e) const { return static_cast<double>(F32FromF16(k[i * kD + e])); }
  double value(size_t i, size_t e) const { return static_cast<double>(F32FromF16(v[i * kD + e])); }
};

// Gaussian keys, and values that follow them up to noise.
Tokens JointlyGaussian(size_t n, Random& random) {
  const auto gaussian = [&random] { return static_cast<float>(random.NextGaussian()); };
  std::vector<float> map(kD * kD);
  for (float& x : map) x = 0.3f * gaussian();
  Tokens tokens;
  for (size_t i = 0; i < n; ++i) {
    float k[kD];
    for (float& x : k) x = gaussian();
    for (const float x : k) tokens.k.push_back(F16FromF32(x));
    for (size_t row = 0; row < kD; ++row) {
      float v = 0.1f * gaussian();
      for (size_t e = 0; e < kD; ++e) v += map[row * kD + e] * k[e];
      tokens.v.push_back(F16FromF32(v));
    }
  }
  return tokens;
}

KvCache Remember(const Tokens& tokens, const std::string& absorb, size_t per_append,
                 const char* policy = "streaming:sinks=1,window=4") {
  CacheOptions options{.policy = *ParsePolicySpec(policy)};
  if (!absorb.empty()) {
    options.budget = *ParseBudget("48t");
    options.absorb = *ParseAbsorbSpec(absorb);
  }
  KvCache cache = *KvCache::Create(OneHead(), options);
  for (size_t i = 0; i < tokens.n(); i += per_append) {
    const size_t n = std::min(per_append, tokens.n() - i);
    KvCache::Append appended = cache.BeginAppend({.n = n});
    for (size_t j = 0; j < n; ++j) {
      appended.Stage(0, 0, j, tokens.k.data() + (i + j) * kD, tokens.v.data() + (i + j) * kD);
    }
    appended.Commit();
  }
  return cache;
}

std::vector<float> Attend(const KvCache& cache, const std::vector<float>& q) {
  std::vector<float> out(kD);
  cache.Attend(0, 0, q.data(), 1, kScale, 0.0f, out.data());
  return out;
}

double MeanError(const KvCache& cache, const KvCache& full, uint64_t seed) {
  Random random(seed);
  double error = 0;
  for (int round = 0; round < 20; ++round) {
    std::vector<float> q(kD);
    for (float& x : q) x = static_cast<float>(random.NextGaussian());
    const std::vector<float> actual = Attend(cache, q);
    const std::vector<float> exact = Attend(full, q);
    for (size_t e = 0; e < kD; ++e) error += std::abs(static_cast<double>(actual[e] - exact[e]));
  }
  return error / (20 * kD);
}

TEST(MatrixStateTest, JointlyGaussianTokensAreReadOutExactlyAsTheirNumberGrows) {
  double last = 1;
  for (const size_t n : {200, 1000, 5000}) {
    Random random(3);
    const Tokens tokens = JointlyGaussian(n, random);
    const KvCache full = Remember(tokens, "", n, "full");
    const KvCache with = Remember(tokens, "clusters:text=1,share=0.001,matrix=1", n);
    const KvCache without = Remember(tokens, "clusters:text=1,share=0.001", n);
    ASSERT_NE(with.impl().head(0).matrix(), nullptr);
    ASSERT_EQ(with.stats().states, 1u);
    const double error = MeanError(with, full, 4);
    EXPECT_LT(error, 0.5 * MeanError(without, full, 4)) << n;
    EXPECT_LT(error, last) << n;
    last = error;
  }
  EXPECT_LT(last, 0.02);
}

TEST(MatrixStateTest, OneByOneEqualsInBatch) {
  Random random(5);
  const Tokens tokens = JointlyGaussian(300, random);
  const std::string absorb = "clusters:text=1,share=0.001,matrix=1";
  const KvCache batch = Remember(tokens, absorb, 300);
  const KvCache single = Remember(tokens, absorb, 1);
  // Both keep the same tokens only if their spare rows are the same.
  const KvCache full = Remember(tokens, "", 300, "full");
  EXPECT_NEAR(MeanError(batch, full, 6), MeanError(single, full, 6), 0.01);
}

TEST(MatrixStateTest, AdditiveReadoutIsThePapersFormula) {
  Random random(7);
  const Tokens tokens = JointlyGaussian(400, random);
  const KvCache cache = Remember(tokens, "clusters:text=1,share=0.1,additive=0.5,matrix=1", 100);
  const HeadInspection seen = cache.Inspect().heads[0];
  const RowStore& states = cache.impl().head(0).store(cache.impl().config().state_tier());
  ASSERT_GT(states.size(), 1u);
  for (int round = 0; round < 10; ++round) {
    std::vector<float> q(kD);
    for (float& x : q) x = static_cast<float>(random.NextGaussian());
    // Softmax over the remaining tokens, and q S over the forgotten ones.
    std::vector<double> exact(kD), readout(kD);
    double total = 0;
    for (size_t i = 0; i < tokens.n(); ++i) {
      double dot = 0;
      for (size_t e = 0; e < kD; ++e) dot += static_cast<double>(q[e]) * tokens.key(i, e);
      const bool stays = seen.rung[i] != HeadInspection::kForgotten;
      const double weight = stays ? std::exp(static_cast<double>(kScale) * dot) : dot;
      if (stays) total += weight;
      for (size_t e = 0; e < kD; ++e) (stays ? exact : readout)[e] += weight * tokens.value(i, e);
    }
    double normaliser = 1e-6;
    std::vector<float> k(kD);
    for (size_t slot = 0; slot < states.size(); ++slot) {
      states.DecodeKey(slot, k.data());
      double dot = 0;
      for (size_t e = 0; e < kD; ++e) dot += static_cast<double>(q[e]) * static_cast<double>(k[e]);
      normaliser += std::exp(static_cast<double>(states.row(slot).log_mass)) * std::abs(dot);
    }
    const std::vector<float> actual = Attend(cache, q);
    for (size_t e = 0; e < kD; ++e) {
      const double expected = exact[e] / total + 0.5 * readout[e] / normaliser;
      EXPECT_NEAR(static_cast<double>(actual[e]), expected, 5e-3 * (1 + std::abs(expected)));
    }
  }
}

// A matrix takes at most a quarter of the bytes. With a smaller budget none is made.
TEST(MatrixStateTest, IsMadeOnlyWhereItIsSmall) {
  Random random(8);
  const Tokens tokens = JointlyGaussian(300, random);
  CacheOptions options{.policy = *ParsePolicySpec("streaming:sinks=1,window=4"),
                       .budget = *ParseBudget("24t"),
                       .absorb = *ParseAbsorbSpec("clusters:text=1,matrix=1")};
  KvCache cache = *KvCache::Create(OneHead(), options);
  KvCache::Append appended = cache.BeginAppend({.n = tokens.n()});
  for (size_t i = 0; i < tokens.n(); ++i) {
    appended.Stage(0, 0, i, tokens.k.data() + i * kD, tokens.v.data() + i * kD);
  }
  appended.Commit();
  EXPECT_EQ(cache.impl().head(0).matrix(), nullptr);
  EXPECT_LE(cache.stats().held_bytes, cache.stats().budget_bytes);
}

// The budget grows until a matrix may be made. The matrix then takes bytes from the lowest rung's
// tokens.
TEST(MatrixStateTest, StaysWithinTheBudgetThatAllTokensHadRoomIn) {
  const CacheShape shape{.layers = {{.n_head = 2, .n_kv_head = 2, .d_k = 64, .d_v = 64}}};
  KvCache cache = *KvCache::Create(shape, {.policy = *ParsePolicySpec("retentive:window=8"),
                                           .budget = *ParseBudget("20%"),
                                           .absorb = *ParseAbsorbSpec("clusters:text=1,matrix=1"),
                                           .ladder = *ParseLadder("f16,q8_0,q4_0,q2")});
  Random random(9);
  std::vector<uint16_t> row(64);
  const auto append = [&](size_t n) {
    KvCache::Append appended = cache.BeginAppend({.n = n});
    for (size_t head = 0; head < 2; ++head) {
      for (size_t i = 0; i < n; ++i) {
        for (uint16_t& x : row) x = F16FromF32(static_cast<float>(random.NextGaussian()));
        appended.Stage(0, head, i, row.data(), row.data());
      }
    }
    appended.Commit();
  };
  append(500);
  ASSERT_EQ(cache.impl().head(0).matrix(), nullptr);
  ASSERT_EQ(cache.stats().tokens_evicted, 0u);
  for (int i = 0; i < 400; ++i) {
    append(1);
    ASSERT_LE(cache.stats().held_bytes, cache.stats().budget_bytes) << "step " << i;
  }
  EXPECT_NE(cache.impl().head(0).matrix(), nullptr);
}

}  // namespace
}  // namespace rkv
