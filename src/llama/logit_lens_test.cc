// The lens against the model's own logits.
#include "llama/logit_lens.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>
#include <numeric>
#include <vector>

#include "llama/model.h"
#include "support/test_models.h"

namespace rkv {
namespace {

std::vector<double> Ranks(const std::vector<double>& x) {
  std::vector<size_t> order(x.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::sort(order, {}, [&](size_t i) { return x[i]; });
  std::vector<double> ranks(x.size());
  for (size_t i = 0; i < order.size(); ++i) ranks[order[i]] = static_cast<double>(i);
  return ranks;
}

// Spearman's.
double RankCorrelation(const std::vector<double>& a, const std::vector<double>& b) {
  const std::vector<double> ranks_a = Ranks(a), ranks_b = Ranks(b);
  const auto n = static_cast<double>(a.size());
  double square = 0;
  for (size_t i = 0; i < a.size(); ++i) square += std::pow(ranks_a[i] - ranks_b[i], 2);
  return 1 - 6 * square / (n * (n * n - 1));
}

double Surprisal(std::span<const float> logits, Token token) {
  const auto max = static_cast<double>(std::ranges::max(logits));
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x) - max);
  return max + std::log(sum) - static_cast<double>(logits[static_cast<size_t>(token)]);
}

// Decodes tokens as a prompt of several ubatches; returns -ln p of each by the model's logits.
std::vector<double> Read(Model& model, KvCache& cache, const std::vector<Token>& tokens,
                         size_t n_ubatch) {
  std::vector<double> surprisals(tokens.size(), std::numeric_limits<double>::quiet_NaN());
  for (size_t begin = 0; begin < tokens.size(); begin += n_ubatch) {
    const size_t end = std::min(begin + n_ubatch, tokens.size());
    Ubatch ubatch;
    ubatch.caches.push_back({.cache = &cache, .prompt_follows = end < tokens.size()});
    for (size_t i = begin; i < end; ++i) {
      ubatch.tokens.push_back(
          {.token = tokens[i], .position = {static_cast<Position>(i)}, .output = true});
    }
    if (end < tokens.size()) ubatch.tokens.back().next = tokens[end];
    EXPECT_TRUE(model.Decode(ubatch).ok());
    for (size_t i = begin; i < std::min(end, tokens.size() - 1); ++i) {
      surprisals[i + 1] = Surprisal(model.Logits(i - begin), tokens[i + 1]);
    }
  }
  return surprisals;
}

CacheOptions RetentiveOptions() { return {.policy = {.name = "retentive", .options = {}}}; }

TEST(LogitLensTest, EveryTokenOfAPromptButTheFirstIsKnown) {
  auto model = *Model::Load({.model = TestModelPath("qwen2-d64"), .n_ubatch = 16}, {});
  std::vector<Token> tokens;
  for (Token i = 0; i < 50; ++i) tokens.push_back(40 + i * 7 % 200);
  KvCache cache = *KvCache::Create(model->shape(), RetentiveOptions());
  Read(*model, cache, tokens, 16);
  const SurprisalTable& table = cache.impl().surprisals();
  EXPECT_EQ(table.size(), 50u);
  const SurprisalScores scores(table);
  EXPECT_TRUE(std::isnan(scores[0]));
  for (uint32_t i = 1; i < 50; ++i) EXPECT_TRUE(std::isfinite(scores[i])) << i;
  // However the prompt is cut.
  KvCache other = *KvCache::Create(model->shape(), RetentiveOptions());
  Read(*model, other, tokens, 7);
  const SurprisalScores same(other.impl().surprisals());
  for (uint32_t i = 1; i < 50; ++i) EXPECT_NEAR(scores[i], same[i], 0.2) << i;
}

TEST(LogitLensTest, PoliciesThatDoNotAskGetNothing) {
  auto model = *Model::Load({.model = TestModelPath("qwen2-d64"), .n_ubatch = 16}, {});
  const std::vector<Token> tokens(40, 50);
  for (const char* policy : {"full", "snapkv", "retentive:surprisal=0"}) {
    KvCache cache = *KvCache::Create(model->shape(), {.policy = *ParsePolicySpec(policy)});
    Read(*model, cache, tokens, 16);
    EXPECT_TRUE(cache.impl().surprisals().empty()) << policy;
  }
}

TEST(LogitLensTest, RanksRealTextAsItsModelDoes) {
  if (const char* why = WhyNoRealWeights()) GTEST_SKIP() << why;
  auto model = *Model::Load({.model = SmolLm2Path(), .n_ubatch = 256, .n_threads = 2}, {});
  std::ifstream file(SourcePath("models/reference/prose/alice.txt"));
  std::string text((std::istreambuf_iterator<char>(file)), {});
  std::vector<Token> tokens = *model->Tokenize(text.substr(20000, 6000), false);
  tokens.resize(1000);
  KvCache cache = *KvCache::Create(model->shape(), RetentiveOptions());
  const std::vector<double> expected = Read(*model, cache, tokens, 256);
  const SurprisalScores scores(cache.impl().surprisals());
  std::vector<double> means, estimates;
  for (uint32_t i = 5; i + 5 < tokens.size(); ++i) {
    means.push_back(std::accumulate(expected.begin() + i - 4, expected.begin() + i + 5, 0.0));
    estimates.push_back(static_cast<double>(scores[i]));
  }
  EXPECT_GT(RankCorrelation(means, estimates), 0.5);
}

}  // namespace
}  // namespace rkv
