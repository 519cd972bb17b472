// A plain read of memory, for comparison with kernels and whole decoding steps.
#ifndef RETENTIVEKV_LAB_READ_BANDWIDTH_H_
#define RETENTIVEKV_LAB_READ_BANDWIDTH_H_

#include <cstddef>
#include <cstdint>

namespace rkv {

// The sum of n words, read at the full speed of one thread. Leaves out the words beyond a multiple
// of 32.
uint64_t SumWords(const uint64_t* words, size_t n);

// Bytes per second that `n_threads` threads read from memory: the best of several passes over a
// buffer larger than any CPU cache.
double MeasureReadBandwidth(int n_threads);

}  // namespace rkv

#endif  // RETENTIVEKV_LAB_READ_BANDWIDTH_H_
