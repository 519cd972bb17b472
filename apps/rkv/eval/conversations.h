// Conversations that every configuration answers, and their measurements.
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
  std::vector<std::string> files = {};  // pictures before the text
  std::vector<std::string> answers =
      {};  // right ones; the first is forced; none: no answer is forced
  std::vector<std::string> families = {};  // kinds of the question, for Measurement::by_family
  bool measured = false;
  size_t regime = 0;  // of ScriptSet::regimes, if measured
};

struct Script {
  std::vector<ScriptTurn> turns;
  // Each measured turn is asked on its own copy of the conversation, so the turns do not affect
  // each other.
  bool apart = false;
  uint64_t seed = 1;  // for Measurement::by_seed
};

// Conversations whose turns belong to one regime or several.
struct ScriptSet {
  struct Regime {
    std::string name;
    std::string description;
  };
  std::vector<Regime> regimes;
  std::vector<Script> scripts;
};

struct ConversationOptions {
  // True: answers are generated greedily on a copy of the conversation. An answer is right if it
  // equals one of `answers` after NormalizeAnswer(). The conversation continues with the answer of
  // `full`, and KL is measured over that answer. False: answers are forced, and right if the
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
SuitePlan PlanConversations(Engine& engine, std::vector<ScriptSet> sets,
                            const ConversationOptions& options);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_EVAL_CONVERSATIONS_H_
