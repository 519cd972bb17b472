// A KvCache that was saved and loaded, or copied, continues bit for bit as the original. Damaged
// bytes are refused, or load as a KvCache that works within its bounds.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "cache/compressor.h"
#include "cache/kv_cache_impl.h"
#include "policies/policy.h"
#include "support/damage.h"
#include "support/random_ubatch.h"

namespace rkv {
namespace {

// Two layers of different shapes: grouped queries, and K and V of different and odd sizes.
CacheShape TestShape() {
  return {.layers = {{.n_head = 4, .n_kv_head = 2, .d_k = 32, .d_v = 32},
                     {.n_head = 3, .n_kv_head = 3, .d_k = 80, .d_v = 24}},
          .rope = {.pairs = RopePairs::kHalves, .n_rot = 48}};
}

constexpr const char* kAbsorbs[] = {"none",
                                    "merge",
                                    "clusters",
                                    "clusters:text=1",
                                    "clusters:text=1,share=-1",
                                    "clusters:text=1,share=0.3,matrix=1",
                                    "states:additive=1,matrix=1",
                                    "states"};
constexpr const char* kLadders[] = {"none", "auto", "q2", "q8_0,q42/q31,q31/q1"};

std::string Name(const CacheOptions& options) {
  return fmt::format("{} {} absorb {} ladder {} split {} {}", ToString(options.policy),
                     ToString(options.budget),
                     options.absorb.has_value() ? ToString(*options.absorb) : "default",
                     options.ladder.has_value() ? ToString(*options.ladder) : "default",
                     options.split.has_value() ? ToString(*options.split) : "default",
                     ToString(options.compression));
}

// Compares everything but times.
void ExpectSameStats(const CacheStats& a, const CacheStats& b) {
  EXPECT_EQ(a.tokens_seen, b.tokens_seen);
  EXPECT_EQ(a.tokens_exact, b.tokens_exact);
  EXPECT_EQ(a.tokens_evicted, b.tokens_evicted);
  EXPECT_EQ(a.tokens_absorbed, b.tokens_absorbed);
  EXPECT_EQ(a.states, b.states);
  EXPECT_EQ(a.held_bytes, b.held_bytes);
  EXPECT_EQ(a.exact_bytes, b.exact_bytes);
  EXPECT_EQ(a.state_bytes, b.state_bytes);
  EXPECT_EQ(a.metadata_bytes, b.metadata_bytes);
  EXPECT_EQ(a.bytes_by_type, b.bytes_by_type);
  EXPECT_EQ(a.tokens_by_type, b.tokens_by_type);
  EXPECT_EQ(a.budget_bytes, b.budget_bytes);
  EXPECT_EQ(a.state_share, b.state_share);
  EXPECT_EQ(a.reactivations, b.reactivations);
  EXPECT_EQ(a.compressions, b.compressions);
}

std::vector<uint32_t> Bits(const std::vector<float>& x) {
  std::vector<uint32_t> bits(x.size());
  std::memcpy(bits.data(), x.data(), x.size() * sizeof(float));
  return bits;
}

// An original KvCache, and one that is saved and loaded, or copied, in between.
class Pair {
 public:
  Pair(const CacheShape& shape, const CacheOptions& options)
      : shape_(shape),
        stays_(*KvCache::Create(shape, options)),
        restored_(*KvCache::Create(shape, options)) {}

  KvCache& stays() { return stays_; }

  void Restore() {
    const std::string bytes = restored_.Save();
    Result<KvCache> loaded = KvCache::Load(shape_, bytes);
    ASSERT_TRUE(loaded.ok()) << loaded.status().message();
    restored_ = *std::move(loaded);
    ASSERT_EQ(restored_.Save(), bytes);
  }
  void Copy() { restored_ = KvCache(restored_); }

