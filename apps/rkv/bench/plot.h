// The curves of `rkv bench --plot`.
#ifndef RETENTIVEKV_APPS_RKV_BENCH_PLOT_H_
#define RETENTIVEKV_APPS_RKV_BENCH_PLOT_H_

#include <span>
#include <string>

#include "bench/results.h"

namespace rkv::app {

// An SVG picture of speed and of held memory against context, with one curve for each cache. Speed
// is that of decoding or, without such rows, of reading. Of one model's rows, takes those that
// match the first in threads, batch sizes and tokens of the test. The context is the depth.
std::string BenchPlot(std::span<const BenchRow> rows);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_BENCH_PLOT_H_
