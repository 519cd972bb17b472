// The basis in which rows of quantised types are kept.
#ifndef RETENTIVEKV_CACHE_ROW_BASIS_H_
#define RETENTIVEKV_CACHE_ROW_BASIS_H_

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "retentivekv/kv_cache.h"

namespace rkv {

// An orthonormal transform of rows of `d` elements: a new order, then Hadamard transforms
// (RotateRow()). Mixed element types have more bits for the first half of a row. Slow pairs of
// elements, which RoPE turns least per token, come first for them: they carry what a token means,
// and fast pairs little but its place. Hadamard blocks do not cross the border between the halves.
class RowBasis {
 public:
  RowBasis() = default;
  explicit RowBasis(size_t d);                 // the order stays; blocks as large as possible
  RowBasis(size_t d, const RopeLayout& rope);  // for mixed types

  void To(float* x) const;    // to the basis
  void From(float* x) const;  // back

 private:
  size_t d_ = 0;
  size_t block_ = 1;
  std::vector<std::pair<uint16_t, uint16_t>> swaps_;  // of elements, one after the other
};

}  // namespace rkv

#endif  // RETENTIVEKV_CACHE_ROW_BASIS_H_
