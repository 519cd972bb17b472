// Suite `text-kl`: the distance of next-token distributions from those of the full cache.
#ifndef RETENTIVEKV_APPS_RKV_EVAL_TEXT_KL_H_
#define RETENTIVEKV_APPS_RKV_EVAL_TEXT_KL_H_

#include <string>
#include <vector>

#include "eval/eval_text.h"
#include "eval/suite.h"

namespace rkv::app {

struct TextKlOptions {
  int n_context = 2048;  // tokens read first
  int n_forced = 256;    // tokens after them, at which distributions are compared
  int n_windows = 2;     // places of each text
  std::vector<EvalText> texts;
  std::string then;  // the text to which the subject changes
};

// Makes a part for each window. kInvalidArgument for texts that are too short and contexts that are
// too long. The engine must outlive the plan. REQUIRES: the engine has chat template "none" and
// answers 2 conversations at once.
Result<SuitePlan> PlanTextKl(Engine& engine, const TextKlOptions& options);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_EVAL_TEXT_KL_H_