  void AddMedia(const MediaSpan& span) {
    stays_.AddMedia(span);
    restored_.AddMedia(span);
  }
  void Truncate(uint64_t n_tokens) {
    stays_.Truncate(n_tokens);
    restored_.Truncate(n_tokens);
  }
  // A ubatch that fails, with a picture in it.
  void Abort() {
    for (KvCache* cache : {&stays_, &restored_}) {
      cache->AddMedia({.first_token = cache->tokens_seen(), .rows = 2, .columns = 2});
      const KvCache::Append aborted = cache->BeginAppend({.n = 4});
    }
  }
  void Append(size_t n, bool prompt_follows, Random& random) {
    RandomUbatch ubatch(shape_, n, random);
    std::vector<std::vector<uint32_t>> outs[2];
    for (const bool restored : {false, true}) {
      KvCache& cache = restored ? restored_ : stays_;
      ubatch.Run(cache, &buffers_[restored ? 1 : 0], {.prompt_follows = prompt_follows});
      for (size_t l = 0; l < shape_.layers.size(); ++l) {
        outs[restored ? 1 : 0].push_back(Bits(ubatch.out(l)));
      }
    }
    ASSERT_EQ(outs[0], outs[1]);
    ASSERT_EQ(stays_.stats().held_bytes, restored_.stats().held_bytes);
  }
  void ExpectSame() const {
    ExpectSameStats(stays_.stats(), restored_.stats());
    EXPECT_EQ(stays_.Save(), restored_.Save());
  }

