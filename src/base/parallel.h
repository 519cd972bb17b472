// Parallel loops over independent iterations.
#ifndef RETENTIVEKV_BASE_PARALLEL_H_
#define RETENTIVEKV_BASE_PARALLEL_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <system_error>
#include <thread>
#include <vector>

namespace rkv {

// Calls work(i) once for every i below n, in any order, on the caller's thread and at most
// n_threads - 1 others. REQUIRES: work does not throw.
template <typename Work>
void ParallelFor(size_t n_threads, size_t n, const Work& work) {
  std::atomic<size_t> next{0};
  const auto run = [&next, &work, n] {
    for (size_t i = next++; i < n; i = next++) work(i);
  };
  std::vector<std::thread> others;
  others.reserve(n_threads);
  for (size_t t = 1; t < std::min(n_threads, n); ++t) {
    try {
      others.emplace_back(run);
    } catch (const std::system_error&) {
      break;  // The system has no more threads: continue with fewer.
    }
  }
  run();
  for (std::thread& thread : others) thread.join();
}

}  // namespace rkv

#endif  // RETENTIVEKV_BASE_PARALLEL_H_
