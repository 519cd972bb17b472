// SIMD bodies of attention.h, compiled once per target. No include guard against re-inclusion by
// foreach_target.h other than Highway's toggle.
#if defined(RETENTIVEKV_KERNELS_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RETENTIVEKV_KERNELS_ATTENTION_INL_H_
#undef RETENTIVEKV_KERNELS_ATTENTION_INL_H_
#else
#define RETENTIVEKV_KERNELS_ATTENTION_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <limits>

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"
#include "kernels/attention.h"
#include "kernels/element-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rkv {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Four accumulators hide the latency of the fused multiply-add.
HWY_INLINE float DotRow(const float* HWY_RESTRICT a, const float* HWY_RESTRICT b, size_t n) {
  const FloatTag df;
  const size_t lanes = hn::Lanes(df);
  auto s0 = hn::Zero(df), s1 = hn::Zero(df), s2 = hn::Zero(df), s3 = hn::Zero(df);
  size_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    s0 = hn::MulAdd(hn::LoadU(df, a + i), hn::LoadU(df, b + i), s0);
    s1 = hn::MulAdd(hn::LoadU(df, a + i + lanes), hn::LoadU(df, b + i + lanes), s1);
    s2 = hn::MulAdd(hn::LoadU(df, a + i + 2 * lanes), hn::LoadU(df, b + i + 2 * lanes), s2);
    s3 = hn::MulAdd(hn::LoadU(df, a + i + 3 * lanes), hn::LoadU(df, b + i + 3 * lanes), s3);
  }
  for (; i + lanes <= n; i += lanes) {
    s0 = hn::MulAdd(hn::LoadU(df, a + i), hn::LoadU(df, b + i), s0);
  }
  float sum = hn::GetLane(hn::SumOfLanes(df, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3))));
  for (; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// y += a * x
HWY_INLINE void AddScaledRow(float a, const float* HWY_RESTRICT x, size_t n,
                             float* HWY_RESTRICT y) {
  const FloatTag df;
  const size_t lanes = hn::Lanes(df);
  const auto va = hn::Set(df, a);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    hn::StoreU(hn::MulAdd(va, hn::LoadU(df, x + i), hn::LoadU(df, y + i)), df, y + i);
  }
  for (; i < n; ++i) y[i] += a * x[i];
}

HWY_INLINE void ScaleRow(float a, size_t n, float* HWY_RESTRICT y) {
  const FloatTag df;
  const size_t lanes = hn::Lanes(df);
  const auto va = hn::Set(df, a);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(hn::Mul(va, hn::LoadU(df, y + i)), df, y + i);
  for (; i < n; ++i) y[i] *= a;
}

// Replaces the logits of one query in a block by exp(logit - max) and folds them into its running
// softmax. The block is padded to kAttentionBlock with -infinity, so only whole vectors occur.
HWY_INLINE void FoldBlock(size_t d_v, float* HWY_RESTRICT logits, float& max, float& sum,
                          float* HWY_RESTRICT acc) {
  const FloatTag df;
  const size_t lanes = std::min<size_t>(hn::Lanes(df), kAttentionBlock);
  auto block_max = hn::Set(df, -std::numeric_limits<float>::infinity());
  for (size_t t = 0; t < kAttentionBlock; t += lanes) {
    block_max = hn::Max(block_max, hn::LoadU(df, logits + t));
  }
  const float new_max = std::max(max, hn::GetLane(hn::MaxOfLanes(df, block_max)));
  if (new_max == -std::numeric_limits<float>::infinity()) {
    std::fill(logits, logits + kAttentionBlock, 0.0f);
    return;
  }
  if (new_max > max) {
    // exp(-inf) = 0 starts a new softmax; acc and sum are zero then anyway.
    const float correction = std::exp(max - new_max);
    ScaleRow(correction, d_v, acc);
    sum *= correction;
    max = new_max;
  }
  const auto vmax = hn::Set(df, new_max);
  // Below this, exp is zero in single precision; it also catches the -infinity of masked tokens.
  const auto floor = hn::Set(df, -87.0f);
  auto vsum = hn::Zero(df);
  for (size_t t = 0; t < kAttentionBlock; t += lanes) {
    const auto x = hn::Sub(hn::LoadU(df, logits + t), vmax);
    const auto p = hn::IfThenElseZero(hn::Ge(x, floor), hn::Exp(df, hn::Max(x, floor)));
    vsum = hn::Add(vsum, p);
    hn::StoreU(p, df, logits + t);
  }
  sum += hn::GetLane(hn::SumOfLanes(df, vsum));
}