 private:
  CacheShape shape_;
  KvCache stays_;
  KvCache restored_;
  UbatchBuffers buffers_[2];
};

void RunPair(const CacheOptions& options, uint64_t seed, int n_steps) {
  SCOPED_TRACE(Name(options) + fmt::format(" seed {}", seed));
  Pair pair(TestShape(), options);
  Random random(seed);
  for (int step = 0; step < n_steps; ++step) {
    SCOPED_TRACE(fmt::format("step {}", step));
    const uint64_t action = step == 0 ? 0 : random.NextBelow(8);
    const auto restore = [&] {
      const uint64_t how = random.NextBelow(4);
      if (how < 2) pair.Restore();
      if (how == 2) pair.Copy();
    };
    if (action < 2) {
      // A prompt of up to three ubatches, sometimes restored between them.
      const uint64_t n_ubatches = 1 + random.NextBelow(3);
      for (uint64_t i = 0; i < n_ubatches; ++i) {
        const size_t n = 1 + random.NextBelow(60);
        if (random.NextBelow(2) == 0 && n >= 12) {
          pair.AddMedia({.first_token = pair.stays().tokens_seen() + 1,
                         .rows = static_cast<uint32_t>((n - 2) / 4),
                         .columns = 4});
        }
        pair.Append(n, i + 1 < n_ubatches, random);
        if (testing::Test::HasFatalFailure()) return;
        restore();
      }
    } else if (action < 6) {
      const uint64_t n = 1 + random.NextBelow(6);
      for (uint64_t i = 0; i < n; ++i) pair.Append(1, false, random);
    } else if (action == 6) {
      pair.Truncate(pair.stays().tokens_seen() -
                    random.NextBelow(pair.stays().tokens_seen() + 1) / 3);
    } else {
      pair.Abort();
    }
    restore();
    if (testing::Test::HasFatalFailure()) return;
  }
  pair.ExpectSame();
}

TEST(RestoredKvCacheTest, EveryCombinationGoesOnAsIfItHadStayed) {
  uint64_t seed = 0;
  for (const PolicyInfo* info : Policies()) {
    for (const char* absorb : kAbsorbs) {
      for (const char* ladder : kLadders) {
        Random random(++seed);
        const char* budgets[] = {"12%", "25%", "60%", "64t", "150t", "40KiB"};
        CacheOptions options;
        options.policy.name = info->name;
        if (info->evicts) options.policy.options = {{"window", 8}};
        options.budget = *ParseBudget(info->evicts ? budgets[random.NextBelow(6)] : "100%");
        options.absorb = *ParseAbsorbSpec(absorb);
        options.ladder = *ParseLadder(ladder);
        if (info->comparable) options.split = static_cast<Split>(random.NextBelow(3));
        if (random.NextBelow(4) == 0) options.compression = Compression::kPrompt;
        RunPair(options, seed, 8);
        if (HasFailure()) return;
      }
    }
  }
}

// Caches of version 5 have no surprisals. Those of version 4 also have no layout of RoPE, and name
// no ladder where the policy's own was meant.
TEST(RestoredKvCacheTest, VersionsBeforeAreRead) {
  const CacheShape shape = TestShape();
  CacheOptions options{.policy = *ParsePolicySpec("retentive"), .budget = *ParseBudget("20%")};
  options.ladder = *ParseLadder("f16,q8_0,q4_0,q2");
  KvCache cache = *KvCache::Create(shape, options);
  Random random(77);
  UbatchBuffers buffers;
  for (int i = 0; i < 12; ++i) RandomUbatch(shape, 32, random).Run(cache, &buffers, {});
  const std::string saved = cache.Save();

  const std::string ladder = ToString(*options.ladder);
  const size_t at = saved.find(ladder);
  ASSERT_NE(at, std::string::npos);
  const auto number = [&saved](size_t offset) {
    uint64_t n = 0;
    std::memcpy(&n, saved.data() + offset, sizeof(n));
    return n;
  };
  size_t end = at + ladder.size();
  for (int i = 0; i < 3; ++i) end += sizeof(uint64_t) + number(end);  // split and types
  end += sizeof(uint64_t) + 4 * sizeof(uint64_t) * number(end);       // layers
  const size_t end_of_rope = end + 1 + sizeof(uint64_t);
  // Tokens, observed queries, order, 3 flags, states' share, 3 counters, and the number of spans.
  const size_t surprisals = end_of_rope + 8 * sizeof(uint64_t) + 3;
  ASSERT_EQ(number(surprisals), 0u);
  const std::string tokens = saved.substr(end_of_rope, surprisals - end_of_rope);
  const std::string rows = saved.substr(surprisals + sizeof(uint64_t));
  const std::string no_ladder(sizeof(uint64_t), '\0');
  std::string version_5 = saved.substr(0, end_of_rope) + tokens + rows;
  version_5[0] = 5;
  std::string version_4 = saved.substr(0, at - sizeof(uint64_t)) + no_ladder +
                          saved.substr(at + ladder.size(), end - at - ladder.size()) + tokens +
                          rows;
  version_4[0] = 4;
  for (const std::string& before : {version_5, version_4}) {
    Result<KvCache> loaded = KvCache::Load(shape, before);
    ASSERT_TRUE(loaded.ok()) << loaded.status().message();
    EXPECT_EQ(loaded->Save(), saved);
  }
}

// With each policy's defaults, over many compressions.
TEST(RestoredKvCacheTest, LongConversationsGoOnAsIfTheyHadStayed) {
  uint64_t seed = 100;
  for (const PolicyInfo* info : Policies()) {
    CacheOptions options;
    options.policy.name = info->name;
    if (info->evicts) options.budget = *ParseBudget("20%");
    RunPair(options, ++seed, 40);
    if (HasFailure()) return;
  }
}

// Most tokens rest while an answer grows. The order of stored rows determines which tokens rest.
TEST(RestoredKvCacheTest, RestingTokensGoOnResting) {
  for (const Split split : {Split::kUniform, Split::kPooled}) {
    for (const char* absorb : {"none", "clusters:text=1,share=0.2"}) {
      CacheOptions options;
      options.policy = *ParsePolicySpec("retentive:window=8");
      options.budget = *ParseBudget("120t");
      options.absorb = *ParseAbsorbSpec(absorb);
      options.split = split;
      SCOPED_TRACE(Name(options));
      Pair pair(TestShape(), options);
      Random random(7);
      pair.Append(900, false, random);
      const uint64_t compressions = pair.stays().stats().compressions;
      for (int i = 0; i < 160; ++i) {
        pair.Append(1, false, random);
        if (i % 7 == 0) pair.Restore();
        if (HasFatalFailure()) return;
      }
      EXPECT_GT(pair.stays().stats().compressions, compressions + 3);
      pair.ExpectSame();
    }
  }
}

// A part of a large budget is reserved for reading, until one ubatch after the prompt.
TEST(RestoredKvCacheTest, PromptsAreReadOnAsIfTheyHadStayed) {
  CacheShape shape;
  shape.layers.assign(8, {.n_head = 8, .n_kv_head = 8, .d_k = 256, .d_v = 256});
  CacheOptions options;
  options.policy = *ParsePolicySpec("streaming");
  options.budget = *ParseBudget("40MiB");
  KvCache stays = *KvCache::Create(shape, options);
  KvCache restored = *KvCache::Create(shape, options);
  const std::vector<uint16_t> row(256, F16FromF32(0.5f));
  const auto append = [&](KvCache& cache, size_t n, bool prompt_follows) {
    KvCache::Append appended = cache.BeginAppend({.n = n, .prompt_follows = prompt_follows});
    for (size_t l = 0; l < 8; ++l) {
      for (size_t h = 0; h < 8; ++h) {
        for (size_t i = 0; i < n; ++i) appended.Stage(l, h, i, row.data(), row.data());
      }
    }
    appended.Commit();
  };
  for (KvCache* cache : {&stays, &restored}) {
    append(*cache, 300, true);
    append(*cache, 300, true);
  }
  restored = *KvCache::Load(shape, restored.Save());
  KvCache copy = restored;
  // A copy without the flag of a prompt in progress has room that the others lack.
  KvCache forgot = restored;
  forgot.Truncate(600);
  for (KvCache* cache : {&stays, &restored, &copy, &forgot}) append(*cache, 35, false);
  EXPECT_EQ(restored.stats().held_bytes, stays.stats().held_bytes);
  EXPECT_EQ(copy.stats().held_bytes, stays.stats().held_bytes);
  EXPECT_NE(forgot.stats().held_bytes, stays.stats().held_bytes);
}

// As in fuzz/session_fuzz.cc, with more plausible sizes.
std::string Mutated(std::string bytes, Random& random) {
  for (uint64_t n = 1 + random.NextBelow(3); n > 0; --n) {
    // Mostly in the bytes before the rows.
    const size_t end =
        random.NextBelow(4) == 0 ? bytes.size() : std::min<size_t>(500, bytes.size());
    const size_t at = random.NextBelow(end - 8);
    const uint64_t extremes[] = {0,
                                 1,
                                 255,
                                 65535,
                                 uint64_t{1} << 31,
                                 (uint64_t{1} << 32) - 1,
                                 uint64_t{1} << 32,
                                 uint64_t{1} << 62,
                                 ~uint64_t{0}};
    const uint64_t value = extremes[random.NextBelow(std::size(extremes))];
    const uint64_t way = random.NextBelow(kOverwrites + 2);
    if (way < kOverwrites) {
      Overwrite(bytes, at, way, value, random);
    } else if (way == kOverwrites) {
      bytes.erase(at, 1 + random.NextBelow(8));
    } else {
      bytes.insert(at, 1 + random.NextBelow(8), static_cast<char>(random.NextBelow(256)));
    }
    if (bytes.size() < 64) break;
  }
  return bytes;
}

// Ends the process with 0 if all of `n` mutations of each kind of cache are refused or used.
void UseMutations(int n) {
  Random random(17);
  std::vector<std::string> seeds;
  for (const PolicyInfo* info : Policies()) {
    CacheOptions options;
    options.policy.name = info->name;
    if (info->evicts) options.budget = *ParseBudget("40%");
    if (seeds.size() % 2 == 1) options.absorb = *ParseAbsorbSpec("states:matrix=1");
    KvCache cache = *KvCache::Create(TestShape(), options);
    cache.AddMedia({.first_token = 2, .rows = 4, .columns = 6});
    for (const size_t tokens : {40, 9, 1, 1}) {
      RandomUbatch(TestShape(), tokens, random).Run(cache, nullptr);
    }
    seeds.push_back(cache.Save());
  }
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  rlimit limit{};
  getrlimit(RLIMIT_AS, &limit);
  limit.rlim_cur = rlim_t{1} << 30;
  setrlimit(RLIMIT_AS, &limit);
#endif
  int n_used = 0;
  for (const std::string& seed : seeds) {
    for (int i = 0; i < n; ++i) {
      Result<KvCache> cache = KvCache::Load(TestShape(), Mutated(seed, random));
      if (!cache.ok()) {
        const StatusCode code = cache.status().code();
        if (code != StatusCode::kBadFile && code != StatusCode::kInvalidArgument) std::_Exit(2);
        continue;
      }
      ++n_used;
      // The engine bounds them by the context.
      if (cache->tokens_seen() <= 65536) (void)cache->Inspect();
      (void)cache->stats();
      for (const size_t tokens : {1, 5, 1}) {
        RandomUbatch(TestShape(), tokens, random).Run(*cache, nullptr);
      }
      (void)KvCache::Load(TestShape(), cache->Save());
      cache->Truncate(cache->tokens_seen() / 2);
      RandomUbatch(TestShape(), 1, random).Run(*cache, nullptr);
    }
  }
  std::_Exit(n_used > n ? 0 : 3);
}

TEST(RestoredKvCacheDeathTest, BytesThatLieAreRefusedOrUsedInLittleMemory) {
  EXPECT_EXIT(UseMutations(250), testing::ExitedWithCode(0), "");
}

TEST(RestoredKvCacheTest, LiesOfEachKindAreRefused) {
  CacheOptions options;
  options.policy = *ParsePolicySpec("retentive:window=8");
  options.budget = *ParseBudget("25%");
  KvCache cache = *KvCache::Create(TestShape(), options);
  Random random(5);
  cache.AddMedia({.first_token = 20, .rows = 4, .columns = 6});
  RandomUbatch(TestShape(), 300, random).Run(cache, nullptr);
  const std::string good = cache.Save();
  ASSERT_TRUE(KvCache::Load(TestShape(), good).ok());
  // Offsets of numbers, from tokens seen on.
  std::string seen(8, '\0');
  seen[0] = static_cast<char>(300 & 255);
  seen[1] = static_cast<char>(300 >> 8);
  const size_t at = good.find(seen);
  ASSERT_NE(at, std::string::npos);
  const auto refused = [&](size_t offset, auto value) {
    std::string bytes = good;
    std::memcpy(bytes.data() + at + offset, &value, sizeof(value));
    return KvCache::Load(TestShape(), bytes).status().code() == StatusCode::kBadFile;
  };
  EXPECT_TRUE(refused(0, uint64_t{10}));        // tokens seen: fewer than are held
  EXPECT_TRUE(refused(0, uint64_t{1} << 32));   // more than have numbers
  EXPECT_TRUE(refused(8, std::nan("")));        // observed queries
  EXPECT_TRUE(refused(8, HUGE_VAL));            //
  EXPECT_TRUE(refused(16, uint64_t{301}));      // when rows were ordered: later than now
  EXPECT_TRUE(refused(24, uint8_t{2}));         // whether the budget was pooled
  EXPECT_TRUE(refused(27, -1.0));               // share of states
  EXPECT_TRUE(refused(59, ~uint64_t{0}));       // number of pictures
  EXPECT_TRUE(refused(67, uint64_t{1} << 31));  // where the picture starts
  EXPECT_TRUE(refused(75, uint8_t{0}));         // which is none
  EXPECT_TRUE(refused(76, uint32_t{0}));        // without rows
  EXPECT_TRUE(refused(76, ~uint32_t{0}));       // of far too many
  EXPECT_TRUE(refused(good.size() - at - 4, uint32_t{129}));  // room of the last store
  EXPECT_FALSE(refused(0, uint64_t{300}));
}

}  // namespace
}  // namespace rkv
