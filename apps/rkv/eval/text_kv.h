// Suite `text-kv`: keys and values inside prose, asked for after compression.
#ifndef RETENTIVEKV_APPS_RKV_EVAL_TEXT_KV_H_
#define RETENTIVEKV_APPS_RKV_EVAL_TEXT_KV_H_

#include <cstdint>
#include <vector>

#include "eval/conversations.h"
#include "eval/eval_text.h"

namespace rkv::app {

struct TextKvOptions {
  std::vector<EvalText> texts;        // that the pairs stand in
  int n_context = 2048;               // tokens of a text, including the pairs
  int n_pairs = 8;                    // each is asked for alone
  int n_conversations = 5;            // for each seed and text
  std::vector<uint64_t> seeds = {1};  // of keys, values, and their places
  // Whether each is also asked for in other words, and half of them among distractors.
  bool variants = true;
};

// Forces answers without their end, since the prompt is a text that continues. kInvalidArgument if
// a text is too short, or the context too long for the model.
Result<std::vector<ScriptSet>> TextKvScripts(const Engine& engine, const TextKvOptions& options);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_EVAL_TEXT_KV_H_
