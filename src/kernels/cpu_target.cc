#include "hwy/targets.h"
#include "retentivekv/version.h"

namespace rkv {

std::string CpuTarget() {
  const int64_t targets =
      hwy::SupportedAndGeneratedTargets().empty() ? 0 : hwy::SupportedAndGeneratedTargets().front();
  return hwy::TargetName(targets);
}

}  // namespace rkv
