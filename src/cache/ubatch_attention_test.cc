#include "cache/ubatch_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <thread>
#include <vector>

#include "support/random_ubatch.h"

namespace rkv {
namespace {

CacheShape TestShape() {
  return {.layers = {{.n_head = 6, .n_kv_head = 2, .d_k = 32, .d_v = 48},
                     {.n_head = 3, .n_kv_head = 3, .d_k = 16, .d_v = 24}}};
}

CacheOptions Options(const std::string& policy, const std::string& budget) {
  return {.policy = *ParsePolicySpec(policy), .budget = *ParseBudget(budget)};
}

constexpr size_t kPromptTokens = 3000;  // three parts at 100 %

// Attention in parts equals attention in one piece, up to rounding, and so do the observations of
// policies.
TEST(UbatchAttentionTest, PartsMakeTheWhole) {
  for (const auto& [policy, budget] : std::vector<std::pair<std::string, std::string>>{
           {"full", "100%"}, {"h2o", "1500t"}, {"retentive", "20%"}, {"paper", "1500t"}}) {
    SCOPED_TRACE(policy);
    Random random(1);
    KvCache whole = *KvCache::Create(TestShape(), Options(policy, budget));
    RandomUbatch prompt(TestShape(), kPromptTokens, random);
    UbatchBuffers buffers;
    prompt.Run(whole, &buffers);
    KvCache parts = whole;
    UbatchBuffers parts_buffers;
    AttentionScratch scratch;
    scratch.Resize(TestShape());
    for (int step = 0; step < 3; ++step) {
      RandomUbatch token(TestShape(), 1, random);
      token.Run(whole, &buffers, scratch);
      const std::vector<float> expected[] = {token.out(0), token.out(1)};
      token.Run(parts, &parts_buffers, scratch, true);
      for (size_t layer = 0; layer < 2; ++layer) {
        for (size_t i = 0; i < expected[layer].size(); ++i) {
          ASSERT_NEAR(token.out(layer)[i], expected[layer][i], 2e-5);
        }
      }
    }
    const CacheConfig& config = whole.impl().config();
    for (size_t head = 0; head < config.n_heads(); ++head) {
      for (size_t tier = 0; tier < config.n_tiers(); ++tier) {
        const RowStore& a = whole.impl().head(head).store(tier);
        const RowStore& b = parts.impl().head(head).store(tier);
        ASSERT_EQ(a.size(), b.size());
        for (size_t slot = 0; slot < a.size(); ++slot) {
          ASSERT_EQ(a.index(slot), b.index(slot));
          for (size_t i = 0; i < a.stats(slot).size(); ++i) {
            const auto expected = static_cast<double>(a.stats(slot)[i]);
            ASSERT_NEAR(static_cast<double>(b.stats(slot)[i]), expected,
                        1e-4 * (1e-3 + std::abs(expected)));
          }
        }
      }
    }
  }
}

// The bits do not depend on the thread of a part, or on the order in which parts end.
TEST(UbatchAttentionTest, ThreadsGiveTheSameBits) {
  Random random(2);
  KvCache cache = *KvCache::Create(TestShape(), Options("full", "100%"));
  UbatchBuffers buffers;
  RandomUbatch(TestShape(), kPromptTokens, random).Run(cache, &buffers);
  RandomUbatch token(TestShape(), 1, random);
  KvCache alone = cache;
  AttentionScratch scratch;
  scratch.Resize(TestShape());
  token.Run(alone, &buffers, scratch, true);
  const std::vector<float> expected[] = {token.out(0), token.out(1)};
  for (int round = 0; round < 10; ++round) {
    KvCache shared = cache;
    token.RunOnThreads(shared, &buffers, 4);
    for (size_t layer = 0; layer < 2; ++layer) EXPECT_EQ(token.out(layer), expected[layer]);
  }
}

TEST(UbatchAttentionTest, PartsBecomeLongerOnceThereAreSome) {
  EXPECT_EQ(PartsOfPages(0), 1u);
  EXPECT_EQ(PartsOfPages(16), 1u);
  EXPECT_EQ(PartsOfPages(17), 2u);
  EXPECT_EQ(PartsOfPages(128), 8u);
  EXPECT_EQ(PartsOfPages(256), 8u);
  EXPECT_EQ(PartsOfPages(257), 9u);
  EXPECT_EQ(PartsOfPages(512), 16u);
  EXPECT_EQ(PartsOfPages(100000), SoftmaxParts::kMaxParts);
}

TEST(UbatchAttentionTest, OnlySingleTokensAreCut) {
  Random random(3);
  KvCache cache = *KvCache::Create(TestShape(), Options("full", "100%"));
  Segment one;
  one.cache = &cache.impl();
  one.AddRow(0);
  Segment two = one;
  two.AddRow(1);
  EXPECT_EQ(NumParts(one, 0, 0), 1u);
  UbatchBuffers buffers;
  RandomUbatch(TestShape(), kPromptTokens, random).Run(cache, &buffers);
  EXPECT_EQ(NumParts(one, 0, 0), 3u);
  EXPECT_EQ(NumParts(two, 0, 0), 1u);
}

}  // namespace
}  // namespace rkv
