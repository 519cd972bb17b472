// A plain read of memory, which kernels and whole steps of decoding are compared with.
#ifndef RETENTIVEKV_LAB_READ_BANDWIDTH_H_
#define RETENTIVEKV_LAB_READ_BANDWIDTH_H_

#include <cstddef>
#include <cstdint>

namespace rkv {

// The sum of n words, read as fast as one thread can. What is beyond a multiple of 32 is left out.
uint64_t SumWords(const uint64_t* words, size_t n);

// Bytes per second that `n_threads` threads read from memory: the best of some passes over a buffer
// that no cache holds.
double MeasureReadBandwidth(int n_threads);

}  // namespace rkv

#endif  // RETENTIVEKV_LAB_READ_BANDWIDTH_H_
