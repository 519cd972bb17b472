// Curves of `rkv bench --plot`.
#ifndef RETENTIVEKV_APPS_RKV_BENCH_PLOT_H_
#define RETENTIVEKV_APPS_RKV_BENCH_PLOT_H_

#include <span>
#include <string>

#include "bench/results.h"

namespace rkv::app {

// An SVG picture of speed and of memory held against context, one curve for each cache: of decoding
// or, if no row is about that, of reading. Of the rows of one model, those that are as the first in
// threads, batch sizes and tokens of the test; the context is the depth.
std::string BenchPlot(std::span<const BenchRow> rows);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_BENCH_PLOT_H_
