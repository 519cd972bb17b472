#include "lab/read_bandwidth.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/huge_pages.h"
#include "lab/widest_vectors.h"

namespace rkv {

namespace {

constexpr size_t kBytes = size_t{1} << 29;
constexpr int kPasses = 3;

}  // namespace

// Several sums, so that loads need not wait for the last sum.
RKV_WIDEST_VECTORS uint64_t SumWords(const uint64_t* words, size_t n) {
  uint64_t sums[32] = {};
  for (size_t i = 0; i + 32 <= n; i += 32) {
    for (size_t j = 0; j < 32; ++j) sums[j] += words[i + j];
  }
  uint64_t sum = 0;
  for (const uint64_t s : sums) sum += s;
  return sum;
}

double MeasureReadBandwidth(int n_threads) {
  const auto n = static_cast<size_t>(std::max(1, n_threads));
  const size_t words = kBytes / sizeof(uint64_t) / n;  // of a thread
  const auto buffer = std::make_unique_for_overwrite<uint64_t[]>(words * n);
  UseHugePages(buffer.get(), words * n * sizeof(uint64_t));
  std::atomic<uint64_t> total{0};  // so that no compiler removes the reads
  const auto pass = [&](bool write) {
    std::vector<std::thread> threads;
    for (size_t t = 0; t < n; ++t) {
      threads.emplace_back([&, t] {
        uint64_t* part = buffer.get() + t * words;
        if (write) std::fill_n(part, words, t);
        if (!write) total += SumWords(part, words);
      });
    }
    for (std::thread& thread : threads) thread.join();
  };
  pass(true);
  double best = 0;
  for (int i = 0; i < kPasses; ++i) {
    const Stopwatch clock;
    pass(false);
    best = std::max(best, static_cast<double>(words * n * sizeof(uint64_t)) / clock.Seconds());
  }
  return best;
}

}  // namespace rkv
