// Invariants of a KvCache for every policy, absorber, ladder and split, after any operations.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "cache/compressor.h"
#include "cache/kv_cache_impl.h"
#include "support/random_ubatch.h"
#include "support/rounded_query.h"

namespace rkv {
namespace {

// Two layers of different shapes: grouped queries, and K and V of different and odd sizes.
CacheShape TestShape() {
  return {.layers = {{.n_head = 4, .n_kv_head = 2, .d_k = 32, .d_v = 32},
                     {.n_head = 3, .n_kv_head = 3, .d_k = 16, .d_v = 24}}};
}

struct Case {
  std::string policy, budget = "100%", absorb = "none", ladder = "none";
  std::optional<Split> split = std::nullopt;

  CacheOptions options() const {
    return {.policy = *ParsePolicySpec(policy),
            .budget = *ParseBudget(budget),
            .absorb = *ParseAbsorbSpec(absorb),
            .ladder = *ParseLadder(ladder),
            .split = split};
  }
  std::string name() const {
    return fmt::format("{} {} absorb {} ladder {} split {}", policy, budget, absorb, ladder,
                       split.has_value() ? ToString(*split) : "default");
  }
};

constexpr const char* kAbsorbs[] = {"none",
                                    "merge",
                                    "clusters",
                                    "clusters:text=1",
                                    "clusters:text=1,share=-1",
                                    "clusters:text=1,share=0.3,variance=0",
                                    "clusters:text=1,share=0.3,additive=0.5",
                                    "clusters:text=1,share=0.3,matrix=1",
                                    "states:additive=1,matrix=1",
                                    "states"};
constexpr const char* kLadders[] = {"none", "auto", "q2", "q8_0,q42/q31,q31/q1"};

std::vector<const PolicyInfo*> EvictingPolicies() {
  std::vector<const PolicyInfo*> evicting;
  for (const PolicyInfo* info : Policies()) {
    if (info->evicts) evicting.push_back(info);
  }
  return evicting;
}

std::vector<float> Query(size_t d_k) {
  Random random(99);
  std::vector<float> q(d_k);
  for (float& x : q) x = static_cast<float>(random.NextGaussian());
  return q;
}

std::vector<float> Attend(const KvCache& cache, size_t l, size_t h) {
  const LayerShape& layer = cache.shape().layers[l];
  std::vector<float> out(layer.d_v, std::nanf(""));
  cache.Attend(l, h, Query(layer.d_k).data(), 1, 0.25f, 0.0f, out.data());
  return out;
}

std::vector<std::vector<float>> AttendAll(const KvCache& cache) {
  std::vector<std::vector<float>> out;
  for (size_t l = 0; l < cache.shape().layers.size(); ++l) {
    for (size_t h = 0; h < cache.shape().layers[l].n_kv_head; ++h) {
      out.push_back(Attend(cache, l, h));
    }
  }
  return out;
}

// One softmax over the rows of all tiers, states with their mass and variance, in double precision
// over the decoded rows.
std::vector<double> ReferenceAttend(const KvCache& cache, size_t l, size_t h) {
  const KvCache::Impl& impl = cache.impl();
  const CacheConfig& config = impl.config();
  const LayerShape& layer = cache.shape().layers[l];
  const size_t head = config.head(l, h);
  const RowCodec codec(impl.head(head));
  std::vector<float> q = Query(layer.d_k);
  double norm = 0;
  for (const float x : q) norm += static_cast<double>(x) * static_cast<double>(x);
  if (config.rotates()) RotateRow(q.data(), layer.d_k);
  std::vector<float> k(layer.d_k), v(layer.d_v), rounded, stored(layer.d_k);
  std::vector<double> sums(layer.d_v);
  double total = 0;
  // The matrix's contribution to the value of every state.
  std::vector<double> follows(layer.d_v);
  std::vector<float> row(layer.d_k);
  for (size_t e = 0; e < layer.d_v && impl.head(head).matrix() != nullptr; ++e) {
    DecodeRow(ElementType::kF16, impl.head(head).matrix() + e * layer.d_k, layer.d_k, row.data());
    for (size_t i = 0; i < layer.d_k; ++i) {
      follows[e] += static_cast<double>(row[i]) * static_cast<double>(q[i]);
    }
  }
  impl.head(head).VisitRows([&](size_t tier, size_t slot) {
    const RowStore& rows = impl.head(head).store(tier);
    codec.DecodeStored(tier, slot, k.data(), v.data());
    double logit = 0;
    for (size_t e = 0; e < k.size(); ++e) {
      logit += 0.25 * static_cast<double>(q[e]) * static_cast<double>(k[e]);
    }
    // The kernel multiplies stored rows, without the centre, by a rounded query.
    if (IsQuantized(rows.layout().k_type)) {
      rounded = q;
      RoundQuery(rows.layout().k_type, rounded);
      rows.DecodeKey(slot, stored.data());
      for (size_t e = 0; e < k.size(); ++e) {
        logit += 0.25 * static_cast<double>(rounded[e] - q[e]) * static_cast<double>(stored[e]);
      }
    }
    if (rows.layout().is_state) {
      logit += static_cast<double>(rows.row(slot).log_mass);
      if (config.absorb().variance != 0) {
        logit += std::min(static_cast<double>(kMaxSpreadLogit),
                          0.5 * 0.25 * 0.25 * norm * static_cast<double>(rows.row(slot).spread));
      }
    }
    const double weight = std::exp(logit);
    total += weight;
    for (size_t e = 0; e < v.size(); ++e) {
      sums[e] +=
          weight * (static_cast<double>(v[e]) + (rows.layout().is_state ? 0.25 * follows[e] : 0.0));
    }
  });
  std::vector<double> readout(layer.d_v);
  if (config.absorb().additive != 0) {
    const RowStore& rows = impl.head(head).store(config.state_tier());
    double mass = 0;
    double tokens = 0;
    for (size_t slot = 0; slot < rows.size(); ++slot) {
      codec.DecodeStored(config.state_tier(), slot, k.data(), v.data());
      double weight = 0;
      for (size_t e = 0; e < k.size(); ++e) {
        weight += static_cast<double>(q[e]) * static_cast<double>(k[e]);
      }
      weight *= std::exp(static_cast<double>(rows.row(slot).log_mass));
      tokens += std::exp(static_cast<double>(rows.row(slot).log_mass));
      mass += std::abs(weight);
      for (size_t e = 0; e < v.size(); ++e) readout[e] += weight * static_cast<double>(v[e]);
    }
    for (size_t e = 0; e < readout.size() && rows.size() > 0; ++e) {
      readout[e] += tokens * follows[e];
    }
    for (double& x : readout) x *= config.absorb().additive / (mass + 1e-6);
  }
  for (size_t e = 0; e < sums.size(); ++e) {
    sums[e] = total > 0 ? sums[e] / total : 0.0;
    sums[e] += readout[e];
  }
  std::vector<float> mean(sums.begin(), sums.end());
  if (config.rotates()) RotateRow(mean.data(), layer.d_v);
  return {mean.begin(), mean.end()};
}

void ExpectAttendsAsItsRows(const KvCache& cache) {
  // Weights of quantised values and steps of quantised keys are rounded; independently, so that
  // their sum is far below the bound times the largest value.
  const double rounding = cache.impl().config().rotates() ? 0.5 * kWeightErrorBound : 0.0;
  for (size_t l = 0; l < cache.shape().layers.size(); ++l) {
    for (size_t h = 0; h < cache.shape().layers[l].n_kv_head; ++h) {
      const std::vector<float> actual = Attend(cache, l, h);
      const std::vector<double> expected = ReferenceAttend(cache, l, h);
      for (size_t e = 0; e < actual.size(); ++e) {
        ASSERT_TRUE(std::isfinite(actual[e]));
        ASSERT_NEAR(actual[e], expected[e], 3e-5 * (1 + std::abs(expected[e])) + rounding)
            << "layer " << l << " head " << h;
      }
    }
  }
}

// Checks that held bytes are within the budget, statistics add up, and Inspect() agrees with every
// token.
void ExpectConsistent(const KvCache& cache, bool rolled_back) {
  const KvCache::Impl& impl = cache.impl();
  const CacheConfig& config = impl.config();
  // A rollback takes tokens back, but not those that states absorbed.
  const bool mass_is_conserved = !rolled_back && config.absorb().has_states() &&
                                 config.absorb().share > 0 && config.absorb().kappa == 0 &&
                                 config.absorb().weigh == 0;
  const Inspection inspection = cache.Inspect();
  const CacheStats stats = cache.stats();
  if (!cache.options().budget.unlimited()) {
    ASSERT_GT(stats.budget_bytes, 0u);
    ASSERT_LE(stats.held_bytes, stats.budget_bytes);
    const Budget& budget = cache.options().budget;
    if (budget.unit != Budget::Unit::kPercent && inspection.media.empty()) {
      const double unit = budget.unit == Budget::Unit::kBytes
                              ? 1.0
                              : static_cast<double>(cache.shape().full_token_bytes());
      ASSERT_EQ(stats.budget_bytes, static_cast<uint64_t>(budget.amount * unit));
    }
  }
  ASSERT_EQ(stats.exact_bytes + stats.state_bytes + stats.metadata_bytes, stats.held_bytes);
  ASSERT_EQ(std::accumulate(stats.bytes_by_type.begin(), stats.bytes_by_type.end(), uint64_t{0}),
            stats.exact_bytes);
  ASSERT_EQ(stats.tokens_evicted, stats.tokens_seen - stats.tokens_exact);
  ASSERT_EQ(inspection.heads.size(), config.n_heads());
  ASSERT_EQ(inspection.rungs.size(), config.n_rungs());
  uint64_t end_of_roots = cache.tokens_seen();
  for (const MediaSpan& span : inspection.media) {
    end_of_roots = std::max(end_of_roots, span.first_token + span.n_tokens());
  }
  uint64_t rows_in_all = 0;
  uint64_t states_in_all = 0;
  double max_mass = 0;
  const AlwaysKeep& keep = config.policy().keep;
  for (size_t head = 0; head < config.n_heads(); ++head) {
    const HeadInspection& seen = inspection.heads[head];
    ASSERT_EQ(seen.rung.size(), cache.tokens_seen());
    uint64_t rows = 0;
    for (size_t tier = 0; tier < config.n_rungs(); ++tier) {
      const RowStore& store = impl.head(head).store(tier);
      rows += store.size();
      for (size_t slot = 0; slot < store.size(); ++slot) {
        ASSERT_LT(store.index(slot), cache.tokens_seen());
        ASSERT_EQ(seen.rung[store.index(slot)], tier);
        for (const float stat : store.stats(slot)) ASSERT_TRUE(std::isfinite(stat));
      }
    }
    const auto forgotten =
        static_cast<uint64_t>(std::ranges::count(seen.rung, uint8_t{HeadInspection::kForgotten}));
    ASSERT_EQ(forgotten + rows, cache.tokens_seen()) << "a token is held twice";
    double mass = 0;
    for (const StateInspection& state : seen.states) {
      ASSERT_GT(state.mass, 0.0f);
      ASSERT_LT(state.root, end_of_roots);
      mass += static_cast<double>(state.mass);
    }
    if (mass_is_conserved) {
      double absorbed = 0;
      for (uint32_t i = 0; i < seen.rung.size(); ++i) {
        if (seen.rung[i] != HeadInspection::kForgotten) continue;
        const bool is_text = impl.media().token_info(i).modality == Modality::kText;
        if (!is_text || config.absorb().text != 0) absorbed += 1;
      }
      ASSERT_NEAR(mass, absorbed, 1e-3 * absorbed);
    }
    if (config.policy().info->evicts && !rolled_back) {
      for (uint64_t i = 0; i < cache.tokens_seen(); ++i) {
        if (i >= keep.sinks && i + keep.window < cache.tokens_seen()) continue;
        ASSERT_NE(seen.rung[i], HeadInspection::kForgotten) << "token " << i;
      }
    }
    rows_in_all += rows;
    states_in_all += seen.states.size();
    max_mass = std::max(max_mass, mass);
  }
  ASSERT_EQ(std::accumulate(stats.tokens_by_type.begin(), stats.tokens_by_type.end(), uint64_t{0}),
            rows_in_all);
  ASSERT_EQ(stats.tokens_exact, (rows_in_all + config.n_heads() - 1) / config.n_heads());
  ASSERT_EQ(stats.states, states_in_all);
  ASSERT_NEAR(static_cast<double>(stats.tokens_absorbed), max_mass, 0.51);
}

// Appends, decodes, rolls back, saves, loads and copies at random.
void RunSchedule(const Case& what, uint64_t seed, int n_steps) {
  SCOPED_TRACE(what.name() + fmt::format(" seed {}", seed));
  const Result<KvCache> created = KvCache::Create(TestShape(), what.options());
  ASSERT_TRUE(created.ok()) << created.status().message();
  KvCache cache = *created;
  bool rolled_back = false;
  Random random(seed);
  UbatchBuffers buffers;
  if (seed % 3 == 0) cache.StartTracing();
  for (int step = 0; step < n_steps; ++step) {
    SCOPED_TRACE(fmt::format("step {}", step));
    const uint64_t action = step == 0 ? 0 : random.NextBelow(10);
    if (action < 2) {
      const size_t n = 1 + random.NextBelow(90);
      if (random.NextBelow(2) == 0 && n >= 12) {
        cache.AddMedia({.first_token = cache.tokens_seen() + 1,
                        .modality = random.NextBelow(4) == 0 ? Modality::kAudio : Modality::kImage,
                        .rows = static_cast<uint32_t>((n - 2) / 4),
                        .columns = 4});
      }
      RandomUbatch(TestShape(), n, random).Run(cache, &buffers);
    } else if (action < 7) {
      RandomUbatch ubatch(TestShape(), 1, random);
      ubatch.Run(cache, &buffers);
      for (const float x : ubatch.out(0)) ASSERT_TRUE(std::isfinite(x));
      for (const float x : ubatch.out(1)) ASSERT_TRUE(std::isfinite(x));
    } else if (action == 7) {
      const Result<KvCache> loaded = KvCache::Load(TestShape(), cache.Save());
      ASSERT_TRUE(loaded.ok()) << loaded.status().message();
      ASSERT_EQ(AttendAll(*loaded), AttendAll(cache));
      cache = *loaded;
    } else if (action == 8) {
      KvCache copy = cache;
      const std::vector<std::vector<float>> before = AttendAll(cache);
      ASSERT_EQ(AttendAll(copy), before);
      RandomUbatch(TestShape(), 20, random).Run(copy, &buffers);
      ASSERT_EQ(AttendAll(cache), before);
    } else {
      cache.Truncate(cache.tokens_seen() - random.NextBelow(cache.tokens_seen() + 1) / 3);
      rolled_back = true;
    }
    ASSERT_NO_FATAL_FAILURE(ExpectConsistent(cache, rolled_back));
  }
  ASSERT_NO_FATAL_FAILURE(ExpectAttendsAsItsRows(cache));
}

TEST(KvCachePropertiesTest, EveryCombinationStaysWithinItsBudget) {
  uint64_t seed = 0;
  for (const PolicyInfo* info : EvictingPolicies()) {
    for (const char* absorb : kAbsorbs) {
      for (const char* ladder : kLadders) {
        std::vector<std::optional<Split>> splits = {std::nullopt};
        if (info->comparable) {
          splits = {Split::kUniform, Split::kPooled, Split::kAuto};
        }
        for (const std::optional<Split> split : splits) {
          Random random(++seed);
          const char* budgets[] = {"12%", "25%", "60%", "64t", "150t", "40KiB"};
          const Case what{.policy = fmt::format("{}:window=8", info->name),
                          .budget = budgets[random.NextBelow(6)],
                          .absorb = absorb,
                          .ladder = ladder,
                          .split = split};
          RunSchedule(what, seed, 9);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST(KvCachePropertiesTest, LongSchedulesStayWithinTheirBudget) {
  uint64_t seed = 1000;
  for (const char* absorb :
       {"none", "clusters:text=1,share=-1", "states", "clusters:text=1,share=0.3"}) {
    for (const char* ladder : {"none", "auto"}) {
      for (const char* policy : {"retentive:window=8", "keydiff", "h2o"}) {
        RunSchedule({.policy = policy, .budget = "15%", .absorb = absorb, .ladder = ladder}, ++seed,
                    60);
        if (HasFatalFailure()) return;
      }
    }
  }
}

// Damaged weights, or a damaged conversation file, make such tokens.
TEST(KvCachePropertiesTest, TokensThatAreNoNumbersAreHeldAndForgottenLikeOthers) {
  for (const char* policy : {"retentive:window=4", "h2o:window=4", "keydiff:window=4"}) {
    for (const char* absorb : kAbsorbs) {
      for (const char* ladder : {"none", "auto"}) {
        const Case what{.policy = policy, .budget = "24t", .absorb = absorb, .ladder = ladder};
        SCOPED_TRACE(what.name());
        for (const float value : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
          for (const size_t step : {1, 3}) {  // all tokens, or every third
            KvCache cache = *KvCache::Create(TestShape(), what.options());
            Random random(48);
            UbatchBuffers buffers;
            for (int i = 0; i < 3; ++i) {
              RandomUbatch ubatch(TestShape(), 30, random);
              for (size_t t = 0; t < 30; t += step) {
                ubatch.SetToken(t, std::vector<float>(32, value));
              }
              ubatch.Run(cache, &buffers);
              ASSERT_LE(cache.stats().held_bytes, cache.stats().budget_bytes);
            }
            for (int i = 0; i < 8; ++i) RandomUbatch(TestShape(), 1, random).Run(cache, &buffers);
            ASSERT_LE(cache.stats().held_bytes, cache.stats().budget_bytes);
            EXPECT_EQ(cache.tokens_seen(), 98u);
          }
        }
      }
    }
  }
}

// While all tokens fit on the lowest rung, they all stay, even if only a sample of them competes.
TEST(KvCachePropertiesTest, WhereAllHaveRoomNoneIsForgotten) {
  KvCache cache = *KvCache::Create(TestShape(), {.policy = *ParsePolicySpec("retentive:window=8"),
                                                 .budget = *ParseBudget("42%")});
  Random random(41);
  UbatchBuffers buffers;
  const size_t lowest = cache.impl().config().n_rungs() - 1;
  RandomUbatch(TestShape(), 500, random).Run(cache, &buffers);
  for (int i = 0; i < 40; ++i) {
    for (const size_t n : {40, 1, 1, 1, 1}) {
      RandomUbatch(TestShape(), n, random).Run(cache, &buffers);
    }
    const CacheStats stats = cache.stats();
    ASSERT_LE(stats.held_bytes, stats.budget_bytes);
    ASSERT_EQ(stats.tokens_evicted, 0u) << "tokens " << stats.tokens_seen;
  }
  EXPECT_GT(cache.impl().head(0).store(lowest).size(), 2 * 128u);
  ExpectConsistent(cache, false);
}

// While an answer grows, only some tokens compete: the least novel ones when all competed last. So
// the least novel tokens are forgotten, whether they came in the prompt or in the answer.
TEST(KvCachePropertiesTest, LongAnswersForgetTheLeastNovel) {
  KvCache cache = *KvCache::Create(TestShape(), {.policy = *ParsePolicySpec("retentive:window=8"),
                                                 .budget = *ParseBudget("144KiB")});
  const size_t lowest = cache.impl().config().n_rungs() - 1;
  Random random(45);
  std::vector<double> scales;  // how far tokens are from their mean, and so from each other
  UbatchBuffers buffers;
  const auto append = [&](size_t n) {
    RandomUbatch ubatch(TestShape(), n, random);
    for (size_t i = 0; i < n; ++i) {
      scales.push_back(0.5 + 0.5 * random.NextDouble());
      std::vector<float> row(32);
      for (float& x : row) x = static_cast<float>(scales.back() * random.NextGaussian());
      ubatch.SetToken(i, row);
    }
    ubatch.Run(cache, &buffers);
    ASSERT_LE(cache.stats().held_bytes, cache.stats().budget_bytes);
  };
  append(1500);
  const Inspection before = cache.Inspect();
  const uint64_t compressions = cache.stats().compressions;
  for (int i = 0; i < 300; ++i) {
    append(1);
    if (i % 50 == 0) ExpectConsistent(cache, false);
    if (HasFailure()) return;
  }
  EXPECT_GT(cache.stats().compressions, compressions + 3);
  ExpectConsistent(cache, false);
  ExpectAttendsAsItsRows(cache);
  const Inspection after = cache.Inspect();
  for (size_t head = 0; head < after.heads.size(); ++head) {
    // Most of the lowest rung rests.
    EXPECT_GT(cache.impl().head(head).store(lowest).size(), 500u);
    double sums[2] = {}, n[2] = {};
    for (size_t i = 0; i < 1500; ++i) {
      if (before.heads[head].rung[i] == HeadInspection::kForgotten) continue;
      const bool went = after.heads[head].rung[i] == HeadInspection::kForgotten;
      sums[went ? 1 : 0] += scales[i];
      n[went ? 1 : 0] += 1;
    }
    EXPECT_GT(n[1], 100);
    EXPECT_LT(sums[1] / n[1], 0.9 * sums[0] / n[0]);
  }
}

// More tokens must be kept than may rest, or states and a matrix take their share while most tokens
// rest.
TEST(KvCachePropertiesTest, LongAnswersStayWithinTheirBudget) {
  for (const auto& [policy, budget, absorb] : std::vector<std::array<const char*, 3>>{
           {"retentive:window=900", "140KiB", "clusters:text=1,share=0.05"},
           {"retentive:window=300", "100KiB", "clusters:text=1,share=-1"},
           {"retentive:window=8", "4%", "clusters:text=1,share=0.3,matrix=1"},
           {"retentive:window=8", "100KiB", "none"}}) {
    const Case what{.policy = policy, .budget = budget, .absorb = absorb, .ladder = "auto"};
    SCOPED_TRACE(what.name());
    KvCache cache = *KvCache::Create(TestShape(), what.options());
    Random random(46);
    UbatchBuffers buffers;
    RandomUbatch(TestShape(), 3000, random).Run(cache, &buffers);
    const uint64_t states = cache.stats().states;
    for (int i = 0; i < 600; ++i) {
      RandomUbatch(TestShape(), 1, random).Run(cache, &buffers);
      ASSERT_LE(cache.stats().held_bytes, cache.stats().budget_bytes) << "step " << i;
      if (i % 100 != 0) continue;
      ASSERT_NO_FATAL_FAILURE(ExpectConsistent(cache, false));
    }
    // States have their share regardless of the resting tokens.
    EXPECT_GE(cache.stats().states, states * 3 / 4);
  }
}

// A budget that grows may come to have room for all tokens after some have been absorbed.
TEST(KvCachePropertiesTest, StatesStayWhereAllTokensHaveRoom) {
  for (const Split split : {Split::kUniform, Split::kPooled}) {
    const Case what{.policy = "retentive:window=8",
                    .budget = "35%",
                    .absorb = "clusters:text=1,share=0.2",
                    .ladder = "auto",
                    .split = split};
    SCOPED_TRACE(what.name());
    KvCache cache = *KvCache::Create(TestShape(), what.options());
    Random random(47);
    UbatchBuffers buffers;
    RandomUbatch(TestShape(), 60, random).Run(cache, &buffers);
    uint64_t states = cache.stats().states;
    ASSERT_GT(states, cache.impl().config().n_heads());
    for (int i = 0; i < 8; ++i) {
      RandomUbatch(TestShape(), 500, random).Run(cache, &buffers);
      ASSERT_LE(cache.stats().held_bytes, cache.stats().budget_bytes);
      ASSERT_NO_FATAL_FAILURE(ExpectConsistent(cache, false));
      EXPECT_GE(cache.stats().states, states) << "ubatch " << i;
      states = cache.stats().states;
    }
  }
}

// Between two compressions tokens of decoding go to the smallest nearly exact rung.
TEST(KvCachePropertiesTest, TokensOfDecodingWaitOnTheIncomingTier) {
  for (const auto& [ladder, tier] :
       std::vector<std::pair<std::string, size_t>>{{"auto", 1},
                                                   {"none", 0},
                                                   {"f16,q8_0", 0},
                                                   {"f16,q4_0,q2", 0},
                                                   {"f16,bf16,q8_0,q2", 2}}) {
    SCOPED_TRACE(ladder);
    KvCache cache = *KvCache::Create(TestShape(), {.policy = *ParsePolicySpec("retentive:window=8"),
                                                   .budget = *ParseBudget("150t"),
                                                   .ladder = *ParseLadder(ladder)});
    const KvCache::Impl& impl = cache.impl();
    const CacheConfig& config = impl.config();
    ASSERT_EQ(config.incoming_tier(), tier);
    Random random(43);
    UbatchBuffers buffers;
    RandomUbatch(TestShape(), 400, random).Run(cache, &buffers);
    size_t n_waiting = 0;
    for (int step = 0; step < 40; ++step) {
      const uint64_t compressions = cache.stats().compressions;
      // When this tier is full, bytes that compression left over may have room for exact rows.
      const RowStore& waiting = impl.head(0).store(tier);
      const size_t to = waiting.size() < waiting.capacity() ? tier : 0;
      const size_t n_before = impl.head(0).store(to).size();
      RandomUbatch token(TestShape(), 1, random);
      token.Run(cache, &buffers);
      ASSERT_LE(cache.stats().held_bytes, cache.stats().budget_bytes);
      if (cache.stats().compressions != compressions) continue;
      ++n_waiting;
      EXPECT_EQ(impl.head(0).store(to).size(), n_before + 1);
      for (size_t head = 0; head < config.n_heads(); ++head) {
        const RowStore& rows = impl.head(head).store(to);
        const size_t slot = rows.size() - 1;
        EXPECT_EQ(rows.index(slot), cache.tokens_seen() - 1);
        const LayerShape& shape = config.layer_shape(head);
        std::vector<float> k(shape.d_k), v(shape.d_v), exact_k(shape.d_k), exact_v(shape.d_v);
        const RowCodec codec(impl.head(head));
        codec.DecodeStored(to, slot, k.data(), v.data());
        codec.DecodeStaged(buffers.rows.key(head, 0), buffers.rows.value(head, 0), exact_k.data(),
                           exact_v.data());
        for (size_t e = 0; e < shape.d_k; ++e) EXPECT_NEAR(k[e], exact_k[e], 0.04f);
        for (size_t e = 0; e < shape.d_v; ++e) EXPECT_NEAR(v[e], exact_v[e], 0.04f);
      }
    }
    EXPECT_GT(n_waiting, 20u);
  }
}

TEST(KvCachePropertiesTest, ABudgetSaysHowManyStepsNeedNoCompression) {
  // Of f16 a 64th and at most 128, up to a 32nd below 12; of q8_0, which the ladder has, up to a
  // 16th below 12.
  struct Steps {
    int tokens = 0;
    const char* ladder = "";
    size_t n = 0;
  };
  for (const auto& [tokens, ladder, steps] :
       {Steps{160, "none", 5}, Steps{800, "none", 12}, Steps{1600, "none", 25},
        Steps{9600, "none", 128}, Steps{160, "auto", 12}, Steps{320, "auto", 12}}) {
    SCOPED_TRACE(fmt::format("{}t {}", tokens, ladder));
    KvCache cache =
        *KvCache::Create(TestShape(), {.policy = *ParsePolicySpec("random:window=8"),
                                       .budget = *ParseBudget(std::to_string(tokens).append("t")),
                                       .ladder = *ParseLadder(ladder)});
    Random random(44);
    UbatchBuffers buffers;
    RandomUbatch(TestShape(), static_cast<size_t>(tokens) + 100, random).Run(cache, &buffers);
    const auto steps_to_compression = [&] {
      const uint64_t compressions = cache.stats().compressions;
      for (size_t n = 0; n < 200; ++n) {
        RandomUbatch(TestShape(), 1, random).Run(cache, &buffers);
        if (cache.stats().compressions != compressions) return n;
      }
      return size_t{200};
    };
    steps_to_compression();
    EXPECT_EQ(steps_to_compression(), steps);
    EXPECT_EQ(steps_to_compression(), steps);
  }
}

TEST(KvCachePropertiesTest, FadingAndWeighedStatesStayWithinTheirBudget) {
  uint64_t seed = 2000;
  for (const char* absorb :
       {"clusters:text=1,share=0.3,kappa=1,weigh=1", "states:kappa=0.5", "states:weigh=1"}) {
    for (const char* ladder : {"none", "auto"}) {
      RunSchedule({.policy = "paper", .budget = "15%", .absorb = absorb, .ladder = ladder}, ++seed,
                  40);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(KvCachePropertiesTest, PromptsMayWaitForTheirLastUbatch) {
  CacheOptions options = Case{.policy = "streaming", .budget = "60t"}.options();
  options.compression = Compression::kPrompt;
  KvCache cache = *KvCache::Create(TestShape(), options);
  Random random(4);
  UbatchBuffers buffers;
  for (int i = 0; i < 3; ++i) {
    RandomUbatch(TestShape(), 50, random).Run(cache, &buffers, {.prompt_follows = true});
  }
  EXPECT_EQ(cache.stats().tokens_exact, 150u);
  EXPECT_GT(cache.stats().held_bytes, cache.stats().budget_bytes);
  for (const size_t n : {50, 1, 1}) {
    RandomUbatch(TestShape(), n, random).Run(cache, &buffers);
    ASSERT_NO_FATAL_FAILURE(ExpectConsistent(cache, false));
  }
}

TEST(KvCachePropertiesTest, HundredPercentIsFullBitForBit) {
  const auto run = [](const Case& what) {
    KvCache cache = *KvCache::Create(TestShape(), what.options());
    Random random(7);
    UbatchBuffers buffers;
    std::vector<std::vector<float>> out;
    for (const size_t n : {70, 1, 1, 90, 1}) {
      RandomUbatch ubatch(TestShape(), n, random);
      ubatch.Run(cache, &buffers);
      for (size_t l = 0; l < 2; ++l) out.push_back(ubatch.out(l));
    }
    for (const std::vector<float>& x : AttendAll(cache)) out.push_back(x);
    EXPECT_EQ(cache.stats().tokens_exact, 163u);
    EXPECT_EQ(cache.stats().states, 0u);
    return out;
  };
  const std::vector<std::vector<float>> full = run({.policy = "full"});
  for (const PolicyInfo* info : Policies()) {
    for (const char* absorb : {"none", "clusters:text=1", "states"}) {
      for (const char* ladder : {"none", "auto", "f16,q4_0,q2"}) {
        const Case what{.policy = std::string(info->name), .absorb = absorb, .ladder = ladder};
        SCOPED_TRACE(what.name());
        ASSERT_EQ(run(what), full);
      }
    }
  }
}

// Short conversations, every unit, and the smallest budget that there is.
TEST(KvCachePropertiesTest, SmallestBudgetsAndShortConversationsWork) {
  uint64_t seed = 5000;
  for (const PolicyInfo* info : EvictingPolicies()) {
    for (const char* absorb : kAbsorbs) {
      for (const char* ladder : kLadders) {
        Case what{.policy = std::string(info->name), .absorb = absorb, .ladder = ladder};
        what.budget = "1B";
        const Result<KvCache> refused = KvCache::Create(TestShape(), what.options());
        ASSERT_FALSE(refused.ok());
        const std::string& message = refused.status().message();
        const size_t at = message.rfind("possible is ") + 12;
        const std::string smallest = message.substr(at, message.rfind(" (") - at);
        const size_t open = message.rfind('(') + 1;
        const std::string in_tokens = message.substr(open, message.rfind(')') - open);
        for (const std::string& budget : {smallest, in_tokens, std::string("1%")}) {
          what.budget = budget;
          SCOPED_TRACE(what.name());
          const Result<KvCache> created = KvCache::Create(TestShape(), what.options());
          ASSERT_TRUE(created.ok()) << created.status().message();
          KvCache cache = *created;
          Random random(++seed);
          UbatchBuffers buffers;
          for (const size_t n : {1, 3, 60, 1, 1}) {
            RandomUbatch(TestShape(), n, random).Run(cache, &buffers);
            ASSERT_NO_FATAL_FAILURE(ExpectConsistent(cache, false));
          }
          ASSERT_NO_FATAL_FAILURE(ExpectAttendsAsItsRows(cache));
        }
      }
    }
  }
}

TEST(KvCachePropertiesTest, FixedTypesAttendAsWhatTheyDecodeTo) {
  for (size_t k_type = 0; k_type < kElementTypes; ++k_type) {
    for (size_t v_type = 0; v_type < kElementTypes; ++v_type) {
      CacheOptions options;
      options.type_k = static_cast<ElementType>(k_type);
      options.type_v = static_cast<ElementType>(v_type);
      SCOPED_TRACE(fmt::format("K {} V {}", ToString(*options.type_k), ToString(*options.type_v)));
      KvCache cache = *KvCache::Create(TestShape(), options);
      KvCache full = *KvCache::Create(TestShape(), {});
      Random random(3);
      UbatchBuffers buffers;
      for (const size_t n : {100, 1, 1, 40}) {
        RandomUbatch ubatch(TestShape(), n, random);
        ubatch.Run(cache, &buffers);
        ubatch.Run(full, &buffers);
      }
      ASSERT_NO_FATAL_FAILURE(ExpectConsistent(cache, false));
      ASSERT_NO_FATAL_FAILURE(ExpectAttendsAsItsRows(cache));
      const CacheStats stats = cache.stats();
      EXPECT_EQ(stats.tokens_exact, 142u);
      EXPECT_GT(stats.bytes_by_type[k_type], 0u);
      EXPECT_GT(stats.bytes_by_type[v_type], 0u);
      // Close to full attention: the error of a mean of Gaussians, with room for the keys'.
      const double bound =
          6 * std::sqrt(GaussianError(*options.type_k) + GaussianError(*options.type_v));
      const std::vector<std::vector<float>> a = AttendAll(cache);
      const std::vector<std::vector<float>> b = AttendAll(full);
      for (size_t i = 0; i < a.size(); ++i) {
        for (size_t e = 0; e < a[i].size(); ++e) ASSERT_NEAR(a[i][e], b[i][e], bound);
      }
      const KvCache loaded = *KvCache::Load(TestShape(), cache.Save());
      EXPECT_EQ(AttendAll(loaded), a);
    }
  }
}

TEST(KvCachePropertiesTest, StatesCanBeSavedAfterARollbackBeforeTheirRoots) {
  KvCache cache = *KvCache::Create(
      TestShape(),
      Case{.policy = "streaming", .budget = "60t", .absorb = "clusters:text=1,share=0.3"}
          .options());
  cache.StartTracing();
  Random random(11);
  UbatchBuffers buffers;
  for (const size_t n : {20, 200, 1}) RandomUbatch(TestShape(), n, random).Run(cache, &buffers);
  cache.Truncate(15);
  ExpectConsistent(cache, true);
  const Result<KvCache> loaded = KvCache::Load(TestShape(), cache.Save());
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  EXPECT_EQ(AttendAll(*loaded), AttendAll(cache));
  for (int i = 0; i < 5; ++i) RandomUbatch(TestShape(), 1, random).Run(cache, &buffers);
  ExpectConsistent(cache, true);
}

TEST(KvCachePropertiesTest, PicturesCanBeSavedAfterARollbackIntoThem) {
  KvCache cache = *KvCache::Create(
      TestShape(),
      Case{.policy = "streaming", .budget = "60t", .absorb = "states:share=0.3"}.options());
  Random random(12);
  UbatchBuffers buffers;
  RandomUbatch(TestShape(), 5, random).Run(cache, &buffers);
  cache.AddMedia({.first_token = 5, .rows = 10, .columns = 10});
  // The picture comes in two ubatches, and is saved between them.
  RandomUbatch(TestShape(), 60, random).Run(cache, &buffers);
  Result<KvCache> loaded = KvCache::Load(TestShape(), cache.Save());
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  EXPECT_EQ(AttendAll(*loaded), AttendAll(cache));
  RandomUbatch(TestShape(), 45, random).Run(cache, &buffers);
  cache.Truncate(37);
  ExpectConsistent(cache, true);
  loaded = KvCache::Load(TestShape(), cache.Save());
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  // Tokens in place of the picture's rest are no part of it.
  RandomUbatch(TestShape(), 10, random).Run(cache, &buffers);
  EXPECT_EQ(cache.impl().media().token_info(36).modality, Modality::kImage);
  EXPECT_EQ(cache.impl().media().token_info(37).modality, Modality::kText);
}

}  // namespace
}  // namespace rkv
