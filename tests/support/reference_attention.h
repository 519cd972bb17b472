// Attention in double precision, in the place of our kernels.
#ifndef RETENTIVEKV_TESTS_SUPPORT_REFERENCE_ATTENTION_H_
#define RETENTIVEKV_TESTS_SUPPORT_REFERENCE_ATTENTION_H_

#include <cmath>
#include <vector>

#include "base/f16.h"
#include "cache/ubatch_attention.h"

namespace rkv {

// softmax(scale q K^T, softcapped, with sinks) V of one query over explicit rows.
inline void ReferenceQuery(const std::vector<const uint16_t*>& k,
                           const std::vector<const uint16_t*>& v, const LayerShape& shape,
                           const float* q, const UbatchTensors& tensors, const float* sink,
                           float* out) {
  std::vector<double> weights;
  double sum = sink != nullptr ? std::exp(static_cast<double>(*sink)) : 0.0;
  for (const uint16_t* row : k) {
    double logit = 0;
    for (size_t i = 0; i < shape.d_k; ++i) {
      logit += static_cast<double>(q[i]) * static_cast<double>(F32FromF16(row[i]));
    }
    logit *= static_cast<double>(tensors.scale);
    const auto cap = static_cast<double>(tensors.softcap);
    if (cap != 0) logit = cap * std::tanh(logit / cap);
    weights.push_back(std::exp(logit));
    sum += weights.back();
  }
  std::vector<double> result(shape.d_v, 0.0);
  for (size_t t = 0; t < v.size(); ++t) {
    for (size_t i = 0; i < shape.d_v; ++i) {
      result[i] += weights[t] / sum * static_cast<double>(F32FromF16(v[t][i]));
    }
  }
  for (size_t i = 0; i < shape.d_v; ++i) out[i] = static_cast<float>(result[i]);
}

// Has the signature and does the work of AttendSegment().
inline void ReferenceAttend(const Segment& segment, size_t layer, size_t kv_head,
                            size_t first_token, size_t n_tokens, const UbatchTensors& tensors,
                            AttentionScratch&) {
  const LayerShape& shape = segment.cache->shape().layers[layer];
  const size_t group = shape.n_head / shape.n_kv_head;
  for (size_t token = first_token; token < first_token + n_tokens; ++token) {
    std::vector<const uint16_t*> k, v;
    const size_t held_head = segment.cache->config().head(layer, kv_head);
    const RowStore& held = segment.cache->head(held_head).store(0);
    for (size_t slot = 0; slot < held.size(); ++slot) {
      k.push_back(static_cast<const uint16_t*>(held.row(slot).k));
      v.push_back(static_cast<const uint16_t*>(held.row(slot).v));
    }
    const size_t end = segment.causal ? token + 1 : segment.rows.size();
    for (size_t other = 0; other < end; ++other) {
      k.push_back(tensors.k.row(segment.rows[other], kv_head));
      v.push_back(tensors.v.row(segment.rows[other], kv_head));
    }
    const size_t row = segment.rows[token];
    if (token == 0) {
      segment.cache->buffers().rows.ReadFrom(held_head, RowsOfSegment(segment, tensors, kv_head));
    }
    for (size_t g = 0; g < group; ++g) {
      const size_t head = kv_head * group + g;
      ReferenceQuery(k, v, shape, tensors.q.row(row, head), tensors,
                     tensors.sinks != nullptr ? tensors.sinks + head : nullptr,
                     tensors.out.row(row, head));
    }
  }
}

}  // namespace rkv

#endif  // RETENTIVEKV_TESTS_SUPPORT_REFERENCE_ATTENTION_H_
