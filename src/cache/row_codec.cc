#include "cache/row_codec.h"

#include "cache/memory_impl.h"
#include "kernels/element.h"

namespace rkv {

void RowCodec::Set(const Memory::Impl& memory, size_t head) {
  d_k_ = memory.config().layer_shape(head).d_k;
  d_v_ = memory.config().layer_shape(head).d_v;
  rotates_ = memory.config().rotates();
  k_centre_.clear();
  v_centre_.clear();
  const uint8_t* centre = memory.centre(head);
  if (centre == nullptr) return;
  k_centre_.resize(d_k_);
  v_centre_.resize(d_v_);
  DecodeRow(ElementType::kQ8_0, centre, d_k_, k_centre_.data());
  DecodeRow(ElementType::kQ8_0, centre + RowBytes(ElementType::kQ8_0, d_k_), d_v_,
            v_centre_.data());
}

void RowCodec::DecodeStored(const RowStore& rows, bool rotated, size_t slot, float* k,
                            float* v) const {
  rows.DecodeKey(slot, k);
  rows.DecodeValue(slot, v);
  if (!rotated && rotates_) {
    RotateRow(k, d_k_);
    RotateRow(v, d_v_);
  }
  if (!rotated || k_centre_.empty()) return;
  for (size_t i = 0; i < d_k_; ++i) k[i] += k_centre_[i];
  for (size_t i = 0; i < d_v_; ++i) v[i] += v_centre_[i];
}

void RowCodec::DecodeStaged(const uint16_t* k16, const uint16_t* v16, float* k, float* v) const {
  DecodeRow(ElementType::kF16, k16, d_k_, k);
  DecodeRow(ElementType::kF16, v16, d_v_, v);
  if (!rotates_) return;
  RotateRow(k, d_k_);
  RotateRow(v, d_v_);
}

void RowCodec::Encode(const RowLayout& layout, bool rotated, float* k, float* v, uint8_t* k_row,
                      uint8_t* v_row) const {
  if (rotated && !k_centre_.empty()) {
    for (size_t i = 0; i < d_k_; ++i) k[i] -= k_centre_[i];
    for (size_t i = 0; i < d_v_; ++i) v[i] -= v_centre_[i];
  }
  if (!rotated && rotates_) {
    RotateRow(k, d_k_);
    RotateRow(v, d_v_);
  }
  EncodeRow(layout.k_type, k, d_k_, k_row);
  EncodeRow(layout.v_type, v, d_v_, v_row);
}

}  // namespace rkv
