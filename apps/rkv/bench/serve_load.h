// What `rkv bench --serve` measures: how many conversations the server holds within a limit, and
// how fast it decodes for as many clients, by the scheduler of `rkv serve`.
#ifndef RETENTIVEKV_APPS_RKV_BENCH_SERVE_LOAD_H_
#define RETENTIVEKV_APPS_RKV_BENCH_SERVE_LOAD_H_

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "bench/measure.h"
#include "bench/results.h"
#include "retentivekv/engine.h"

namespace rkv::app {

struct ServeLoadPlan {
  BenchPlan bench;  // caches are ours; prompts, n_batch and n_conversations do not apply
  std::string mmproj;
  std::vector<MediaFile> pictures;  // at the begin of each conversation
  uint64_t memory_bytes = 0;        // for all caches together; 0: four full ones
  int n_parallel = 64;              // most clients
  std::string park;  // where a folder is made for conversations that do not fit; empty: temporary
  const std::atomic<bool>* cancel = nullptr;  // polled while answers are awaited
};

// For each model, number of threads, ubatch, depth and number of tokens: each cache's number of
// conversations, then each cache with as many clients as each cache holds, the fewest first. All
// caches take a repetition, in which every client asks once, before any takes the next.
// kInvalidArgument if n_parallel clients fit, or not even one.
Result<std::vector<BenchRow>> MeasureServeLoad(const ServeLoadPlan& plan,
                                               const BenchProgress& progress);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_BENCH_SERVE_LOAD_H_
