// Suites on conversations about pictures: a data set's, or the bundled pages.
#ifndef RETENTIVEKV_APPS_RKV_EVAL_PICTURE_SUITES_H_
#define RETENTIVEKV_APPS_RKV_EVAL_PICTURE_SUITES_H_

#include <vector>

#include "eval/data_set.h"

namespace rkv::app {

// Measured at most, of a conversation.
inline constexpr int kDeferredQuestions = 8;
inline constexpr int kPagesQuestions = 8;
inline constexpr int kTurns = 20;

// Questions about pictures, asked after the cache has been compressed: after the pictures and a
// first question (regime `known`), or after the pictures alone (`unknown`).
std::vector<ScriptRegime> DeferredScripts(const std::vector<DataConversation>& conversations);

// Pages that come one after the other, a message each; then questions about single ones.
std::vector<ScriptRegime> PagesScripts(const std::vector<DataConversation>& conversations);

// A conversation of kTurns questions. When everything has been asked, it is asked again.
std::vector<ScriptRegime> TurnsScripts(const std::vector<DataConversation>& conversations);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_EVAL_PICTURE_SUITES_H_
