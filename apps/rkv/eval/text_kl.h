// Suite `text-kl`: how far next-token distributions move from those of the full cache.
#ifndef RETENTIVEKV_APPS_RKV_EVAL_TEXT_KL_H_
#define RETENTIVEKV_APPS_RKV_EVAL_TEXT_KL_H_

#include <string>

#include "eval/suite.h"

namespace rkv::app {

struct TextKlOptions {
  int n_context = 2048;  // tokens that are read first
  int n_forced = 256;    // tokens after them, where distributions are compared
  int n_windows = 3;     // places of the text
  std::string text;      // what is read
  std::string then;      // where the subject changes to
};

// A part for each window. kInvalidArgument for texts that are too short and contexts that are too
// long. The engine must outlive the plan.
// REQUIRES: it was loaded with chat template "none" and for 2 conversations at once.
Result<SuitePlan> PlanTextKl(Engine& engine, const TextKlOptions& options);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_EVAL_TEXT_KL_H_
