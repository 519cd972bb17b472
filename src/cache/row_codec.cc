#include "cache/row_codec.h"

#include "cache/kv_cache_impl.h"
#include "kernels/element.h"

namespace rkv {

void RowCodec::Set(const KvCache::Impl& cache, size_t head) {
  d_k_ = cache.config().layer_shape(head).d_k;
  d_v_ = cache.config().layer_shape(head).d_v;
  rotates_ = cache.config().rotates();
  k_centre_.clear();
  v_centre_.clear();
  const uint8_t* centre = cache.centre(head);
  if (centre == nullptr) return;
  k_centre_.resize(d_k_);
  v_centre_.resize(d_v_);
  DecodeRow(ElementType::kQ8_0, centre, d_k_, k_centre_.data());
  DecodeRow(ElementType::kQ8_0, centre + RowBytes(ElementType::kQ8_0, d_k_), d_v_,
            v_centre_.data());
}

void RowCodec::DecodeStored(const RowStore& rows, bool rotated, size_t slot, float* k,
                            float* v) const {
  const auto to_basis = [this, rotated](const std::vector<float>& centre, size_t d, float* row) {
    if (!rotated && rotates_) RotateRow(row, d);
    if (!rotated || centre.empty()) return;
    for (size_t i = 0; i < d; ++i) row[i] += centre[i];
  };
  if (k != nullptr) {
    rows.DecodeKey(slot, k);
    to_basis(k_centre_, d_k_, k);
  }
  if (v != nullptr) {
    rows.DecodeValue(slot, v);
    to_basis(v_centre_, d_v_, v);
  }
}

void RowCodec::DecodeStaged(const uint16_t* k16, const uint16_t* v16, float* k, float* v) const {
  const auto decode = [this](const uint16_t* row16, size_t d, float* row) {
    if (row == nullptr) return;
    DecodeRow(ElementType::kF16, row16, d, row);
    if (rotates_) RotateRow(row, d);
  };
  decode(k16, d_k_, k);
  decode(v16, d_v_, v);
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
