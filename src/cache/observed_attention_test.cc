// The attention that policies observe, and the readout of states, against double precision.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "cache/kv_cache_impl.h"
#include "retentivekv/inspect.h"
#include "support/random_ubatch.h"

namespace rkv {
namespace {

// A group of one, of several, and one that does not divide a kernel call's queries.
CacheShape TestShape() {
  return {.layers = {{.n_head = 6, .n_kv_head = 2, .d_k = 16, .d_v = 16},
                     {.n_head = 2, .n_kv_head = 2, .d_k = 24, .d_v = 8}}};
}

// Accumulated attention of one KV head by its definition: every observed query's weights are kept,
// and summed up with decay when asked.
class ObservedReference {
 public:
  ObservedReference(const CacheShape& shape, size_t layer, size_t kv_head)
      : shape_(shape.layers[layer]), layer_(layer), kv_head_(kv_head) {}

  void Add(const RandomUbatch& ubatch, const std::vector<bool>& observed) {
    const size_t held = keys_.size();
    for (size_t i = 0; i < ubatch.n(); ++i) {
      const uint16_t* k = ubatch.k(layer_, i, kv_head_);
      keys_.emplace_back(k, k + shape_.d_k);
    }
    const size_t group = shape_.n_head / shape_.n_kv_head;
    for (size_t i = 0; i < ubatch.n(); ++i) {
      if (!observed[i]) continue;
      std::vector<double>& mean = weights_.emplace_back(held + i + 1);
      for (size_t g = 0; g < group; ++g) {
        const float* q = ubatch.q(layer_, i, kv_head_ * group + g);
        std::vector<double> weights;
        double sum = 0;
        for (size_t t = 0; t <= held + i; ++t) {
          double logit = 0;
          for (size_t e = 0; e < shape_.d_k; ++e) {
            logit += static_cast<double>(q[e]) * static_cast<double>(F32FromF16(keys_[t][e]));
          }
          weights.push_back(std::exp(static_cast<double>(RandomUbatch::kScale) * logit));
          sum += weights.back();
        }
        for (size_t t = 0; t <= held + i; ++t) {
          mean[t] += weights[t] / sum / static_cast<double>(group);
        }
      }
    }
  }

  // [tokens that it saw] weights of the last query.
  const std::vector<double>& last() const { return weights_.back(); }

  // sum a and sum a ln a of a token, over the queries' weights a with decay.
  std::pair<double, double> Sums(size_t token, double decay) const {
    double sum = 0;
    double sum_log = 0;
    for (size_t q = 0; q < weights_.size(); ++q) {
      if (token >= weights_[q].size()) continue;
      const double a =
          weights_[q][token] * std::pow(decay, static_cast<double>(weights_.size() - 1 - q));
      sum += a;
      sum_log += a * std::log(a);
    }
    return {sum, sum_log};
  }

