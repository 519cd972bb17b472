#include "cache/ubatch_attention.h"

#include <algorithm>

namespace rkv {

namespace {

// Query rows of one kernel call: (token, query head) pairs of one group.
struct RowBlock {
  const float* q[kMaxQueryRows];
  float* out[kMaxQueryRows];
  size_t token[kMaxQueryRows];  // place in the segment
  float sink[kMaxQueryRows];
  size_t n = 0;
};

void AttendOwnUbatch(const Segment& segment, size_t kv_head, const HeadShape& head,
                     const RowBlock& block, const UbatchTensors& tensors, const SoftmaxState& state,
                     float* scratch) {
  size_t before = 0;  // tokens in earlier runs
  for (const Segment::Run& run : segment.runs) {
    size_t visible[kMaxQueryRows];
    for (size_t i = 0; i < block.n; ++i) {
      const size_t seen = segment.causal ? block.token[i] + 1 : segment.rows.size();
      visible[i] = seen > before ? std::min(seen - before, run.n) : 0;
    }
    const KvSpan span{.k = tensors.k.row(run.first_row, kv_head),
                      .v = tensors.v.row(run.first_row, kv_head),
                      .k_stride = tensors.k.token_stride,
                      .v_stride = tensors.v.token_stride,
                      .n = run.n};
    AttendF16(head, {.rows = block.q, .n = block.n}, span, visible, state, scratch);
    before += run.n;
  }
}

void AttendRows(const Segment& segment, size_t layer, size_t kv_head, const HeadShape& head,
                const RowBlock& block, const UbatchTensors& tensors, AttentionScratch& scratch) {
  const SoftmaxState state = scratch.state();
  const QueryBlock queries{.rows = block.q, .n = block.n};
  ResetSoftmax(block.n, head.d_v, state);
  segment.memory->Attend(layer, kv_head, head, queries, state, scratch.kernel());
  AttendOwnUbatch(segment, kv_head, head, block, tensors, state, scratch.kernel());
  FinishSoftmax(block.n, head.d_v, state, tensors.sinks != nullptr ? block.sink : nullptr,
                block.out);
}

}  // namespace

void Segment::AddRow(uint32_t row) {
  if (runs.empty() || runs.back().first_row + runs.back().n != row) {
    runs.push_back({.first_row = row, .n = 0});
  }
  ++runs.back().n;
  rows.push_back(row);
}

size_t TokensPerWorkItem(const LayerShape& shape) {
  return std::max<size_t>(1, kMaxQueryRows / (shape.n_head / shape.n_kv_head));
}

void AttentionScratch::Resize(const MemoryShape& shape) {
  size_t d_k = 0;
  size_t d_v = 0;
  for (const LayerShape& layer : shape.layers) {
    d_k = std::max(d_k, layer.d_k);
    d_v = std::max(d_v, layer.d_v);
  }
  acc_.resize(kMaxQueryRows * d_v);
  max_.resize(kMaxQueryRows);
  sum_.resize(kMaxQueryRows);
  kernel_.resize(AttentionScratchFloats(d_k, d_v));
}

void AttendSegment(const Segment& segment, size_t layer, size_t kv_head, size_t first_token,
                   size_t n_tokens, const UbatchTensors& tensors, AttentionScratch& scratch) {
  const LayerShape& shape = segment.memory->shape().layers[layer];
  const HeadShape head{
      .d_k = shape.d_k, .d_v = shape.d_v, .scale = tensors.scale, .softcap = tensors.softcap};
  const size_t group = shape.n_head / shape.n_kv_head;
  RowBlock block;
  for (size_t token = first_token; token < first_token + n_tokens; ++token) {
    const size_t row = segment.rows[token];
    segment.memory->Stage(layer, kv_head, token, tensors.k.row(row, kv_head),
                          tensors.v.row(row, kv_head));
    for (size_t g = 0; g < group; ++g) {
      const size_t q_head = kv_head * group + g;
      block.q[block.n] = tensors.q.row(row, q_head);
      block.out[block.n] = tensors.out.row(row, q_head);
      block.token[block.n] = token;
      block.sink[block.n] = tensors.sinks != nullptr ? tensors.sinks[q_head] : 0.0f;
      if (++block.n == kMaxQueryRows) {
        AttendRows(segment, layer, kv_head, head, block, tensors, scratch);
        block.n = 0;
      }
    }
  }
  if (block.n > 0) AttendRows(segment, layer, kv_head, head, block, tensors, scratch);
}

}  // namespace rkv
