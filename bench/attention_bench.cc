// Attention over cached tokens, in the shapes of real models. Reports the bytes of K and V read per
// second: decoding is bound by that.
#include <benchmark/benchmark.h>

#include <vector>

#include "base/f16.h"
#include "base/random.h"
#include "kernels/attention.h"

namespace rkv {
namespace {

// One query group over `n_tokens` tokens of one KV head: a decode step.
void BM_AttendGroup(benchmark::State& bench) {
  const auto d = static_cast<size_t>(bench.range(0));
  const auto n_queries = static_cast<size_t>(bench.range(1));
  const auto n_tokens = static_cast<size_t>(bench.range(2));
  Random random(1);
  std::vector<uint16_t> k(n_tokens * d), v(n_tokens * d);
  for (uint16_t& x : k) x = F16FromF32(static_cast<float>(random.NextGaussian()));
  for (uint16_t& x : v) x = F16FromF32(static_cast<float>(random.NextGaussian()));
  std::vector<float> q(n_queries * d), out(n_queries * d), acc(n_queries * d), max(n_queries),
      sum(n_queries), scratch(AttentionScratchFloats(d, d));
  for (float& x : q) x = static_cast<float>(random.NextGaussian());
  std::vector<const float*> rows;
  std::vector<float*> out_rows;
  for (size_t i = 0; i < n_queries; ++i) {
    rows.push_back(q.data() + i * d);
    out_rows.push_back(out.data() + i * d);
  }
  const HeadShape shape{.d_k = d, .d_v = d, .scale = 0.1f};
  const KvSpan span{
      .k = k.data(), .v = v.data(), .k_stride = 2 * d, .v_stride = 2 * d, .n = n_tokens};
  const SoftmaxState state{.acc = acc.data(), .max = max.data(), .sum = sum.data()};
  for (auto _ : bench) {
    ResetSoftmax(n_queries, d, state);
    AttendSpan(shape, {.rows = rows.data(), .n = n_queries}, span, nullptr, state, scratch.data());
    FinishSoftmax(n_queries, d, state, nullptr, out_rows.data());
    benchmark::DoNotOptimize(out.data());
  }
  const auto bytes = static_cast<int64_t>(2 * n_tokens * d * sizeof(uint16_t));
  bench.SetBytesProcessed(bench.iterations() * bytes);
}

// Head size, query group, tokens: LLaVA-1.5 (MHA), Qwen2-1.5B, Qwen3-VL, a prefill block.
BENCHMARK(BM_AttendGroup)
    ->ArgNames({"d", "queries", "tokens"})
    ->Args({128, 1, 4096})
    ->Args({128, 6, 4096})
    ->Args({128, 4, 4096})
    ->Args({64, 2, 4096})
    ->Args({128, 16, 4096});

}  // namespace
}  // namespace rkv
