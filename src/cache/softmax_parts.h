// A single token's softmax over the parts of a head's rows, which threads compute concurrently.
// Layers use the memory in turn.
#ifndef RETENTIVEKV_CACHE_SOFTMAX_PARTS_H_
#define RETENTIVEKV_CACHE_SOFTMAX_PARTS_H_

#include <algorithm>
#include <cstddef>
#include <vector>

#include "retentivekv/kv_cache.h"

namespace rkv {

class SoftmaxParts {
 public:
  static constexpr size_t kMaxParts = 32;

  // `n_columns`: maximum of the heads' observed columns.
  void Prepare(const CacheShape& shape, size_t n_columns) {
    size_t floats = 0;
    size_t heads = 0;
    for (const LayerShape& layer : shape.layers) {
      floats = std::max(floats, layer.n_kv_head * kMaxParts * PartFloats(layer));
      heads = std::max(heads, layer.n_head);
    }
    parts_.resize(std::max(parts_.size(), floats));
    n_columns_ = n_columns;
    const size_t n = heads * n_columns;
    if (logits_.size() < n) logits_.resize(n + n / 8);
  }
  // Memory for the query group: maxima, sums, and accumulated values.
  float* part(const LayerShape& shape, size_t kv_head, size_t part) {
    return parts_.data() + (kv_head * kMaxParts + part) * PartFloats(shape);
  }
  // Logits of query head `g` of a KV head's group.
  float* logits(const LayerShape& shape, size_t kv_head, size_t g) {
    return logits_.data() + (kv_head * (shape.n_head / shape.n_kv_head) + g) * n_columns_;
  }

 private:
  static size_t PartFloats(const LayerShape& shape) {
    return shape.n_head / shape.n_kv_head * (shape.d_v + 2);
  }

  std::vector<float> parts_;   // [KV heads, kMaxParts, PartFloats()]
  std::vector<float> logits_;  // [query heads, columns]
  size_t n_columns_ = 0;
};

}  // namespace rkv

#endif  // RETENTIVEKV_CACHE_SOFTMAX_PARTS_H_
