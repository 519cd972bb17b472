// Suite `text-kv`: keys and values that stand in prose, asked for after it has been compressed.
#ifndef RETENTIVEKV_APPS_RKV_EVAL_TEXT_KV_H_
#define RETENTIVEKV_APPS_RKV_EVAL_TEXT_KV_H_

#include <cstdint>
#include <string>
#include <vector>

#include "eval/conversations.h"

namespace rkv::app {

struct TextKvOptions {
  std::string text;                   // the prose
  int n_context = 2048;               // tokens of it, with the pairs in it
  int n_pairs = 8;                    // each is asked for, on its own
  int n_conversations = 3;            // for each seed
  std::vector<uint64_t> seeds = {1};  // of keys, values, and where they stand
};

// Forced answers, without their end: the prompt is a text that goes on. kInvalidArgument if the
// text is too short, or the context too long for the model.
Result<std::vector<ScriptRegime>> TextKvScripts(const Engine& engine, const TextKvOptions& options);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_EVAL_TEXT_KV_H_
