// The cost of a budget in decoding: moving tokens to lower rungs, to states and out, per token.
#include <benchmark/benchmark.h>

#include <vector>

#include "base/f16.h"
#include "base/random.h"
#include "retentivekv/kv_cache.h"

namespace rkv {
namespace {

constexpr size_t kTokens = 4096;
constexpr size_t kUbatch = 512;
constexpr size_t kSteps = 128;

CacheOptions Options(double percent) {
  CacheOptions options;
  options.policy.name = "retentive";
  options.budget = {.unit = Budget::Unit::kPercent, .amount = percent};
  return options;
}

class Conversation {
 public:
  Conversation(const CacheShape& shape, double percent)
      : shape_(shape), cache_(*KvCache::Create(shape, Options(percent))) {}

  void Append(size_t n, bool prompt_follows) {
    KvCache::Append append = cache_.BeginAppend({.n = n, .prompt_follows = prompt_follows});
    for (size_t layer = 0; layer < shape_.layers.size(); ++layer) {
      const LayerShape& own = shape_.layers[layer];
      k_.resize(own.d_k);
      v_.resize(own.d_v);
      for (size_t head = 0; head < own.n_kv_head; ++head) {
        for (size_t i = 0; i < n; ++i) {
          for (uint16_t& x : k_) x = F16FromF32(static_cast<float>(random_.NextGaussian()));
          for (uint16_t& x : v_) x = F16FromF32(static_cast<float>(random_.NextGaussian()));
          append.Stage(layer, head, i, k_.data(), v_.data());
        }
      }
    }
    append.Commit();
  }
  const KvCache& cache() const { return cache_; }

 private:
  CacheShape shape_;
  KvCache cache_;
  Random random_{1};
  std::vector<uint16_t> k_, v_;
};

// Seconds are those of one KV head.
void BM_CompressSteps(benchmark::State& bench) {
  const CacheShape shape{
      .layers = std::vector<LayerShape>(2, {.n_head = 12, .n_kv_head = 2, .d_k = 128, .d_v = 128})};
  constexpr double kHeads = 4;
  Conversation start(shape, static_cast<double>(bench.range(0)));
  for (size_t i = 0; i < kTokens; i += kUbatch) start.Append(kUbatch, i + kUbatch < kTokens);
  const double prompt = start.cache().stats().compress_seconds;
  for (auto _ : bench) {
    Conversation conversation = start;
    for (size_t step = 0; step < kSteps; ++step) conversation.Append(1, false);
    const CacheStats stats = conversation.cache().stats();
    bench.SetIterationTime((stats.compress_seconds - prompt) / kHeads / kSteps);
    bench.counters["prompt"] = prompt / kHeads / kTokens;
    bench.counters["runs"] =
        static_cast<double>(stats.compressions - start.cache().stats().compressions);
  }
}
BENCHMARK(BM_CompressSteps)
    ->ArgName("percent")
    ->Arg(20)
    ->Arg(10)
    ->Arg(5)
    ->Iterations(2)
    ->UseManualTime()
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace rkv
