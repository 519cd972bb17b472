// Steps of decoding between two compressions do not allocate, and a long prompt takes its budget
// and less than a ubatch beside it.
#include <gtest/gtest.h>
#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <limits>
#include <new>
#include <optional>
#include <vector>

#include "cache/kv_cache_impl.h"
#include "rows/page_pool.h"
#include "support/random_ubatch.h"

namespace {

std::atomic<size_t> allocations = 0;
std::atomic<size_t> live_bytes = 0;
std::atomic<size_t> peak_bytes = 0;
const rkv::PagePool* pool = nullptr;  // if set, its pages count as well

void* TryAllocate(size_t n) {
  ++allocations;
  void* cache = std::malloc(n == 0 ? 1 : n);
  if (cache == nullptr) return cache;
  size_t live = live_bytes += malloc_usable_size(cache);
  if (pool != nullptr) live += pool->used_bytes();
  size_t peak = peak_bytes;
  while (peak < live && !peak_bytes.compare_exchange_weak(peak, live)) {
  }
  return cache;
}

void* Allocate(size_t n) {
  void* cache = TryAllocate(n);
  if (cache == nullptr) throw std::bad_alloc();
  return cache;
}

void Free(void* cache) {
  live_bytes -= malloc_usable_size(cache);
  std::free(cache);
}

}  // namespace

// Counts every allocation of this program.
void* operator new(size_t n) { return Allocate(n); }
void* operator new[](size_t n) { return Allocate(n); }
void* operator new(size_t n, const std::nothrow_t&) noexcept { return TryAllocate(n); }
void operator delete(void* cache, const std::nothrow_t&) noexcept { Free(cache); }
void operator delete(void* cache) noexcept { Free(cache); }
void operator delete[](void* cache) noexcept { Free(cache); }
void operator delete(void* cache, size_t) noexcept { Free(cache); }
void operator delete[](void* cache, size_t) noexcept { Free(cache); }

