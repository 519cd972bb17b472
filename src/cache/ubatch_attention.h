// Attention of one layer for one sequence's tokens of a ubatch: over the rows in its KvCache and
// over the ubatch itself. The KvCache appends the ubatch's K and V afterwards, without an earlier
// copy.
#ifndef RETENTIVEKV_CACHE_UBATCH_ATTENTION_H_
#define RETENTIVEKV_CACHE_UBATCH_ATTENTION_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cache/kv_cache_impl.h"
#include "cache/ubatch_buffers.h"
#include "kernels/attention.h"

namespace rkv {

// Strided rows of one tensor: element (token, head, 0) is at data + token * token_stride +
// head * head_stride. Strides are in elements.
template <typename T>
struct HeadRows {
  T* data = nullptr;
  size_t token_stride = 0;
  size_t head_stride = 0;

  T* row(size_t token, size_t head) const {
    return data + token * token_stride + head * head_stride;
  }
};

// The tensors of one layer in a ubatch.
struct UbatchTensors {
  HeadRows<const float> q;       // [n_tokens, n_head, d_k]
  HeadRows<const uint16_t> k;    // [n_tokens, n_kv_head, d_k]
  HeadRows<const uint16_t> v;    // [n_tokens, n_kv_head, d_v]
  HeadRows<float> out;           // [n_tokens, n_head, d_v]
  const float* sinks = nullptr;  // [n_head] attention-sink logits, or null
  float scale = 1.0f;
  float softcap = 0.0f;
};

// One sequence's tokens in a ubatch, in their order.
struct Segment {
  struct Run {  // Tokens that follow each other in the ubatch too.
    size_t first_row = 0;
    size_t n = 0;
  };

  KvCache::Impl* cache = nullptr;
  std::vector<uint32_t> rows;  // ubatch row of each token
  std::vector<Run> runs;       // `rows`, as runs
  bool causal = true;          // false: every token sees the whole segment

  void AddRow(uint32_t row);
};

// Locates the K and V of a segment's tokens for one KV head.
inline UbatchRows::Rows RowsOfSegment(const Segment& segment, const UbatchTensors& tensors,
                                      size_t kv_head) {
  return {.k = tensors.k.row(0, kv_head),
          .v = tensors.v.row(0, kv_head),
          .k_stride = tensors.k.token_stride,
          .v_stride = tensors.v.token_stride,
          .places = segment.rows.data()};
}

// Number of tokens in a work item, so that its query rows fill a kernel call.
size_t TokensPerWorkItem(const LayerShape& shape);

// Attends tokens [first_token, first_token + n_tokens) of the segment for one KV head. Distinct
// work items of a layer may run concurrently, and each token is in one of them; a layer ends before
// the next begins. The segment's rows and the tensors' K and V must not change until the append
// ends.
void AttendSegment(const Segment& segment, size_t layer, size_t kv_head, size_t first_token,
                   size_t n_tokens, const UbatchTensors& tensors, AttentionScratch& scratch);

// Minimum pages in a part of a decoding step: enough work to outweigh merging, and few enough
// tokens that threads end at about the same time. With kFewParts or more, parts become longer, up
// to twice as long, because the first rows of each part are not prefetched. Results do not depend
// on the number of threads, since parts do not.
inline constexpr size_t kPagesPerPart = 16;
inline constexpr size_t kFewParts = 8;

// Number of parts for `n_pages` pages.
size_t PartsOfPages(size_t n_pages);

// Parts of the work of one KV head; more than one only for a segment of a single token.
size_t NumParts(const Segment& segment, size_t layer, size_t kv_head);

// AttendSegment() for part `part` of NumParts(). Parts may run concurrently; the last to end
// completes the output.
void AttendSegmentPart(const Segment& segment, size_t layer, size_t kv_head, size_t part,
                       size_t n_parts, const UbatchTensors& tensors, AttentionScratch& scratch);

}  // namespace rkv

#endif  // RETENTIVEKV_CACHE_UBATCH_ATTENTION_H_
