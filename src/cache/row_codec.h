// Between the types in which rows are stored and floats.
#ifndef RETENTIVEKV_CACHE_ROW_CODEC_H_
#define RETENTIVEKV_CACHE_ROW_CODEC_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "retentivekv/kv_cache.h"
#include "rows/row_store.h"

namespace rkv {

// K and V of a head's rows in the basis where tokens are compared: rotated, if any rung is.
class RowCodec {
 public:
  RowCodec() = default;
  RowCodec(const KvCache::Impl& cache, size_t head) { Set(cache, head); }

  // Allocates only for larger heads than before.
  void Set(const KvCache::Impl& cache, size_t head);

  // k or v may be null: not asked for.
  void DecodeStored(const RowStore& rows, bool rotated, size_t slot, float* k, float* v) const;
  void DecodeStaged(const uint16_t* k16, const uint16_t* v16, float* k, float* v) const;
  // Into the types of a tier. k and v are overwritten.
  void Encode(const RowLayout& layout, bool rotated, float* k, float* v, uint8_t* k_row,
              uint8_t* v_row) const;

 private:
  size_t d_k_ = 0;
  size_t d_v_ = 0;
  bool rotates_ = false;
  std::vector<float> k_centre_, v_centre_;  // empty without a centre
};

}  // namespace rkv

#endif  // RETENTIVEKV_CACHE_ROW_CODEC_H_
