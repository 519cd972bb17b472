// Attention over cached tokens, in the shapes of real models. Reports the bytes of K and V read per
// second, beside a plain read of as much memory. Also reports the multiply-adds of queries, beside
// multiply-adds without memory reads. One of the two bounds decoding.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/random.h"
#include "kernels/attention.h"
#include "lab/read_bandwidth.h"
#include "lab/widest_vectors.h"
#include "rows/page_pool.h"

namespace rkv {
namespace {

// Two threads' tokens exceed the largest CPU caches (480 MiB), so that rows come from memory.
constexpr size_t kBytesPerThread = size_t{512} << 20;

// A count per iteration of each thread, as a rate over all threads. Counters of the threads are
// added up, and the iterations already are those of all threads.
benchmark::Counter Rate(double n) {
  return {n, benchmark::Counter::Flags(benchmark::Counter::kIsIterationInvariantRate |
                                       benchmark::Counter::kAvgThreads)};
}

// The KvCache of the pool that the cache's pages come from.
class Blocks {
 public:
  Blocks(size_t n, size_t bytes) : bytes_(bytes) {
    for (size_t i = 0; i < n; ++i) blocks_.push_back(PagePool::Shared().Allocate(bytes));
  }
  Blocks(const Blocks&) = delete;
  Blocks& operator=(const Blocks&) = delete;
  ~Blocks() {
    for (uint8_t* block : blocks_) PagePool::Shared().Free(block, bytes_);
  }
  const std::vector<uint8_t*>& all() const { return blocks_; }

 private:
  size_t bytes_;
  std::vector<uint8_t*> blocks_;
};

// A plain read: the sum of all words.
void BM_Read(benchmark::State& bench) {
  constexpr size_t kBytes = size_t{256} << 10;
  const Blocks memory(kBytesPerThread / kBytes, kBytes);
  for (uint8_t* block : memory.all()) std::fill_n(block, kBytes, uint8_t{1});
  for (auto _ : bench) {
    uint64_t sum = 0;
    for (const uint8_t* block : memory.all()) {
      sum += SumWords(reinterpret_cast<const uint64_t*>(block), kBytes / sizeof(uint64_t));
    }
    benchmark::DoNotOptimize(sum);
  }
  bench.SetBytesProcessed(bench.iterations() * static_cast<int64_t>(kBytesPerThread));
}
BENCHMARK(BM_Read)->Threads(1)->Threads(2)->UseRealTime();

// As many sums as the CPU has registers for.
constexpr size_t kSums = 96;

RKV_WIDEST_VECTORS void MultiplyAdd(size_t n, float x, float* sums) {
  float own[kSums];
  for (size_t j = 0; j < kSums; ++j) own[j] = sums[j];
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < kSums; ++j) own[j] = __builtin_fmaf(own[j], x, x);
  }
  for (size_t j = 0; j < kSums; ++j) sums[j] = own[j];
}

// The maximum rate of float multiply-adds, without memory reads.
void BM_MultiplyAdd(benchmark::State& bench) {
  constexpr size_t kRounds = 100000;
  std::vector<float> sums(kSums, 1.0f);
  float x = 0.5f;
  for (auto _ : bench) {
    benchmark::DoNotOptimize(x);
    MultiplyAdd(kRounds, x, sums.data());
    benchmark::DoNotOptimize(sums.data());
  }
  bench.counters["multiply_adds"] = Rate(kRounds * kSums);
}
BENCHMARK(BM_MultiplyAdd)->Threads(1)->Threads(2)->UseRealTime();

// One query group of one KV head in a decode step, over pages of tokens of one type.
void BM_AttendGroup(benchmark::State& bench) {
  const auto type = static_cast<ElementType>(bench.range(0));
  const auto d = static_cast<size_t>(bench.range(1));
  const auto n_queries = static_cast<size_t>(bench.range(2));
  const size_t row_bytes = RowBytes(type, d);
  const size_t page_bytes = 2 * kAttentionBlock * row_bytes;
  const size_t n_pages = kBytesPerThread / page_bytes;
  Random random(1);
  std::vector<float> q(n_queries * d), row(d), out(n_queries * d), acc(n_queries * d),
      max(n_queries), sum(n_queries), scratch(AttentionScratchFloats(d, d));
  std::vector<uint8_t> page(page_bytes);
  const Blocks pages(n_pages, page_bytes);
  for (size_t i = 0; i < 2 * kAttentionBlock; ++i) {
    for (float& x : row) x = static_cast<float>(random.NextGaussian());
    EncodeRow(type, row.data(), d, page.data() + i * row_bytes);
  }
  std::vector<KvSpan> spans;
  for (uint8_t* at : pages.all()) {
    std::memcpy(at, page.data(), page_bytes);
    spans.push_back({.k = at,
                     .v = at + page_bytes / 2,
                     .k_type = type,
                     .v_type = type,
                     .k_stride = row_bytes,
                     .v_stride = row_bytes,
                     .n = kAttentionBlock});
  }
  for (float& x : q) x = static_cast<float>(random.NextGaussian());
  std::vector<const float*> rows;
  std::vector<float*> out_rows;
  for (size_t i = 0; i < n_queries; ++i) {
    rows.push_back(q.data() + i * d);
    out_rows.push_back(out.data() + i * d);
  }
  const HeadShape shape{.d_k = d, .d_v = d, .scale = 0.1f};
  const SoftmaxState state{.acc = acc.data(), .max = max.data(), .sum = sum.data()};
  for (auto _ : bench) {
    ResetSoftmax(n_queries, d, state);
    AttendSpans(shape, {.rows = rows.data(), .n = n_queries}, spans, state, scratch.data());
    FinishSoftmax(n_queries, d, state, nullptr, out_rows.data());
    benchmark::DoNotOptimize(out.data());
  }
  bench.SetBytesProcessed(bench.iterations() * static_cast<int64_t>(n_pages * page_bytes));
  const auto n_tokens = static_cast<double>(n_pages * kAttentionBlock);
  bench.counters["tokens"] = Rate(n_tokens);
  bench.counters["multiply_adds"] = Rate(n_tokens * 2 * static_cast<double>(d * n_queries));
}

// LLaVA-1.5 (no groups), Qwen3-VL, Qwen2-1.5B, a prefill block.
BENCHMARK(BM_AttendGroup)
    ->ArgNames({"type", "d", "queries"})
    ->ArgsProduct({{static_cast<int64_t>(ElementType::kF16),
                    static_cast<int64_t>(ElementType::kQ8_0),
                    static_cast<int64_t>(ElementType::kQ4_0),
                    static_cast<int64_t>(ElementType::kQ3), static_cast<int64_t>(ElementType::kQ2)},
                   {128},
                   {1, 4, 6, 16}})
    ->Threads(1)
    ->Threads(2)
    ->UseRealTime();

}  // namespace
}  // namespace rkv
