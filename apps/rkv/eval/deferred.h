// Suite `deferred`: questions about pictures, asked after the cache has been compressed.
#ifndef RETENTIVEKV_APPS_RKV_EVAL_DEFERRED_H_
#define RETENTIVEKV_APPS_RKV_EVAL_DEFERRED_H_

#include "eval/measurement.h"

namespace rkv::app {

struct DeferredOptions {
  int n_conversations = 48;
  int n_pictures = 2;
  int n_later_questions = 8;  // after the first
  uint64_t seed = 1;
};

// REQUIRES: `engine` runs the bundled model; configuration 0 is `full`.
Result<SuiteResult> RunDeferred(Engine& engine, const DeferredOptions& options,
                                const std::vector<Configuration>& configurations,
                                const std::vector<Budget>& budgets, const EvalProgress& progress);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_EVAL_DEFERRED_H_
