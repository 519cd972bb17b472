// The measurements of `rkv bench`.
#ifndef RETENTIVEKV_APPS_RKV_BENCH_MEASURE_H_
#define RETENTIVEKV_APPS_RKV_BENCH_MEASURE_H_

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "bench/plan.h"
#include "bench/results.h"

namespace rkv::app {

struct BenchPlan {
  std::vector<std::string> models;  // files
  std::vector<int> n_threads;
  std::vector<int> n_batch;
  std::vector<int> n_ubatch;
  std::vector<int> depths;
  std::vector<int> prompts;      // tokens; tests of reading
  std::vector<int> generations;  // tokens; tests of decoding
  std::vector<BenchCache> caches;
  int n_conversations = 1;
  int repetitions = 5;
  bool random_depth = false;
  uint64_t seed = 1;
};

// The current step, and the finished share of the whole run, 0 to 1.
using BenchProgress = std::function<void(std::string_view what, double fraction)>;

// The rows by model, threads, batch sizes, depth, test and cache. Fills every cache to a depth
// once, and resets it to that depth before each repetition. All caches run a repetition of a test
// before any cache runs the next.
Result<std::vector<BenchRow>> MeasureBench(const BenchPlan& plan, const BenchProgress& progress);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_BENCH_MEASURE_H_
