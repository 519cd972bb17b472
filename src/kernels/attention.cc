#include "kernels/attention.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h, which re-includes this file once per target.
#include "kernels/attention-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rkv {
namespace HWY_NAMESPACE {

void AttendSpansTarget(const HeadShape& shape, const QueryBlock& queries, const KvSpan* spans,
                       size_t n_spans, const size_t* visible, const SoftmaxState& state,
                       float* scratch) {
  AttendSpansImpl(shape, queries, spans, n_spans, visible, state, scratch);
}

void LogitsToSharesTarget(float max, float factor, float* HWY_RESTRICT logits, size_t n) {
  const FloatTag df;
  const auto vmax = hn::Set(df, max);
  const auto vfactor = hn::Set(df, factor);
  const auto share = [&](FloatVec logit)
                         HWY_ATTR { return hn::Mul(vfactor, ExpOfNegative(hn::Sub(logit, vmax))); };
  size_t i = 0;
  for (; i + kFloatLanes <= n; i += kFloatLanes) {
    hn::StoreU(share(hn::LoadU(df, logits + i)), df, logits + i);
  }
  if (i == n) return;
  HWY_ALIGN float few[kFloatLanes] = {};
  std::copy(logits + i, logits + n, few);
  hn::Store(share(hn::Load(df, few)), df, few);
  std::copy_n(few, n - i, logits + i);
}

}  // namespace HWY_NAMESPACE
}  // namespace rkv
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rkv {

HWY_EXPORT(AttendSpansTarget);
HWY_EXPORT(LogitsToSharesTarget);

void ResetSoftmax(size_t n, size_t d_v, const SoftmaxState& state) {
  std::fill(state.acc, state.acc + n * d_v, 0.0f);
  std::fill(state.max, state.max + n, -std::numeric_limits<float>::infinity());
  std::fill(state.sum, state.sum + n, 0.0f);
}

void AttendSpan(const HeadShape& shape, const QueryBlock& queries, const KvSpan& span,
                const size_t* visible, const SoftmaxState& state, float* scratch) {
  HWY_DYNAMIC_DISPATCH(AttendSpansTarget)(shape, queries, &span, 1, visible, state, scratch);
}

void AttendSpans(const HeadShape& shape, const QueryBlock& queries, std::span<const KvSpan> spans,
                 const SoftmaxState& state, float* scratch) {
  HWY_DYNAMIC_DISPATCH(AttendSpansTarget)
  (shape, queries, spans.data(), spans.size(), nullptr, state, scratch);
}

size_t AttentionScratchFloats(size_t d_k, size_t d_v) { return KernelScratch::Floats(d_k, d_v); }

void MergeSoftmax(size_t n, size_t d_v, const SoftmaxState& part, const SoftmaxState& state) {
  for (size_t i = 0; i < n; ++i) {
    if (part.sum[i] == 0) continue;
    const float max = std::max(state.max[i], part.max[i]);
    const float own = std::exp(state.max[i] - max);
    const float other = std::exp(part.max[i] - max);
    float* acc = state.acc + i * d_v;
    const float* added = part.acc + i * d_v;
    for (size_t j = 0; j < d_v; ++j) acc[j] = own * acc[j] + other * added[j];
    state.sum[i] = own * state.sum[i] + other * part.sum[i];
    state.max[i] = max;
  }
}

void LogitsToShares(float max, float factor, std::span<float> logits) {
  HWY_DYNAMIC_DISPATCH(LogitsToSharesTarget)(max, factor, logits.data(), logits.size());
}

void FinishSoftmax(size_t n, size_t d_v, const SoftmaxState& state, const float* sink_logit,
                   float* const* out) {
  for (size_t i = 0; i < n; ++i) {
    float scale = 1.0f;
    float sum = state.sum[i];
    if (sink_logit != nullptr) {
      const float max = std::max(state.max[i], sink_logit[i]);
      scale = std::exp(state.max[i] - max);
      sum = sum * scale + std::exp(sink_logit[i] - max);
    }
    const float factor = sum > 0.0f ? scale / sum : 0.0f;
    const float* acc = state.acc + i * d_v;
    for (size_t j = 0; j < d_v; ++j) out[i][j] = acc[j] * factor;
  }
}

}  // namespace rkv
#endif  // HWY_ONCE
