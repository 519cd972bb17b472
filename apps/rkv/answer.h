#ifndef RETENTIVEKV_APPS_RKV_ANSWER_H_
#define RETENTIVEKV_APPS_RKV_ANSWER_H_

#include <span>
#include <string>
#include <string_view>

#include "flags.h"
#include "retentivekv/engine.h"

namespace rkv::app {

// Sends a message with its pictures and clips, and writes the answer to stdout as it is generated.
// Shows progress before the first token. Ctrl-C and a failed write to stdout end the answer early;
// AnswerResult::stop has the reason.
Result<AnswerResult> Ask(Engine& engine, Conversation& conversation, std::string_view message,
                         std::span<const std::string> media, const CommonFlags& flags);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_ANSWER_H_
