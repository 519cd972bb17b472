#include "kernels/attention.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h, which re-includes this file once per target.
#include "kernels/attention-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rkv {
namespace HWY_NAMESPACE {

void AttendSpanTarget(const HeadShape& shape, const QueryBlock& queries, const KvSpan& span,
                      const size_t* visible, const SoftmaxState& state, float* scratch) {
  AttendSpanImpl(shape, queries, span, visible, state, scratch);
}

}  // namespace HWY_NAMESPACE
}  // namespace rkv
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rkv {

HWY_EXPORT(AttendSpanTarget);

void ResetSoftmax(size_t n, size_t d_v, const SoftmaxState& state) {
  std::fill(state.acc, state.acc + n * d_v, 0.0f);
  std::fill(state.max, state.max + n, -std::numeric_limits<float>::infinity());
  std::fill(state.sum, state.sum + n, 0.0f);
}

void AttendSpan(const HeadShape& shape, const QueryBlock& queries, const KvSpan& span,
                const size_t* visible, const SoftmaxState& state, float* scratch) {
  HWY_DYNAMIC_DISPATCH(AttendSpanTarget)(shape, queries, span, visible, state, scratch);
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
