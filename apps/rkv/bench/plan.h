// The plan of `rkv bench`: tests, and the caches under test.
#ifndef RETENTIVEKV_APPS_RKV_BENCH_PLAN_H_
#define RETENTIVEKV_APPS_RKV_BENCH_PLAN_H_

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "retentivekv/options.h"
#include "retentivekv/status.h"

namespace rkv::app {

// Parses a list of numbers in llama-bench's form: "1,2,4", "1-4", "64-256+64" or "1-8*2".
// kInvalidArgument, naming `flag`, for anything else and for numbers below `min_number`.
Result<std::vector<int>> ParseNumbers(std::string_view flag, std::string_view list, int min_number);

// A cache under test: a line of the table.
struct BenchCache {
  bool stock = false;                      // llama.cpp's own; else ours
  CacheOptions options;                    // ours
  ElementType type_k = ElementType::kF16;  // of a cache without a ladder
  ElementType type_v = ElementType::kF16;

  std::string engine() const { return stock ? "llama.cpp" : "rkv"; }
  std::string policy() const { return stock ? "" : ToString(ChosenPolicy(options)); }
  std::string budget() const;
  // "f16", "q8_0/q4_0" for K and V, or the ladder.
  std::string type() const;
  // The full description, for a legend.
  std::string label() const;
};

struct BenchCacheChoices {
  std::vector<PolicySpec> policies;
  std::vector<Budget> budgets;  // of policies that evict
  std::vector<Ladder> ladders;  // likewise; empty: each policy's default
  std::vector<std::pair<ElementType, ElementType>>
      types;  // of stock's caches and of policies that do not evict
  Compression compression = Compression::kStreaming;
};

// Parses K and V types from two lists such as "f16,q8_0". An empty list equals the other; two empty
// lists give f16, q8_0 and q4_0. Otherwise the lengths must be equal.
Result<std::vector<std::pair<ElementType, ElementType>>> ParseTypePairs(std::string_view types_k,
                                                                        std::string_view types_v);

// Stock's caches first. kInvalidArgument for unknown policies and options.
Result<std::vector<BenchCache>> MakeBenchCaches(const BenchCacheChoices& choices);

// A test of a prompt (pp) or of decoding (tg), as in llama-bench.
struct BenchTest {
  bool prefill = false;
  size_t n = 0;
  size_t depth = 0;  // tokens before the test

  std::string name() const;  // "pp512", "tg128 @ d4096"
};

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_BENCH_PLAN_H_
