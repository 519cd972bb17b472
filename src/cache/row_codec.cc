#include "cache/row_codec.h"

#include "kernels/element.h"

namespace rkv {

void RowCodec::Set(const Head& head) {
  head_ = &head;
  const CacheConfig& config = head.config();
  k_basis_ = config.rotates() ? &config.k_basis(head.layer()) : nullptr;
  v_basis_ = config.rotates() ? &config.v_basis(head.layer()) : nullptr;
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
  const auto to_basis = [rotated](const RowBasis* basis, const std::vector<float>& centre,
                                  float* row) {
    if (!rotated && basis != nullptr) basis->To(row);
    if (!rotated) return;
    for (size_t i = 0; i < centre.size(); ++i) row[i] += centre[i];
  };
  if (k != nullptr) {
    rows.DecodeKey(slot, k);
    to_basis(k_basis_, k_centre_, k);
  }
  if (v != nullptr) {
    rows.DecodeValue(slot, v);
    to_basis(v_basis_, v_centre_, v);
  }
}

void RowCodec::DecodeStaged(const uint16_t* k16, const uint16_t* v16, float* k, float* v) const {
  const auto decode = [](const uint16_t* row16, size_t d, const RowBasis* basis, float* row) {
    if (row == nullptr) return;
    DecodeRow(ElementType::kF16, row16, d, row);
    if (basis != nullptr) basis->To(row);
  };
  decode(k16, head_->shape().d_k, k_basis_, k);
  decode(v16, head_->shape().d_v, v_basis_, v);
}

void RowCodec::Encode(size_t tier, float* k, float* v, uint8_t* k_row, uint8_t* v_row) const {
  const RowLayout& layout = head_->layout(tier);
  const bool rotated = head_->config().rotated(tier);
  if (rotated && !k_centre_.empty()) {
    for (size_t i = 0; i < layout.d_k; ++i) k[i] -= k_centre_[i];
    for (size_t i = 0; i < layout.d_v; ++i) v[i] -= v_centre_[i];
  }
  if (!rotated && k_basis_ != nullptr) {
    k_basis_->From(k);
    v_basis_->From(v);
  }
  EncodeRow(layout.k_type, k, layout.d_k, k_row);
  EncodeRow(layout.v_type, v, layout.d_v, v_row);
}

}  // namespace rkv
