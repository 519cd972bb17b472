#include "retentivekv/kv_cache.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include "base/f16.h"
#include "base/random.h"
#include "cache/kv_cache_impl.h"
#include "retentivekv/inspect.h"

namespace rkv {
namespace {

// Two layers of different shapes: grouped queries, and K and V of different sizes.
CacheShape TestShape() {
  return {.layers = {{.n_head = 4, .n_kv_head = 2, .d_k = 32, .d_v = 32},
                     {.n_head = 3, .n_kv_head = 3, .d_k = 16, .d_v = 24}}};
}

CacheOptions Options(const std::string& policy, const std::string& budget = "100%") {
  return {.policy = *ParsePolicySpec(policy), .budget = *ParseBudget(budget)};
}

// The K (salt 1) or V (salt 2) row of a token: random, but a function of its place.
std::vector<uint16_t> Row(size_t layer, size_t head, uint64_t token, size_t n, uint64_t salt) {
  Random random((layer * 1000 + head) * 1000000 + token * 10 + salt);
  std::vector<uint16_t> row(n);
  for (uint16_t& x : row) x = F16FromF32(static_cast<float>(random.NextGaussian()));
  return row;
}

void Append(KvCache& cache, size_t n, bool with_surprisals = false) {
  const uint64_t first = cache.tokens_seen();
  KvCache::Append append = cache.BeginAppend({.n = n});
  for (size_t l = 0; l < cache.shape().layers.size(); ++l) {
    const LayerShape& layer = cache.shape().layers[l];
    for (size_t h = 0; h < layer.n_kv_head; ++h) {
      for (size_t i = 0; i < n; ++i) {
        append.Stage(l, h, i, Row(l, h, first + i, layer.d_k, 1).data(),
                     Row(l, h, first + i, layer.d_v, 2).data());
      }
    }
  }
  for (size_t i = 0; i <= n && with_surprisals; ++i) {
    append.SetSurprisal(i, static_cast<float>(i % 7));
  }
  append.Commit();
}

std::vector<float> Query(size_t d_k) {
  Random random(99);
  std::vector<float> q(d_k);
  for (float& x : q) x = static_cast<float>(random.NextGaussian());
  return q;
}

// Double-precision attention over an explicit list of tokens.
std::vector<double> Reference(const LayerShape& layer, size_t l, size_t h,
                              const std::vector<uint64_t>& tokens) {
  const std::vector<float> q = Query(layer.d_k);
  std::vector<double> out(layer.d_v, 0.0);
  double sum = 0;
  for (const uint64_t token : tokens) {
    const std::vector<uint16_t> k = Row(l, h, token, layer.d_k, 1);
    const std::vector<uint16_t> v = Row(l, h, token, layer.d_v, 2);
    double logit = 0;
    for (size_t i = 0; i < layer.d_k; ++i) {
      logit += static_cast<double>(q[i]) * static_cast<double>(F32FromF16(k[i]));
    }
    const double weight = std::exp(0.25 * logit);
    sum += weight;
    for (size_t i = 0; i < layer.d_v; ++i) {
      out[i] += weight * static_cast<double>(F32FromF16(v[i]));
    }
  }
  for (double& x : out) x = sum > 0 ? x / sum : 0;
  return out;
}

std::vector<float> Attend(const KvCache& cache, size_t l, size_t h) {
  const LayerShape& layer = cache.shape().layers[l];
  std::vector<float> out(layer.d_v, std::nanf(""));
  cache.Attend(l, h, Query(layer.d_k).data(), 1, 0.25f, 0.0f, out.data());
  return out;
}

// Checks that the cache attends exactly to `tokens`, in every layer and head.
void ExpectHolds(const KvCache& cache, const std::vector<uint64_t>& tokens) {
  for (size_t l = 0; l < cache.shape().layers.size(); ++l) {
    const LayerShape& layer = cache.shape().layers[l];
    for (size_t h = 0; h < layer.n_kv_head; ++h) {
      const std::vector<double> expected = Reference(layer, l, h, tokens);
      const std::vector<float> actual = Attend(cache, l, h);
      for (size_t i = 0; i < layer.d_v; ++i) {
        ASSERT_NEAR(static_cast<double>(actual[i]), expected[i], 1e-5)
            << "layer " << l << " head " << h << " of " << tokens.size() << " tokens";
      }
    }
  }
  EXPECT_EQ(cache.stats().tokens_exact, tokens.size());
}

std::vector<uint64_t> Range(uint64_t begin, uint64_t end) {
  std::vector<uint64_t> tokens;
  for (uint64_t i = begin; i < end; ++i) tokens.push_back(i);
  return tokens;
}

// The tokens that streaming keeps: the first `sinks` and the most recent of the rest.
std::vector<uint64_t> SinksAndRecent(uint64_t seen, uint64_t sinks, uint64_t n) {
  std::vector<uint64_t> tokens = Range(0, std::min(sinks, seen));
  for (uint64_t i = std::max(sinks, seen - std::min(seen, n - sinks)); i < seen; ++i) {
    tokens.push_back(i);
  }
  return tokens;
}

TEST(KvCacheTest, FullKeepsEverything) {
  KvCache cache = *KvCache::Create(TestShape(), Options("full"));
  ExpectHolds(cache, {});
  for (const size_t n : {1, 5, 64, 100, 1, 1}) Append(cache, n);
  ExpectHolds(cache, Range(0, 172));
  const CacheStats stats = cache.stats();
  EXPECT_EQ(stats.tokens_seen, 172u);
  EXPECT_EQ(stats.tokens_evicted, 0u);
  EXPECT_EQ(stats.budget_bytes, 0u);
  EXPECT_EQ(stats.full_bytes, 172 * (2 * 64 + 3 * 40) * 2u);
  EXPECT_EQ(stats.exact_bytes, stats.full_bytes);
  EXPECT_GT(stats.held_bytes, stats.full_bytes);  // Indices, slack, the tables.
  EXPECT_LT(static_cast<double>(stats.held_bytes), 1.15 * static_cast<double>(stats.full_bytes));
}

TEST(KvCacheTest, AbortedAppendLeavesNoTrace) {
  KvCache cache = *KvCache::Create(TestShape(), Options("full"));
  Append(cache, 10);
  { const KvCache::Append aborted = cache.BeginAppend({.n = 7}); }
  ExpectHolds(cache, Range(0, 10));
  Append(cache, 3);
  ExpectHolds(cache, Range(0, 13));
}

TEST(KvCacheTest, TokensInTransitAreNotHeld) {
  KvCache cache = *KvCache::Create(TestShape(), Options("streaming", "40t"));
  Append(cache, 100);
  const uint64_t held = cache.stats().held_bytes;
  {
    const KvCache::Append aborted = cache.BeginAppend({.n = 500});
    EXPECT_LE(cache.stats().held_bytes, cache.stats().budget_bytes);
  }
  EXPECT_EQ(cache.stats().held_bytes, held);
}

// Reading takes memory beside rows. A large budget leaves room for it until the answer fills it.
TEST(KvCacheTest, LongPromptsLeaveRoomOfALargeBudgetToReading) {
  const CacheShape shape = {.layers = {{.n_head = 32, .n_kv_head = 32, .d_k = 128, .d_v = 128}}};
  constexpr uint64_t kMiB = uint64_t{1} << 20;
  const std::vector<uint16_t> row = Row(0, 0, 0, 128, 1);
  const auto append = [&](KvCache& cache, size_t n, bool prompt_follows = false) {
    KvCache::Append appended = cache.BeginAppend({.n = n, .prompt_follows = prompt_follows});
    for (size_t head = 0; head < 32; ++head) {
      for (size_t i = 0; i < n; ++i) appended.Stage(0, head, i, row.data(), row.data());
    }
    appended.Commit();
  };
  for (const auto& [budget, room] : {std::pair{56 * kMiB, kMiB}, std::pair{30 * kMiB, 0 * kMiB}}) {
    SCOPED_TRACE(budget);
    KvCache cache =
        *KvCache::Create(shape, Options("streaming", fmt::format("{}MiB", budget / kMiB)));
    KvCache other = cache;  // whose ubatches are prompts of their own
    for (size_t i = 0; i < 10; ++i) {
      append(cache, 400, i < 9);
      append(other, 400);
      EXPECT_LE(cache.stats().held_bytes, budget - room);
    }
    const uint64_t free = other.stats().held_bytes - cache.stats().held_bytes;
    EXPECT_LE(free, room + kMiB / 2);
    EXPECT_EQ(free > 0, room > 0);
    uint64_t most = 0;
    for (size_t i = 0; i < 300; ++i) {
      append(cache, 1);
      most = std::max(most, cache.stats().held_bytes);
    }
    EXPECT_GT(most, budget - kMiB / 8);
    EXPECT_LE(most, budget);
    // A rolled back prompt leaves no reserved room to the next.
    append(cache, 400, true);
    cache.Truncate(cache.tokens_seen() - 400);
    append(cache, 800);
    EXPECT_GT(cache.stats().held_bytes, budget - std::max(room, kMiB / 2));
  }
}

TEST(KvCacheTest, BudgetsBeyondAnyMachineAreNoLimit) {
  for (const char* budget : {"1e20t", "99999999999GiB"}) {
    KvCache cache = *KvCache::Create(TestShape(), Options("streaming", budget));
    Append(cache, 300);
    ExpectHolds(cache, Range(0, 300));
    EXPECT_EQ(cache.stats().budget_bytes, 0u);
  }
}

TEST(KvCacheTest, StreamingKeepsSinksAndRecentTokens) {
  KvCache cache = *KvCache::Create(TestShape(), Options("streaming:sinks=3", "40t"));
  for (const size_t n : {20, 30, 1, 1, 1, 90, 1, 1}) {
    Append(cache, n);
    const CacheStats stats = cache.stats();
    ASSERT_LE(stats.held_bytes, stats.budget_bytes);
    ExpectHolds(cache, SinksAndRecent(cache.tokens_seen(), 3, stats.tokens_exact));
  }
  // Indices and tables cost something, but most of the budget is tokens.
  EXPECT_GE(cache.stats().tokens_exact, 34u);
}

TEST(KvCacheTest, HundredPercentIsFullBitForBit) {
  KvCache full = *KvCache::Create(TestShape(), Options("full"));
  KvCache streaming = *KvCache::Create(TestShape(), Options("streaming", "100%"));
  for (const size_t n : {70, 1, 1, 130, 1}) {
    Append(full, n);
    Append(streaming, n);
  }
  for (size_t l = 0; l < 2; ++l) {
    for (size_t h = 0; h < TestShape().layers[l].n_kv_head; ++h) {
      EXPECT_EQ(Attend(full, l, h), Attend(streaming, l, h));
    }
  }
}

TEST(KvCacheTest, PercentBudgetsGrowWithTheConversation) {
  KvCache cache = *KvCache::Create(TestShape(), Options("streaming", "25%"));
  Append(cache, 400);
  EXPECT_NEAR(static_cast<double>(cache.stats().tokens_exact), 92, 6);
  for (int i = 0; i < 400; ++i) {
    Append(cache, 1);
    ASSERT_LE(cache.stats().held_bytes, cache.stats().budget_bytes);
  }
  // Up to a sixteenth is room for the steps until the next compression.
  EXPECT_NEAR(static_cast<double>(cache.stats().tokens_exact), 188, 10);
  EXPECT_NEAR(cache.stats().kept(), 0.25, 0.01);
}

TEST(KvCacheTest, ImpossibleBudgetsAreRefusedWithTheSmallest) {
  const auto refused = KvCache::Create(TestShape(), Options("streaming", "3t"));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().code(), StatusCode::kInvalidArgument);
  // The number that the message names works.
  const std::string& message = refused.status().message();
  const size_t open = message.rfind('(');
  const std::string smallest = message.substr(open + 1, message.rfind(')') - open - 1);
  EXPECT_TRUE(KvCache::Create(TestShape(), Options("streaming", smallest)).ok()) << message;
  EXPECT_EQ(KvCache::Create(TestShape(), Options("full", "50%")).status().code(),
            StatusCode::kInvalidArgument);
  for (const Budget budget :
       {Budget{Budget::Unit::kPercent, -20.0}, Budget{Budget::Unit::kPercent, 0.0},
        Budget{Budget::Unit::kPercent, std::nan("")}, Budget{Budget::Unit::kBytes, std::nan("")},
        Budget{Budget::Unit::kTokens, -1e300}}) {
    CacheOptions options = Options("streaming");
    options.budget = budget;
    EXPECT_EQ(KvCache::Create(TestShape(), options).status().code(), StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(KvCache::Create(TestShape(), Options("nonsense")).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_FALSE(KvCache::Create({}, Options("full")).ok());
  EXPECT_FALSE(KvCache::Create({.layers = {{3, 2, 8, 8}}}, Options("full")).ok());
}

TEST(KvCacheTest, TruncateTakesBackTheLastTokens) {
  KvCache cache = *KvCache::Create(TestShape(), Options("full"));
  Append(cache, 150);
  const uint64_t held = cache.stats().held_bytes;
  cache.Truncate(90);
  ExpectHolds(cache, Range(0, 90));
  EXPECT_LT(cache.stats().held_bytes, held * 7 / 10);
  Append(cache, 20);
  ExpectHolds(cache, Range(0, 110));
  cache.Truncate(0);
  ExpectHolds(cache, {});
}

TEST(KvCacheTest, CopiesAreIndependent) {
  KvCache cache = *KvCache::Create(TestShape(), Options("full"));
  Append(cache, 70);
  KvCache copy = cache;
  Append(cache, 30);
  copy.Truncate(50);
  ExpectHolds(cache, Range(0, 100));
  ExpectHolds(copy, Range(0, 50));
  copy = cache;
  ExpectHolds(copy, Range(0, 100));
}

// Random schedules of all operations, against a plain model of the held tokens.
TEST(KvCacheTest, BytesStayWithinTheBudgetUnderRandomSchedules) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Random random(seed);
    const std::string budget = seed % 2 == 0 ? fmt::format("{}t", 20 + random.NextBelow(100))
                                             : fmt::format("{}%", 5 + random.NextBelow(90));
    KvCache cache = *KvCache::Create(TestShape(), Options("streaming", budget));
    std::vector<uint64_t> held;
    for (int step = 0; step < 40; ++step) {
      const uint64_t action = random.NextBelow(10);
      if (action < 3) {
        Append(cache, 1 + random.NextBelow(80));
      } else if (action < 8) {
        Append(cache, 1);
      } else if (action == 8) {
        cache = *KvCache::Load(TestShape(), cache.Save());
      } else {
        cache.Truncate(cache.tokens_seen() - random.NextBelow(cache.tokens_seen() + 1) / 4);
      }
      const CacheStats stats = cache.stats();
      ASSERT_LE(stats.held_bytes, stats.budget_bytes)
          << "seed " << seed << " step " << step << " action " << action << " budget " << budget;
      ASSERT_EQ(stats.tokens_evicted, stats.tokens_seen - stats.tokens_exact);
    }
  }
}

TEST(KvCacheTest, SaveAndLoadAttendBitForBit) {
  for (const auto& [policy, budget] :
       std::map<std::string, std::string>{{"full", "100%"}, {"streaming:sinks=2", "60t"}}) {
    KvCache cache = *KvCache::Create(TestShape(), Options(policy, budget));
    Append(cache, 100);
    for (int i = 0; i < 5; ++i) Append(cache, 1);
    KvCache loaded = *KvCache::Load(TestShape(), cache.Save());
    EXPECT_EQ(ToString(loaded.options().policy), policy);
    for (int i = 0; i < 3; ++i) {
      for (size_t l = 0; l < 2; ++l) EXPECT_EQ(Attend(cache, l, 1), Attend(loaded, l, 1));
      Append(cache, 1);
      Append(loaded, 1);
    }
  }
}

TEST(KvCacheTest, DamagedSavesAreRefused) {
  KvCache cache = *KvCache::Create(TestShape(), Options("streaming", "60t"));
  Append(cache, 80);
  const std::string bytes = cache.Save();
  for (size_t cut = 0; cut < bytes.size(); cut += 1 + bytes.size() / 97) {
    const auto loaded = KvCache::Load(TestShape(), std::string_view(bytes).substr(0, cut));
    ASSERT_FALSE(loaded.ok()) << cut;
  }
  EXPECT_FALSE(KvCache::Load(TestShape(), bytes + "x").ok());
  CacheShape other = TestShape();
  other.layers[0].n_head = 2;
  const auto foreign = KvCache::Load(other, bytes);
  ASSERT_FALSE(foreign.ok());
  EXPECT_NE(foreign.status().message().find("another shape"), std::string::npos);
  // Damage in the header must not crash or allocate wildly.
  for (size_t at = 0; at < 200; ++at) {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ 0xFF);
    (void)KvCache::Load(TestShape(), damaged);
  }
}

TEST(KvCacheTest, ClustersAbsorbPicturesAndDropText) {
  constexpr MediaSpan kPicture = {.first_token = 20, .rows = 5, .columns = 8};
  for (const bool with_picture : {true, false}) {
    for (const char* absorb : {"clusters", "clusters:text=1"}) {
      CacheOptions options = Options("streaming", "60t");
      options.absorb = *ParseAbsorbSpec(absorb);
      KvCache cache = *KvCache::Create(TestShape(), options);
      cache.StartTracing();
      if (with_picture) cache.AddMedia(kPicture);
      Append(cache, 200);
      for (int i = 0; i < 20; ++i) Append(cache, 1);
      size_t n_text = 0;
      size_t n_picture = 0;
      for (const HeadInspection& head : cache.Inspect().heads) {
        for (size_t token = 0; token < head.root.size(); ++token) {
          if (head.root[token] < 0) continue;
          const bool in_picture = with_picture && token >= 20 && token < 20 + kPicture.n_tokens();
          (in_picture ? n_picture : n_text) += 1;
        }
      }
      const bool absorbs_text = absorb != std::string("clusters");
      EXPECT_EQ(n_text > 0, absorbs_text) << absorb;
      EXPECT_EQ(n_picture > 0, with_picture) << absorb;
      EXPECT_EQ(cache.stats().state_bytes > 0, with_picture || absorbs_text) << absorb;
      EXPECT_LE(cache.stats().held_bytes, cache.stats().budget_bytes);
    }
  }
}

TEST(KvCacheTest, SurprisalsAreCountedKeptAndTruncated) {
  const CacheShape shape{.layers = {{.n_head = 2, .n_kv_head = 2, .d_k = 64, .d_v = 64}}};
  KvCache cache = *KvCache::Create(
      shape, {.policy = *ParsePolicySpec("retentive"), .budget = *ParseBudget("50%")});
  Append(cache, 600, true);
  EXPECT_EQ(cache.impl().surprisals().size(), 601u);
  EXPECT_LE(cache.stats().held_bytes, cache.stats().budget_bytes);
  const std::string saved = cache.Save();
  Result<KvCache> loaded = KvCache::Load(shape, saved);
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  EXPECT_EQ(loaded->Save(), saved);
  EXPECT_EQ(loaded->stats().held_bytes, cache.stats().held_bytes);
  const KvCache copy = cache;
  EXPECT_EQ(copy.Save(), saved);
  cache.Truncate(300);
  EXPECT_EQ(cache.impl().surprisals().size(), 300u);
}

// A small budget that does not grow with the conversation is for rows.
TEST(KvCacheTest, SurprisalsNeverFillABudget) {
  const CacheShape shape{.layers = {{.n_head = 1, .n_kv_head = 1, .d_k = 64, .d_v = 64}}};
  KvCache cache = *KvCache::Create(
      shape, {.policy = *ParsePolicySpec("retentive"), .budget = *ParseBudget("80t")});
  for (int i = 0; i < 20; ++i) {
    Append(cache, 100, true);
    EXPECT_LE(cache.stats().held_bytes, cache.stats().budget_bytes);
    EXPECT_LE(cache.impl().surprisals().held_bytes(), cache.stats().budget_bytes / 64);
  }
}

}  // namespace
}  // namespace rkv
