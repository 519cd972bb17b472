#include "base/parallel.h"

#include <gtest/gtest.h>

namespace rkv {
namespace {

TEST(ParallelForTest, EveryRoundRunsOnceOnAnyNumberOfThreads) {
  for (const size_t n_threads : {0, 1, 2, 5}) {
    for (const size_t n : {0, 1, 3, 1000}) {
      std::vector<std::atomic<int>> runs(n);
      ParallelFor(n_threads, n, [&runs](size_t i) { ++runs[i]; });
      for (const auto& count : runs) EXPECT_EQ(count, 1) << n << " on " << n_threads;
    }
  }
}

}  // namespace
}  // namespace rkv
