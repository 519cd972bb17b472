// Bytes of a cache's parts, held or predicted.
#ifndef RETENTIVEKV_CACHE_BYTE_COUNT_H_
#define RETENTIVEKV_CACHE_BYTE_COUNT_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "retentivekv/kv_cache.h"
#include "rows/row_store.h"

namespace rkv {

inline constexpr uint64_t kNoLimit = std::numeric_limits<uint64_t>::max();

// K and V of a head's centre, as q8_0.
inline size_t CentreBytes(const LayerShape& shape) {
  return RowBytes(ElementType::kQ8_0, shape.d_k) + RowBytes(ElementType::kQ8_0, shape.d_v);
}

// Of the matrix that a head's states share, as f16.
inline size_t MatrixElements(const LayerShape& shape) { return shape.d_k * shape.d_v; }
inline size_t MatrixBytes(const LayerShape& shape) {
  return MatrixElements(shape) * sizeof(uint16_t);
}

inline uint64_t StoreBytes(const RowStore& rows) { return sizeof(RowStore) + rows.held_bytes(); }

// A store with exactly room for `n` rows; no store is allocated without rows.
inline uint64_t StoreBytesFor(size_t n, const RowLayout& layout) {
  return n == 0 ? 0 : sizeof(RowStore) + RowStore::BytesFor(n, layout);
}

// Spare rows that a store of `n` rows may have. A sixteenth bounds both the waste and the number of
// allocations by appending.
inline size_t SpareRows(size_t n) { return std::clamp<size_t>(n / 16, 4, RowStore::kPageRows); }

// Maximum free rows of a store after a compression.
inline constexpr uint64_t kMaxCompressedSpareRows = 128;

// Maximum spare rows of any store.
inline constexpr uint64_t kMaxSpareRows =
    std::max<uint64_t>(RowStore::kPageRows, kMaxCompressedSpareRows);

}  // namespace rkv

#endif  // RETENTIVEKV_CACHE_BYTE_COUNT_H_
