// Conversations that are had with every configuration, and what is measured in them.
#ifndef RETENTIVEKV_APPS_RKV_EVAL_CONVERSATIONS_H_
#define RETENTIVEKV_APPS_RKV_EVAL_CONVERSATIONS_H_

#include <string>
#include <string_view>
#include <vector>

#include "eval/suite.h"

namespace rkv::app {

// A message of the user, and its answer.
struct ScriptTurn {
  std::string text = {};
  std::vector<std::string> files = {};    // pictures before the text
  std::vector<std::string> answers = {};  // that are right; the first is forced; none: nothing is
  std::string family = {};                // what it is about, for Measurement::by_family
  bool measured = false;
};

struct Script {
  std::vector<ScriptTurn> turns;
  // Each measured turn is asked on a copy of the conversation, so that none sees another.
  bool apart = false;
  uint64_t seed = 1;  // for Measurement::by_seed
};

struct ScriptRegime {
  std::string name;
  std::string description;
  std::vector<Script> scripts;
};

struct ConversationOptions {
  // Answers are generated, greedily, on a copy of the conversation and right if they are the same
  // as one of `answers` after NormalizeAnswer(). The conversation goes on with what `full`
  // answered, and KL is measured over that. Otherwise answers are forced, and right if the
  // likeliest token is the right one at each place.
  bool generate = false;
  // Whether the end of a forced answer is one of the places.
  bool measure_end = true;
};

inline constexpr int kMaxGenerated = 64;  // tokens of a generated answer

// Lower case, one space between words, without punctuation at both ends; letters that are not ASCII
// stay as they are.
std::string NormalizeAnswer(std::string_view answer);
bool IsRightAnswer(std::string_view answer, const std::vector<std::string>& accepted);

// A part has as many scripts as the engine can answer at once. The engine must outlive the plan.
SuitePlan PlanConversations(Engine& engine, std::vector<ScriptRegime> regimes,
                            const ConversationOptions& options);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_EVAL_CONVERSATIONS_H_
