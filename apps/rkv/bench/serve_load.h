// The measurements of `rkv bench --serve`: the number of conversations that the server holds within
// a limit, and its speed of decoding for that many clients. Uses the scheduler of `rkv serve`.
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
  std::vector<MediaFile> pictures;  // at the start of each conversation
  uint64_t memory_bytes = 0;        // for all caches together; 0: four full ones
  int n_parallel = 64;              // maximum number of clients
  std::string park;  // parent folder for parked conversations; empty: the system's temporary folder
  const std::atomic<bool>* cancel = nullptr;  // polled during answers
};

// Runs for each model, number of threads, ubatch, depth and number of tokens. First counts the
// conversations that each cache holds. Then measures each cache with each of these numbers of
// clients, in ascending order. In a repetition every client asks once; all caches run a repetition
// before any cache runs the next. kInvalidArgument if n_parallel clients fit, or if not even one
// fits.
Result<std::vector<BenchRow>> MeasureServeLoad(const ServeLoadPlan& plan,
                                               const BenchProgress& progress);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_BENCH_SERVE_LOAD_H_
