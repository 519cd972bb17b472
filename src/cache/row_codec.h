// Converts between stored rows of a head and floats.
#ifndef RETENTIVEKV_CACHE_ROW_CODEC_H_
#define RETENTIVEKV_CACHE_ROW_CODEC_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cache/head.h"

namespace rkv {

// K and V of a head's rows in the basis where tokens are compared: rotated, if any rung is. Higher
// layers know neither rotation nor centre.
class RowCodec {
 public:
  RowCodec() = default;
  explicit RowCodec(const Head& head) { Set(head); }

  // Allocates only for larger heads than before. The head must not move.
  void Set(const Head& head);

  // k or v may be null: not wanted.
  void DecodeStored(size_t tier, size_t slot, float* k, float* v) const;
  void DecodeStaged(const uint16_t* k16, const uint16_t* v16, float* k, float* v) const;
  // Encodes to the types of a tier. Overwrites k and v.
  void Encode(size_t tier, float* k, float* v, uint8_t* k_row, uint8_t* v_row) const;

 private:
  const Head* head_ = nullptr;
  const RowBasis* k_basis_ = nullptr;  // null: rows are kept as they come
  const RowBasis* v_basis_ = nullptr;
  std::vector<float> k_centre_, v_centre_;  // empty without a centre
};

}  // namespace rkv

#endif  // RETENTIVEKV_CACHE_ROW_CODEC_H_
