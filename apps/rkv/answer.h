#ifndef RETENTIVEKV_APPS_RKV_ANSWER_H_
#define RETENTIVEKV_APPS_RKV_ANSWER_H_

#include <span>
#include <string>
#include <string_view>

#include "flags.h"
#include "retentivekv/engine.h"

namespace rkv::app {

// Says a message with its pictures and clips, and answers on stdout as the answer is generated,
// with progress before the first token. It stops early on Ctrl-C and when stdout does not take it;
// AnswerResult::stop tells.
Result<AnswerResult> Ask(Engine& engine, Conversation& conversation, std::string_view message,
                         std::span<const std::string> media, const CommonFlags& flags);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_ANSWER_H_