namespace rkv {
namespace {

CacheShape TestShape() {
  return {.layers = {{.n_head = 4, .n_kv_head = 2, .d_k = 32, .d_v = 32},
                     {.n_head = 3, .n_kv_head = 3, .d_k = 16, .d_v = 24}}};
}

// Allocations in each of ten steps after a prompt and two steps that warm up.
std::vector<size_t> StepAllocations(const CacheOptions& options) {
  KvCache cache = *KvCache::Create(TestShape(), options);
  Random random(1);
  UbatchBuffers buffers;
  RandomUbatch(TestShape(), 300, random).Run(cache, &buffers);
  AttentionScratch scratch;
  scratch.Resize(TestShape());
  scratch.logits().reserve(kMaxQueryRows * 400);
  std::vector<RandomUbatch> steps;
  for (int i = 0; i < 12; ++i) steps.emplace_back(TestShape(), 1, random);
  std::vector<size_t> counts;
  for (size_t i = 0; i < steps.size(); ++i) {
    const uint64_t compressions = cache.stats().compressions;
    const size_t before = allocations;
    steps[i].Run(cache, &buffers, scratch);
    const size_t after = allocations;
    if (i >= 2 && cache.stats().compressions == compressions) counts.push_back(after - before);
  }
  return counts;
}

TEST(DecodeAllocationTest, StepsBetweenCompressionsAllocateNothing) {
  using Options = std::vector<std::pair<std::string, std::string>>;
  for (const auto& [policy, budget] : Options{{"full", "100%"},
                                              {"streaming", "80t"},
                                              {"knorm", "100t"},
                                              {"keydiff", "150t"},
                                              {"retentive", "120t"},
                                              {"h2o", "150t"},
                                              {"snapkv", "150t"},
                                              {"tova", "150t"},
                                              {"expected-attention", "150t"},
                                              {"tgv", "150t"},
                                              {"lookm", "150t"},
                                              {"paper", "150t"}}) {
    const std::vector<size_t> counts =
        StepAllocations({.policy = *ParsePolicySpec(policy), .budget = *ParseBudget(budget)});
    EXPECT_FALSE(counts.empty()) << policy;
    // Scratch grows ahead of need, so few steps allocate.
    const auto allocating =
        static_cast<size_t>(std::ranges::count_if(counts, [](size_t count) { return count > 0; }));
    EXPECT_LE(allocating, counts.size() / 4) << policy;
  }
}

// The cost of a step is its read rows, and the scored rows if it compresses.
TEST(DecodeCostTest, StepsVisitNoMoreRowsThanTheBudgetHolds) {
  for (const char* policy : {"streaming", "h2o", "retentive:window=16", "paper"}) {
    KvCache cache = *KvCache::Create(
        TestShape(), {.policy = *ParsePolicySpec(policy), .budget = *ParseBudget("64t")});
    const CacheConfig& config = cache.impl().config();
    size_t min_row_bytes = std::numeric_limits<size_t>::max();
    for (size_t head = 0; head < config.n_heads(); ++head) {
      for (size_t tier = 0; tier < config.n_tiers(); ++tier) {
        min_row_bytes = std::min(min_row_bytes, config.layout(head, tier).row_bytes());
      }
    }
    Random random(2);
    UbatchBuffers buffers;
    AttentionScratch scratch;
    scratch.Resize(TestShape());
    constexpr int kSteps = 1500;
    for (int step = 0; step < kSteps; ++step) {
      RandomUbatch(TestShape(), 1, random).Run(cache, &buffers, scratch);
      size_t rows = 0;
      for (size_t head = 0; head < config.n_heads(); ++head) {
        for (size_t tier = 0; tier < config.n_tiers(); ++tier) {
          rows += cache.impl().head(head).store(tier).size();
        }
      }
      ASSERT_LE(rows * min_row_bytes, cache.stats().budget_bytes) << policy << step;
    }
    // Each compression scores the held rows and the new one.
    EXPECT_LE(cache.stats().compressions, static_cast<uint64_t>(kSteps)) << policy;
  }
}

// Every ubatch of a prompt is compressed, by all threads, without a copy of the ubatch. Threads
// need memory for a head, not for all tokens, unless heads compete for the budget or a policy
// observes queries.
TEST(PromptAllocationTest, StreamingTakesTheBudgetAndPartOfAUbatch) {
  struct Case {
    const char* policy;
    const char* budget;
    double most;  // beside the budget, of a ubatch
    std::optional<Split> split = std::nullopt;
  };
  const CacheShape shape = {
      .layers = std::vector<LayerShape>(16, {.n_head = 2, .n_kv_head = 2, .d_k = 64, .d_v = 64})};
  constexpr size_t kUbatch = 128;
  for (const Case& c : {Case{"streaming", "20%", 0.1}, Case{"streaming", "5%", 0.1},
                        Case{"retentive", "20%", 0.3}, Case{"retentive", "5%", 0.7},
                        Case{"retentive", "20%", 1.3, Split::kPooled}, Case{"h2o", "20%", 0.2},
                        Case{"tgv", "20%", 0.2}, Case{"expected-attention", "20%", 0.95}}) {
    Random random(3);
    RandomUbatch ubatch(shape, kUbatch, random);
    AttentionScratch scratch;
    scratch.Resize(shape);
    pool = &PagePool::Shared();
    const size_t before = live_bytes + pool->used_bytes();
    peak_bytes = before;
    UbatchBuffers buffers;
    KvCache cache = *KvCache::Create(
        shape,
        {.policy = *ParsePolicySpec(c.policy), .budget = *ParseBudget(c.budget), .split = c.split});
    for (size_t i = 0; i < 12; ++i) ubatch.Run(cache, &buffers, scratch, false, {.n_threads = 2});
    const auto peak = static_cast<double>(peak_bytes - before);
    const auto budget = static_cast<double>(cache.stats().budget_bytes);
    const auto n_ubatch = static_cast<double>(kUbatch * shape.full_token_bytes());
    EXPECT_LE(peak, budget + c.most * n_ubatch)
        << c.policy << " " << c.budget << ": " << (peak - budget) / n_ubatch;
    EXPECT_GE(peak, 0.9 * budget);
  }
}

}  // namespace
}  // namespace rkv
