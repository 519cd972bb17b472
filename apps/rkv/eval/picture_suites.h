// Suites on conversations about pictures: a data set's, or the bundled pages.
#ifndef RETENTIVEKV_APPS_RKV_EVAL_PICTURE_SUITES_H_
#define RETENTIVEKV_APPS_RKV_EVAL_PICTURE_SUITES_H_

#include <vector>

#include "eval/data_set.h"

namespace rkv::app {

// The maximum of measured questions per conversation.
inline constexpr int kDeferredQuestions = 8;
inline constexpr int kPagesQuestions = 8;
inline constexpr int kTurns = 20;

// Asks questions about pictures after the cache has been compressed: after the pictures and a first
// question (regime `known`), or after the pictures alone (`unknown`).
std::vector<ScriptSet> DeferredScripts(const std::vector<DataConversation>& conversations);

// Pages follow each other, one message each; then questions about single pages.
std::vector<ScriptSet> PagesScripts(const std::vector<DataConversation>& conversations);

// A conversation of kTurns questions. After the last question of the data the first comes again.
std::vector<ScriptSet> TurnsScripts(const std::vector<DataConversation>& conversations);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_EVAL_PICTURE_SUITES_H_
