// Locations of the K and V of a ubatch's tokens until a cache has appended them.
#ifndef RETENTIVEKV_CACHE_UBATCH_ROWS_H_
#define RETENTIVEKV_CACHE_UBATCH_ROWS_H_

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "cache/config.h"

namespace rkv {

class UbatchRows {
 public:
  // K and V of a head's tokens. Strides are in elements.
  struct Rows {
    const uint16_t* k = nullptr;
    const uint16_t* v = nullptr;
    size_t k_stride = 0;
    size_t v_stride = 0;
    const uint32_t* places = nullptr;  // [tokens] the row of each; null: in their order
  };

  // For `n` tokens. `stages`: Stage() copies their K and V; else ReadFrom() sets their location.
  // Allocates only for larger ubatches than before.
  void Begin(const CacheConfig& config, size_t n, bool stages) {
    config_ = &config;
    n_ = n;
    rows_.assign(config.n_heads(), Rows());
    staged_.resize(stages ? n * config.elements() : 0);
    for (size_t head = 0; head < config.n_heads() && stages; ++head) {
      const LayerShape& shape = config.layer_shape(head);
      rows_[head] = {.k = StagedKey(head, 0),
                     .v = StagedValue(head, 0),
                     .k_stride = shape.d_k,
                     .v_stride = shape.d_v};
    }
  }

  size_t n() const { return n_; }
  const uint16_t* key(size_t head, size_t i) const {
    const Rows& rows = rows_[head];
    assert(rows.k != nullptr);
    return rows.k + Place(rows, i) * rows.k_stride;
  }
  const uint16_t* value(size_t head, size_t i) const {
    const Rows& rows = rows_[head];
    assert(rows.v != nullptr);
    return rows.v + Place(rows, i) * rows.v_stride;
  }
  // The rows must not move until the append has ended.
  void ReadFrom(size_t head, const Rows& rows) { rows_[head] = rows; }
  // REQUIRES: Begin() with `stages`.
  void Stage(size_t head, size_t i, const uint16_t* k, const uint16_t* v) {
    assert(!staged_.empty());
    const LayerShape& shape = config_->layer_shape(head);
    std::copy_n(k, shape.d_k, StagedKey(head, i));
    std::copy_n(v, shape.d_v, StagedValue(head, i));
  }

 private:
  static size_t Place(const Rows& rows, size_t i) {
    return rows.places != nullptr ? rows.places[i] : i;
  }
  uint16_t* StagedKey(size_t head, size_t i) {
    return staged_.data() + n_ * config_->elements_before(head) +
           i * config_->layer_shape(head).d_k;
  }
  uint16_t* StagedValue(size_t head, size_t i) {
    const LayerShape& shape = config_->layer_shape(head);
    return staged_.data() + n_ * (config_->elements_before(head) + shape.d_k) + i * shape.d_v;
  }

  const CacheConfig* config_ = nullptr;
  size_t n_ = 0;
  std::vector<Rows> rows_;        // [head]
  std::vector<uint16_t> staged_;  // per head: keys [n, d_k], values [n, d_v]
};

}  // namespace rkv

#endif  // RETENTIVEKV_CACHE_UBATCH_ROWS_H_
