// A plain read of memory, which kernels are compared with.
#ifndef RETENTIVEKV_BASE_READ_BANDWIDTH_H_
#define RETENTIVEKV_BASE_READ_BANDWIDTH_H_

#include <cstddef>
#include <cstdint>

namespace rkv {

// The sum of n words, read as fast as one thread can. What is beyond a multiple of 32 is left out.
uint64_t SumWords(const uint64_t* words, size_t n);

}  // namespace rkv

#endif  // RETENTIVEKV_BASE_READ_BANDWIDTH_H_