 private:
  LayerShape shape_;
  size_t layer_;
  size_t kv_head_;
  std::vector<std::vector<uint16_t>> keys_;
  std::vector<std::vector<double>> weights_;  // [query, tokens that it saw]
};

// `window`: number of last queries of a ubatch that count. `n_before`: tokens held from the start,
// whose queries were not observed.
void ExpectObservesAsReference(const std::string& policy, size_t window, double decay,
                               bool with_media, size_t n_before = 0) {
  SCOPED_TRACE(policy);
  const CacheShape shape = TestShape();
  KvCache cache = *KvCache::Create(shape, {.policy = *ParsePolicySpec(policy)});
  ASSERT_EQ(cache.impl().config().needs().decay, decay);
  std::vector<ObservedReference> references;
  for (size_t l = 0; l < shape.layers.size(); ++l) {
    for (size_t h = 0; h < shape.layers[l].n_kv_head; ++h) references.emplace_back(shape, l, h);
  }
  Random random(5);
  UbatchBuffers buffers;
  if (n_before > 0) {
    const RandomUbatch before(shape, n_before, random);
    KvCache::Append appended = cache.BeginAppend({.n = n_before});
    for (size_t l = 0; l < shape.layers.size(); ++l) {
      for (size_t h = 0; h < shape.layers[l].n_kv_head; ++h) {
        for (size_t i = 0; i < n_before; ++i) {
          // Values do not matter.
          appended.Stage(l, h, i, before.k(l, i, h), before.k(l, i, h));
        }
      }
    }
    appended.Commit();
    for (ObservedReference& reference : references) {
      reference.Add(before, std::vector<bool>(n_before));
    }
  }
  for (const size_t n : {30, 1, 90, 1, 1, 7}) {
    std::vector<bool> text(n, true);
    if (with_media && n >= 30) {
      cache.AddMedia({.first_token = cache.tokens_seen() + 3, .rows = 4, .columns = 5});
      for (size_t i = 3; i < 23; ++i) text[i] = false;
    }
    const bool only_text = cache.impl().config().needs().only_text;
    std::vector<bool> observed(n);
    size_t left = window;
    for (size_t i = n; i-- > 0 && left > 0;) {
      observed[i] = !only_text || text[i];
      left -= observed[i] ? 1 : 0;
    }
    RandomUbatch ubatch(shape, n, random);
    ubatch.Run(cache, &buffers);
    for (ObservedReference& reference : references) reference.Add(ubatch, observed);
    for (size_t head = 0; head < references.size(); ++head) {
      const RowStore& rows = cache.impl().head(head).store(0);
      ASSERT_EQ(rows.size(), cache.tokens_seen());
      for (size_t slot = 0; slot < rows.size(); ++slot) {
        const auto [sum, sum_log] = references[head].Sums(rows.index(slot), decay);
        const std::span<const float> stats = rows.stats(slot);
        ASSERT_NEAR(stats[0], sum, 2e-5 * (1 + sum)) << "token " << rows.index(slot) << " n " << n;
        if (stats.size() < 2) continue;
        ASSERT_NEAR(stats[1], sum_log, 1e-4 * (1 + std::abs(sum_log)))
            << "token " << rows.index(slot) << " n " << n << " head " << head;
      }
    }
  }
}

TEST(ObservedAttentionTest, SumsMatchTheDefinition) {
  ExpectObservesAsReference("h2o", 1000, 1.0, false);
  ExpectObservesAsReference("snapkv", 32, 1 - 1.0 / 32, false);
  ExpectObservesAsReference("snapkv:queries=3", 3, 1 - 1.0 / 3, true);
  ExpectObservesAsReference("paper", 32, 1 - 1.0 / 32, false);
  ExpectObservesAsReference("paper", 32, 1 - 1.0 / 32, true);
}

// So long that not all queries that share a pass over the keys are observed at once.
TEST(ObservedAttentionTest, SumsMatchTheDefinitionAfterALongPrompt) {
  ExpectObservesAsReference("snapkv", 32, 1 - 1.0 / 32, false, 20000);
}

// More queries than are kept one by one.
TEST(ObservedAttentionTest, EntropyOfManyQueriesMatchesTheDefinition) {
  ExpectObservesAsReference("paper:queries=100", 100, 1 - 1.0 / 100, false);
  ExpectObservesAsReference("paper:queries=100", 100, 1 - 1.0 / 100, true);
}

// The Gaussian of each query head's last queries, as a softmax over all tokens so far. Older
// ubatches count less by the tokens since, and each by the queries observed in it.
TEST(ObservedAttentionTest, ExpectedAttentionMatchesTheDefinition) {
  const CacheShape shape = TestShape();
  KvCache cache =
      *KvCache::Create(shape, {.policy = *ParsePolicySpec("expected-attention:queries=8")});
  const double decay = 1 - 1.0 / 8;
  std::vector<std::vector<std::vector<double>>> keys(cache.impl().config().n_heads());
  std::vector<std::vector<double>> expected(keys.size());
  Random random(9);
  UbatchBuffers buffers;
  for (const size_t n : {20, 1, 5}) {
    RandomUbatch ubatch(shape, n, random);
    ubatch.Run(cache, &buffers);
    const size_t n_observed = std::min<size_t>(n, 8);
    double weight = 0;
    for (size_t q = 0; q < n_observed; ++q) weight += std::pow(decay, q);
    for (size_t head = 0; head < keys.size(); ++head) {
      const size_t layer = cache.impl().config().layer_of(head);
      const size_t kv_head = cache.impl().config().kv_head_of(head);
      const size_t d = shape.layers[layer].d_k;
      const size_t group = shape.layers[layer].n_head / shape.layers[layer].n_kv_head;
      for (size_t i = 0; i < n; ++i) {
        std::vector<double>& key = keys[head].emplace_back();
        for (size_t e = 0; e < d; ++e) {
          key.push_back(static_cast<double>(F32FromF16(ubatch.k(layer, i, kv_head)[e])));
        }
      }
      for (double& x : expected[head]) x *= std::pow(decay, n);
      expected[head].resize(keys[head].size());
      for (size_t g = 0; g < group; ++g) {
        std::vector<double> weights;
        double total = 0;
        for (const std::vector<double>& key : keys[head]) {
          double sum = 0, square = 0;
          for (size_t i = n - n_observed; i < n; ++i) {
            const float* q = ubatch.q(layer, i, kv_head * group + g);
            double dot = 0;
            for (size_t e = 0; e < d; ++e) dot += static_cast<double>(q[e]) * key[e];
            dot *= static_cast<double>(RandomUbatch::kScale);
            sum += dot / static_cast<double>(n_observed);
            square += dot * dot / static_cast<double>(n_observed);
          }
          weights.push_back(std::exp(sum + 0.5 * (square - sum * sum)));
          total += weights.back();
        }
        for (size_t t = 0; t < weights.size(); ++t) {
          expected[head][t] += weight * weights[t] / total / static_cast<double>(group);
        }
      }
      const RowStore& rows = cache.impl().head(head).store(0);
      for (size_t slot = 0; slot < rows.size(); ++slot) {
        const double x = expected[head][rows.index(slot)];
        ASSERT_NEAR(rows.stats(slot)[0], x, 1e-5 * (1 + x)) << "head " << head << " slot " << slot;
      }
    }
  }
}

// Forgotten tokens do not change the sums of remaining ones.
TEST(ObservedAttentionTest, SumsTravelWithTheirTokens) {
  for (const char* policy : {"h2o", "snapkv", "paper", "retentive", "tova", "tgv", "lookm"}) {
    for (const char* ladder : {"none", "auto"}) {
      SCOPED_TRACE(fmt::format("{} {}", policy, ladder));
      const CacheShape shape = TestShape();
      KvCache cache = *KvCache::Create(shape, {.policy = *ParsePolicySpec(policy),
                                               .budget = *ParseBudget("40%"),
                                               .ladder = *ParseLadder(ladder)});
      Random random(6);
      UbatchBuffers buffers;
      for (const size_t n : {40, 80, 1, 1, 50, 1, 1, 1}) {
        RandomUbatch(shape, n, random).Run(cache, &buffers);
        // A query's softmax adds up to one at most, so the means do.
        for (size_t head = 0; head < cache.impl().config().n_heads(); ++head) {
          double total = 0;
          for (size_t tier = 0; tier < cache.impl().config().n_rungs(); ++tier) {
            const RowStore& rows = cache.impl().head(head).store(tier);
            for (size_t slot = 0; slot < rows.size() && !rows.stats(slot).empty(); ++slot) {
              ASSERT_GE(rows.stats(slot)[0], 0.0f);
              total += static_cast<double>(rows.stats(slot)[0]);
            }
          }
          ASSERT_LE(total, 1.001 * static_cast<double>(cache.tokens_seen()));
        }
      }
    }
  }
}

// Any number of a ubatch's queries leaves one sum per observed token: a row for each query would
// exceed the cache.
TEST(ObservedAttentionTest, QueriesLeaveNoMoreThanSums) {
  for (const char* policy : {"h2o", "snapkv:queries=100", "retentive", "retentive:queries=100"}) {
    SCOPED_TRACE(policy);
    const CacheShape shape = TestShape();
    KvCache cache = *KvCache::Create(
        shape, {.policy = *ParsePolicySpec(policy), .budget = *ParseBudget("20%")});
    const CacheConfig& config = cache.impl().config();
    Random random(8);
    UbatchBuffers buffers;
    bool any = false;
    for (int i = 0; i < 8; ++i) {
      size_t n_observed_columns = 0;
      size_t max_observed = 0;  // by a head
      for (size_t head = 0; head < config.n_heads(); ++head) {
        size_t n = 128;
        for (size_t tier = 0; tier < config.n_rungs(); ++tier) {
          if (config.layout(head, tier).n_stats == 0) continue;
          n += cache.impl().head(head).store(tier).size();
        }
        if (config.absorb().has_states()) {
          n += cache.impl().head(head).store(config.state_tier()).size();
        }
        n_observed_columns += n;
        max_observed = std::max(max_observed, n);
      }
      size_t max_heads = 0;  // in a layer
      for (const LayerShape& layer : shape.layers) {
        max_heads = std::max(max_heads, layer.n_kv_head);
      }
      {
        const KvCache::Append aborted = cache.BeginAppend({.n = 128});
        const size_t bytes = cache.impl().buffers().observations.bytes();
        ASSERT_LE(bytes,
                  n_observed_columns * sizeof(float) + max_heads * max_observed * sizeof(int64_t))
            << "ubatch " << i;
        any = any || bytes > 0;
      }
      RandomUbatch(shape, 128, random).Run(cache, &buffers);
      EXPECT_EQ(buffers.observations.bytes(), 0u) << "ubatch " << i;
    }
    EXPECT_TRUE(any);
  }
}

// A picture among the first tokens, which the answer's tokens read.
constexpr MediaSpan kPicture = {.first_token = 3, .rows = 4, .columns = 5};

KvCache TracingCache(const std::string& policy, Budget budget = {}) {
  KvCache cache =
      *KvCache::Create(TestShape(), {.policy = *ParsePolicySpec(policy), .budget = budget});
  cache.StartTracing();
  cache.AddMedia(kPicture);
  return cache;
}

TEST(AnswerTraceTest, TokensReadWhatTheDefinitionSays) {
  KvCache cache = TracingCache("full");
  const CacheShape& shape = cache.shape();
  std::vector<ObservedReference> references;
  for (size_t l = 0; l < shape.layers.size(); ++l) {
    for (size_t h = 0; h < shape.layers[l].n_kv_head; ++h) references.emplace_back(shape, l, h);
  }
  Random random(10);
  UbatchBuffers buffers;
  for (const size_t n : {40, 1, 1, 1}) {
    RandomUbatch ubatch(shape, n, random);
    ubatch.Run(cache, &buffers);
    std::vector<bool> last(n);
    last.back() = true;
    for (ObservedReference& reference : references) reference.Add(ubatch, last);
    const AnswerTokenInspection chosen = cache.Inspect().answer.back();
    EXPECT_EQ(chosen.token, cache.tokens_seen());
    EXPECT_TRUE(chosen.reactivated.empty());
    ASSERT_EQ(chosen.read.size(), kPicture.n_tokens());
    for (size_t cell = 0; cell < chosen.read.size(); ++cell) {
      double mean = 0;
      for (const ObservedReference& reference : references) {
        mean += reference.last()[kPicture.first_token + cell];
      }
      ASSERT_NEAR(chosen.read[cell], mean / static_cast<double>(references.size()), 1e-5);
    }
  }
}

// The mean over the answer's tokens of `read` of a cell is the cell's share in the answer.
TEST(AnswerTraceTest, MeanOverTheTokensIsTheShareOfTheAnswer) {
  for (const char* policy : {"h2o", "snapkv", "tova"}) {
    SCOPED_TRACE(policy);
    KvCache cache = TracingCache(policy, *ParseBudget("60%"));
    Random random(11);
    UbatchBuffers buffers;
    RandomUbatch(cache.shape(), 80, random).Run(cache, &buffers);
    cache.impl().BeginAnswer();
    for (int i = 0; i < 6; ++i) RandomUbatch(cache.shape(), 1, random).Run(cache, &buffers);
    const Inspection seen = cache.Inspect();
    ASSERT_EQ(seen.answer.size(), 6u);
    EXPECT_EQ(seen.answer_tokens, 6u);
    double total = 0;
    for (size_t cell = 0; cell < kPicture.n_tokens(); ++cell) {
      double share = 0;
      double read = 0;
      for (const HeadInspection& head : seen.heads) {
        share += static_cast<double>(head.share[kPicture.first_token + cell]);
      }
      for (const AnswerTokenInspection& chosen : seen.answer) {
        read += static_cast<double>(chosen.read[cell]);
      }
      ASSERT_NEAR(read / 6, share / static_cast<double>(seen.heads.size()), 1e-5);
      total += read;
    }
    EXPECT_GT(total, 0.1);
  }
}

// A state's share counts for the root that it had when the token was chosen.
TEST(AnswerTraceTest, StatesAreReadAtTheirRoots) {
  KvCache cache = TracingCache("retentive", *ParseBudget("20%"));
  Random random(12);
  UbatchBuffers buffers;
  RandomUbatch(cache.shape(), 160, random).Run(cache, &buffers);
  cache.impl().BeginAnswer();
  size_t n_reactivated = 0;
  for (int step = 0; step < 8; ++step) {
    const KvCache before = cache;
    const CacheConfig& config = before.impl().config();
    RandomUbatch(cache.shape(), 1, random).Run(cache, &buffers);
    std::vector<double> read(cache.tokens_seen());
    std::vector<bool> reactivated(cache.tokens_seen());
    for (size_t head = 0; head < config.n_heads(); ++head) {
      const std::vector<float>& weights = buffers.observations.head(head).traced;
      size_t column = 0;
      before.impl().head(head).VisitRows([&](size_t tier, size_t slot) {
        const uint32_t token = before.impl().head(head).store(tier).index(slot);
        const auto weight = static_cast<double>(weights[column++]);
        read[token] += weight / static_cast<double>(config.n_heads());
        if (tier == config.state_tier() && weight > 0.05) reactivated[token] = true;
      });
    }
    const AnswerTokenInspection chosen = cache.Inspect().answer.back();
    for (size_t cell = 0; cell < kPicture.n_tokens(); ++cell) {
      ASSERT_NEAR(chosen.read[cell], read[kPicture.first_token + cell], 1e-6);
    }
    std::vector<uint32_t> roots;
    for (uint32_t token = 0; token < reactivated.size(); ++token) {
      if (reactivated[token]) roots.push_back(token);
    }
    EXPECT_EQ(chosen.reactivated, roots);
    n_reactivated += roots.size();
  }
  EXPECT_GT(n_reactivated, 0u);
}

TEST(AnswerTraceTest, TheLastTokensAreKeptAndThoseTakenBackAreNot) {
  KvCache cache = TracingCache("retentive", *ParseBudget("20%"));
  Random random(13);
  UbatchBuffers buffers;
  RandomUbatch(cache.shape(), 40, random).Run(cache, &buffers);
  cache.impl().BeginAnswer();
  EXPECT_TRUE(cache.Inspect().answer.empty());
  for (size_t i = 0; i < Inspection::kMaxAnswer + 10; ++i) {
    RandomUbatch(cache.shape(), 1, random).Run(cache, &buffers);
  }
  const KvCache copy = cache;
  Inspection seen = cache.Inspect();
  EXPECT_EQ(seen.answer_tokens, Inspection::kMaxAnswer + 10);
  ASSERT_EQ(seen.answer.size(), Inspection::kMaxAnswer);
  EXPECT_EQ(seen.answer.front().token, 51u);
  EXPECT_EQ(seen.answer.back().token, cache.tokens_seen());

  cache.Truncate(60);  // The token that is chosen with the last that stays may come again.
  seen = cache.Inspect();
  ASSERT_EQ(seen.answer.size(), 10u);
  EXPECT_EQ(seen.answer.back().token, 60u);
  cache.Truncate(55);
  cache.AddMedia({.first_token = 55, .rows = 1, .columns = 2});
  EXPECT_EQ(cache.Inspect().answer.back().read.size(), kPicture.n_tokens() + 2);
  cache.Truncate(10);
  EXPECT_TRUE(cache.Inspect().answer.empty());
  EXPECT_EQ(copy.Inspect().answer.size(), Inspection::kMaxAnswer);
}

// An f16 row store of states with these tokens' keys and values.
RowStore MakeStates(const RowLayout& layout, const RandomUbatch& ubatch,
                    const std::vector<uint16_t>& values, size_t n) {
  RowStore states(layout);
  states.SetCapacity(n);
  for (size_t i = 0; i < n; ++i) {
    states.Append({.k = ubatch.k(0, i, 0),
                   .v = values.data() + i * layout.d_v,
                   .index = static_cast<uint32_t>(i)});
  }
  return states;
}

std::vector<float> AttendRows(const RowStore& rows, const float* q, bool variance,
                              std::vector<RowStore> others = {}) {
  const RowLayout& layout = rows.layout();
  const HeadShape shape{.d_k = layout.d_k, .d_v = layout.d_v, .scale = RandomUbatch::kScale};
  std::vector<float> acc(layout.d_v), out(layout.d_v);
  std::vector<float> scratch(AttentionScratchFloats(layout.d_k, layout.d_v));
  float max = 0;
  float sum = 0;
  float norm = 0;
  for (size_t i = 0; i < layout.d_k; ++i) norm += q[i] * q[i];
  const float half_norm = 0.5f * RandomUbatch::kScale * RandomUbatch::kScale * norm;
  float* out_row = out.data();
  const SoftmaxState state{.acc = acc.data(), .max = &max, .sum = &sum};
  const QueryBlock queries{.rows = &q, .n = 1, .half_norm = variance ? &half_norm : nullptr};
  ResetSoftmax(1, layout.d_v, state);
  others.insert(others.begin(), rows);
  for (const RowStore& store : others) {
    for (size_t page = 0; page < store.n_spans(); ++page) {
      AttendSpan(shape, queries, store.span(page), nullptr, state, scratch.data());
    }
  }
  FinishSoftmax(1, layout.d_v, state, nullptr, &out_row);
  return out;
}

TEST(StateReadoutTest, StatesOfOneTokenEachAreFullAttentionBitForBit) {
  const size_t d = 24;
  const CacheShape shape = {.layers = {{.n_head = 1, .n_kv_head = 1, .d_k = d, .d_v = d}}};
  Random random(8);
  RandomUbatch ubatch(shape, 150, random);
  std::vector<uint16_t> values(150 * d);
  for (uint16_t& x : values) x = F16FromF32(static_cast<float>(random.NextGaussian()));
  const RowLayout states{.d_k = d, .d_v = d, .is_state = true};
  const RowLayout tokens{.d_k = d, .d_v = d};
  const RowStore as_states = MakeStates(states, ubatch, values, 150);
  const RowStore as_tokens = MakeStates(tokens, ubatch, values, 150);
  for (size_t q = 0; q < 10; ++q) {
    for (const bool variance : {false, true}) {
      EXPECT_EQ(AttendRows(as_states, ubatch.q(0, q, 0), variance),
                AttendRows(as_tokens, ubatch.q(0, q, 0), variance));
    }
  }
}

// Gaussian keys with values around one mean, beside tokens of another value: the output is the
// state's share of the softmax.
TEST(StateReadoutTest, VarianceTermCorrectsTheMassOfGaussianKeys) {
  const size_t d = 16;
  const RowLayout tokens{.d_k = d, .d_v = 1};
  const RowLayout state_layout{.d_k = d, .d_v = 1, .is_state = true};
  double last_with = 1;
  for (const size_t n : {32, 256, 2048}) {
    double with = 0;
    double without = 0;
    Random random(9);
    for (int round = 0; round < 30; ++round) {
      const auto gaussian = [&random](double scale) {
        return static_cast<float>(scale * random.NextGaussian());
      };
      std::vector<float> mean(d), q(d);
      for (float& x : mean) x = gaussian(0.5);
      for (float& x : q) x = gaussian(1.2);
      RowStore members(tokens), others(tokens);
      members.SetCapacity(n);
      others.SetCapacity(n);
      std::vector<double> sums(d), squares(d);
      std::vector<uint16_t> k(d);
      const uint16_t one = F16FromF32(1.0f);
      const uint16_t zero = 0;
      for (size_t i = 0; i < n; ++i) {
        for (size_t e = 0; e < d; ++e) {
          k[e] = F16FromF32(mean[e] + gaussian(1.0));
          const auto x = static_cast<double>(F32FromF16(k[e]));
          sums[e] += x;
          squares[e] += x * x;
        }
        members.Append({.k = k.data(), .v = &one});
        for (uint16_t& x : k) x = F16FromF32(gaussian(0.5));
        others.Append({.k = k.data(), .v = &zero});
      }
      double spread = 0;
      const auto count = static_cast<double>(n);
      for (size_t e = 0; e < d; ++e) {
        k[e] = F16FromF32(static_cast<float>(sums[e] / count));
        spread += squares[e] / count - sums[e] / count * sums[e] / count;
      }
      RowStore state(state_layout);
      state.SetCapacity(1);
      state.Append({.k = k.data(),
                    .v = &one,
                    .log_mass = static_cast<float>(std::log(count)),
                    .spread = static_cast<float>(spread / static_cast<double>(d))});
      const auto exact = static_cast<double>(AttendRows(members, q.data(), false, {others})[0]);
      const auto error = [&](bool variance) {
        return std::abs(static_cast<double>(AttendRows(state, q.data(), variance, {others})[0]) -
                        exact);
      };
      with += error(true) / 30;
      without += error(false) / 30;
    }
    EXPECT_LT(with, 0.5 * without) << n << " tokens";
    EXPECT_LT(with, last_with) << n << " tokens";
    last_with = with;
  }
  EXPECT_LT(last_with, 0.01);
}

}  // namespace
}  // namespace rkv