HWY_INLINE const uint8_t* RowAt(const void* rows, size_t stride, size_t t) {
  return static_cast<const uint8_t*>(rows) + t * stride;
}

HWY_INLINE float Logit(const HeadShape& shape, const QueryBlock& queries, const KvSpan& span,
                       size_t query, size_t row, float dot) {
  if (queries.bias != nullptr) dot += queries.bias[query];
  float logit = shape.scale * dot;
  if (shape.softcap != 0.0f) logit = shape.softcap * std::tanh(logit / shape.softcap);
  if (span.log_mass != nullptr) {
    logit += span.log_mass[row];
    if (span.spread != nullptr && queries.half_norm != nullptr) {
      logit += std::min(span.spread[row] * queries.half_norm[query], kMaxSpreadLogit);
    }
  }
  return logit;
}

HWY_INLINE void AttendBlock(const HeadShape& shape, const QueryBlock& queries, const KvSpan& span,
                            size_t begin, const size_t* visible, const SoftmaxState& state,
                            float* HWY_RESTRICT scratch) {
  const size_t n = std::min(span.n - begin, kAttentionBlock);
  float* logits = scratch;                                 // [queries.n, kAttentionBlock]
  float* row = scratch + kMaxQueryRows * kAttentionBlock;  // [max(d_k, d_v)]
  const float masked = -std::numeric_limits<float>::infinity();
  std::fill(logits, logits + queries.n * kAttentionBlock, masked);
  for (size_t t = 0; t < n; ++t) {
    DecodeRowImpl(span.k_type, RowAt(span.k, span.k_stride, begin + t), shape.d_k, row);
    for (size_t i = 0; i < queries.n; ++i) {
      if (visible != nullptr && begin + t >= visible[i]) continue;
      const float dot = DotRow(queries.rows[i], row, shape.d_k);
      logits[i * kAttentionBlock + t] = Logit(shape, queries, span, i, begin + t, dot);
    }
  }
  for (size_t i = 0; i < queries.n; ++i) {
    if (queries.logits != nullptr) {
      std::copy_n(logits + i * kAttentionBlock, n, queries.logits[i] + begin);
    }
    FoldBlock(shape.d_v, logits + i * kAttentionBlock, state.max[i], state.sum[i],
              state.acc + i * shape.d_v);
  }
  for (size_t t = 0; t < n; ++t) {
    DecodeRowImpl(span.v_type, RowAt(span.v, span.v_stride, begin + t), shape.d_v, row);
    for (size_t i = 0; i < queries.n; ++i) {
      const float p = logits[i * kAttentionBlock + t];
      if (p != 0.0f) AddScaledRow(p, row, shape.d_v, state.acc + i * shape.d_v);
    }
  }
}

HWY_INLINE void AttendSpanImpl(const HeadShape& shape, const QueryBlock& queries,
                               const KvSpan& span, const size_t* visible, const SoftmaxState& state,
                               float* HWY_RESTRICT scratch) {
  size_t end = span.n;
  if (visible != nullptr) {
    end = std::min(end, *std::max_element(visible, visible + queries.n));
    if (queries.logits != nullptr) {
      for (size_t i = 0; i < queries.n; ++i) {
        std::fill(queries.logits[i] + end, queries.logits[i] + span.n,
                  -std::numeric_limits<float>::infinity());
      }
    }
  }
  KvSpan seen = span;
  seen.n = end;
  for (size_t begin = 0; begin < end; begin += kAttentionBlock) {
    AttendBlock(shape, queries, seen, begin, visible, state, scratch);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace rkv
HWY_AFTER_NAMESPACE();

#endif  // RETENTIVEKV_KERNELS_ATTENTION_INL_H_
