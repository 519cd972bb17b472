// Attention of a block of queries over a run of cached tokens of one KV head, as an online
// softmax whose pieces can be fed in any number of calls (flash attention; Dao et al. 2022).
// Pure functions: no allocation, no threads, no globals besides Highway's target choice.
#ifndef RETENTIVEKV_KERNELS_ATTENTION_H_
#define RETENTIVEKV_KERNELS_ATTENTION_H_

#include <cstddef>
#include <cstdint>

namespace rkv {

// Tokens are processed in blocks of this many; the softmax is rescaled once per block. Results
// depend on where blocks start, so equal spans give equal bits.
inline constexpr size_t kAttentionBlock = 64;

// At most this many queries per call: every K and V row is read once for all of them.
inline constexpr size_t kMaxQueryRows = 16;

// Bound on |computed - exact| / max|v| of one output element, tested against double precision
// for up to 4096 tokens with logits within +-50.
inline constexpr double kAttentionErrorBound = 4e-6;

struct HeadShape {
  size_t d_k = 0;        // elements of a query and of a key
  size_t d_v = 0;        // elements of a value
  float scale = 1.0f;    // logit = scale * q.k
  float softcap = 0.0f;  // if not 0: logit = softcap * tanh(logit / softcap)
};

// A run of tokens: row t of K starts at k + t * k_stride. Elements are IEEE half floats.
struct KvSpan {
  const uint16_t* k = nullptr;  // [n, d_k]
  const uint16_t* v = nullptr;  // [n, d_v]
  size_t k_stride = 0;          // in elements
  size_t v_stride = 0;          // in elements
  size_t n = 0;                 // tokens
};

// The queries of one call. REQUIRES: n <= kMaxQueryRows.
struct QueryBlock {
  const float* const* rows = nullptr;  // [n] pointers to d_k elements each
  size_t n = 0;
};

// Running softmax of each query over everything attended so far; the caller owns the memory.
struct SoftmaxState {
  float* acc = nullptr;  // [n, d_v]: sum of exp(logit - max) * v
  float* max = nullptr;  // [n]: largest logit, -infinity before the first token
  float* sum = nullptr;  // [n]: sum of exp(logit - max)
};

// Floats of scratch that AttendF16 needs.
constexpr size_t AttentionScratchFloats(size_t d_k, size_t d_v) {
  return kMaxQueryRows * kAttentionBlock + (d_k > d_v ? d_k : d_v);
}

// Starts an empty softmax for `n` queries.
void ResetSoftmax(size_t n, size_t d_v, const SoftmaxState& state);

// Adds the tokens of `span` to the softmax of every query. `visible`, if not null, says how many
// of the span's first tokens query i may see (causal masks).
void AttendF16(const HeadShape& shape, const QueryBlock& queries, const KvSpan& span,
               const size_t* visible, const SoftmaxState& state, float* scratch);

// Writes row i = acc / sum to out[i]. `sink_logit`, if not null, adds a logit without a value
// (an attention sink) to the denominator. A query that saw nothing gives zeros.
void FinishSoftmax(size_t n, size_t d_v, const SoftmaxState& state, const float* sink_logit,
                   float* const* out);

}  // namespace rkv

#endif  // RETENTIVEKV_KERNELS_ATTENTION_H_
