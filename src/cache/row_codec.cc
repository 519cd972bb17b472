#include "cache/row_codec.h"

#include "kernels/element.h"

namespace rkv {

void RowCodec::Set(const Head& head) {
  head_ = &head;
  rotates_ = head.config().rotates();
  k_centre_.clear();
  v_centre_.clear();
  const uint8_t* centre = head.centre();
  if (centre == nullptr) return;
  const LayerShape& shape = head.shape();
  k_centre_.resize(shape.d_k);
  v_centre_.resize(shape.d_v);
  DecodeRow(ElementType::kQ8_0, centre, shape.d_k, k_centre_.data());
  DecodeRow(ElementType::kQ8_0, centre + RowBytes(ElementType::kQ8_0, shape.d_k), shape.d_v,
            v_centre_.data());
}

void RowCodec::DecodeStored(size_t tier, size_t slot, float* k, float* v) const {
  const RowStore& rows = head_->store(tier);
  const bool rotated = head_->config().rotated(tier);
  const auto to_basis = [this, rotated](const std::vector<float>& centre, size_t d, float* row) {
    if (!rotated && rotates_) RotateRow(row, d);
    if (!rotated || centre.empty()) return;
    for (size_t i = 0; i < d; ++i) row[i] += centre[i];
  };
  if (k != nullptr) {
    rows.DecodeKey(slot, k);
    to_basis(k_centre_, head_->shape().d_k, k);
  }
  if (v != nullptr) {
    rows.DecodeValue(slot, v);
    to_basis(v_centre_, head_->shape().d_v, v);
  }
}

void RowCodec::DecodeStaged(const uint16_t* k16, const uint16_t* v16, float* k, float* v) const {
  const auto decode = [this](const uint16_t* row16, size_t d, float* row) {
    if (row == nullptr) return;
    DecodeRow(ElementType::kF16, row16, d, row);
    if (rotates_) RotateRow(row, d);
  };
  decode(k16, head_->shape().d_k, k);
  decode(v16, head_->shape().d_v, v);
}

void RowCodec::Encode(size_t tier, float* k, float* v, uint8_t* k_row, uint8_t* v_row) const {
  const RowLayout& layout = head_->layout(tier);
  const bool rotated = head_->config().rotated(tier);
  if (rotated && !k_centre_.empty()) {
    for (size_t i = 0; i < layout.d_k; ++i) k[i] -= k_centre_[i];
    for (size_t i = 0; i < layout.d_v; ++i) v[i] -= v_centre_[i];
  }
  if (!rotated && rotates_) {
    RotateRow(k, layout.d_k);
    RotateRow(v, layout.d_v);
  }
  EncodeRow(layout.k_type, k, layout.d_k, k_row);
  EncodeRow(layout.v_type, v, layout.d_v, v_row);
}

}  // namespace rkv
