// Queries as keys of quantised types meet them: rounded to int8 or int16.
#ifndef RETENTIVEKV_TESTS_SUPPORT_ROUNDED_QUERY_H_
#define RETENTIVEKV_TESTS_SUPPORT_ROUNDED_QUERY_H_

#include <algorithm>
#include <cmath>
#include <span>

#include "hwy/highway.h"
#include "kernels/attention.h"
#include "kernels/element.h"

namespace rkv {

// For the target that kernels run on now; without vectors nothing is rounded.
inline void RoundQuery(ElementType k_type, std::span<float> q) {
  const bool scalar = (hwy::SupportedTargets() & -hwy::SupportedTargets()) == HWY_SCALAR;
  if (!IsQuantized(k_type) || scalar) return;
  const float whole = k_type == ElementType::kQ8_0 ? kMaxOfTwoBytes : kMaxOfByte;
  float max = 0;
  for (const float x : q) max = std::max(max, std::abs(x));
  for (float& x : q) x = max > 0 ? std::nearbyint(x * (whole / max)) * (max / whole) : 0.0f;
}

}  // namespace rkv

#endif  // RETENTIVEKV_TESTS_SUPPORT_ROUNDED_QUERY_H_
