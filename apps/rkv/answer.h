#ifndef RETENTIVEKV_APPS_RKV_ANSWER_H_
#define RETENTIVEKV_APPS_RKV_ANSWER_H_

#include "flags.h"
#include "retentivekv/engine.h"

namespace rkv::app {

// Answers the waiting message on stdout as it is generated, with progress before the first token.
// It stops early on Ctrl-C and when stdout does not take it; AnswerResult::stop tells.
Result<AnswerResult> StreamAnswer(Engine& engine, Conversation& conversation,
                                  const CommonFlags& flags);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_ANSWER_H_
