// The kernels on every SIMD target that they are compiled for.
#ifndef RETENTIVEKV_TESTS_SUPPORT_EACH_TARGET_H_
#define RETENTIVEKV_TESTS_SUPPORT_EACH_TARGET_H_

#include <gtest/gtest.h>

#include "hwy/highway.h"

namespace rkv {

// Calls `body` once for every SIMD target that this machine can run.
template <typename Body>
void ForEachTarget(const Body& body) {
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    body();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace rkv

#endif  // RETENTIVEKV_TESTS_SUPPORT_EACH_TARGET_H_
