// Attention of a block of queries over a run of cached tokens of one KV head, as an online
// softmax whose pieces can be fed in any number of calls (flash attention; Dao et al. 2022).
// Pure functions: no allocation, no threads, no globals besides Highway's target choice.
#ifndef RETENTIVEKV_KERNELS_ATTENTION_H_
#define RETENTIVEKV_KERNELS_ATTENTION_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/element.h"

namespace rkv {

// Tokens are processed in blocks of this many; the softmax is rescaled once per block. Results
// depend on where blocks start, so equal spans give equal bits.
inline constexpr size_t kAttentionBlock = 64;

// At most this many queries per call: every K and V row is read once for all of them.
inline constexpr size_t kMaxQueryRows = 24;

// Bound on |computed - exact| / max|v| of one output element, tested against double precision
// for up to 4096 tokens with logits within +-50.
inline constexpr double kAttentionErrorBound = 4e-6;

// Quantised keys are multiplied as integers, which rounds a query: to 1/127 of its largest element
// for types of at most four bits, and to 1/32639 for q8_0, the largest number with both bytes in
// int8. An element is off by at most half of that, so a logit by scale * largest / 254 * sum|k|. As
// roundings are independent, the root mean square is scale * largest / 440 * |k|. For Gaussian
// rows, that is a hundredth of the error from the key's own four bits.
inline constexpr float kMaxOfByte = 127.0f;
inline constexpr float kMaxOfTwoBytes = 127.0f * 257.0f;

// Quantised values are multiplied by weights rounded to 15 bits of the largest in their block of
// tokens. Bound on the error that this adds to an output element, relative to max|v|.
inline constexpr double kWeightErrorBound = static_cast<double>(kAttentionBlock) / 65534;

struct HeadShape {
  size_t d_k = 0;        // elements of a query and of a key
  size_t d_v = 0;        // elements of a value
  float scale = 1.0f;    // logit = scale * q.k
  float softcap = 0.0f;  // if not 0: logit = softcap * tanh(logit / softcap)
};

// A run of rows, tokens or states: row t of K starts at byte t * k_stride of k.
struct KvSpan {
  const void* k = nullptr;  // [n, d_k] elements of k_type
  const void* v = nullptr;  // [n, d_v] elements of v_type
  ElementType k_type = ElementType::kF16;
  ElementType v_type = ElementType::kF16;
  size_t k_stride = 0;  // in bytes
  size_t v_stride = 0;  // in bytes
  size_t n = 0;         // rows
  // States stand for several tokens: their logit is raised by log_mass, and by spread * half_norm
  // of the query, the variance term of method section 4. Both after the softcap. Null for tokens.
  const float* log_mass = nullptr;  // [n]
  const float* spread = nullptr;    // [n] mean variance of a key element
};

// The queries of one call. REQUIRES: n <= kMaxQueryRows.
struct QueryBlock {
  const float* const* rows = nullptr;  // [n] pointers to d_k elements each
  size_t n = 0;
  const float* bias = nullptr;       // [n] added to every q.k; null: nothing
  const float* half_norm = nullptr;  // [n] scale^2 |q|^2 / 2, for spans with `spread`
  // [n] pointers to the outputs for the logits of the span's rows (span.n each, -infinity for rows
  // that the query may not see); null: no output.
  float* const* logits = nullptr;
};

// The variance term of a state is clipped to this. Beyond it, the assumption of a Gaussian fails.
inline constexpr float kMaxSpreadLogit = 4.0f;

// Running softmax of each query over everything attended so far; the caller owns the memory.
struct SoftmaxState {
  float* acc = nullptr;  // [n, d_v]: sum of exp(logit - max) * v
  float* max = nullptr;  // [n]: largest logit, -infinity before the first token
  float* sum = nullptr;  // [n]: sum of exp(logit - max)
};

// Floats of scratch that AttendSpan and AttendSpans need.
size_t AttentionScratchFloats(size_t d_k, size_t d_v);

// Starts an empty softmax for `n` queries.
void ResetSoftmax(size_t n, size_t d_v, const SoftmaxState& state);

// Adds the rows of `span` to the softmax of every query. `visible`, if not null, says how many
// of the span's first tokens query i may see (causal masks). A row whose logit is no finite number
// counts as invisible to the query (its logit is written as -infinity). A query's result never
// depends on invisible rows, even if they are infinite or NaN.
void AttendSpan(const HeadShape& shape, const QueryBlock& queries, const KvSpan& span,
                const size_t* visible, const SoftmaxState& state, float* scratch);

// The same for several spans, one after the other; a query's logits are those of the first span,
// then those of the second, and so on. Faster than a call for each.
void AttendSpans(const HeadShape& shape, const QueryBlock& queries, std::span<const KvSpan> spans,
                 const SoftmaxState& state, float* scratch);

// Adds the softmax of `part` to `state`, as if one call had seen the rows of both (flash decoding),
// up to rounding.
void MergeSoftmax(size_t n, size_t d_v, const SoftmaxState& part, const SoftmaxState& state);

// Logits of one query to shares of its softmax, in place: factor * exp(logit - max).
void LogitsToShares(float max, float factor, std::span<float> logits);

// Writes row i = acc / sum to out[i]. `sink_logit`, if not null, adds a logit without a value
// (an attention sink) to the denominator. A query that saw nothing gives zeros.
void FinishSoftmax(size_t n, size_t d_v, const SoftmaxState& state, const float* sink_logit,
                   float* const* out);

}  // namespace rkv

#endif  // RETENTIVEKV_KERNELS_ATTENTION_H_
