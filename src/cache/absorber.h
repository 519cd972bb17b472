// An absorber takes the tokens that a head forgets. Each absorber is one class in absorber.cc and
// one row in rows/absorb.cc.
#ifndef RETENTIVEKV_CACHE_ABSORBER_H_
#define RETENTIVEKV_CACHE_ABSORBER_H_

#include <cstddef>
#include <vector>

#include "cache/compression_task.h"
#include "cache/head_plan.h"
#include "rows/absorb.h"
#include "rows/states.h"

namespace rkv {

// Tokens that one compression forgets in one head.
struct Forgotten {
  std::vector<StateSums> tokens;  // one each
  double entropy = 1.0;           // mean over them, if the absorber has a kappa
};

// Stateless and thread-safe.
class Absorber {
 public:
  virtual ~Absorber() = default;

  // Called once the head's rows are where its plan puts them.
  virtual void Take(const CompressionTask& task, const HeadPlan& plan, Forgotten forgotten,
                    Head& head) const = 0;
};

const Absorber& AbsorberOf(AbsorbKind kind);

}  // namespace rkv

#endif  // RETENTIVEKV_CACHE_ABSORBER_H_
