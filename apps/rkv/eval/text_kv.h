// Suite `text-kv`: keys and values inside prose, asked for after compression.
#ifndef RETENTIVEKV_APPS_RKV_EVAL_TEXT_KV_H_
#define RETENTIVEKV_APPS_RKV_EVAL_TEXT_KV_H_

#include <cstdint>
#include <string>
#include <vector>

#include "eval/conversations.h"

namespace rkv::app {

struct TextKvOptions {
  std::string text;                   // the prose
  int n_context = 2048;               // tokens of the prose, including the pairs
  int n_pairs = 8;                    // each is asked for alone
  int n_conversations = 3;            // for each seed
  std::vector<uint64_t> seeds = {1};  // of keys, values, and their places
};

// Forces answers without their end, since the prompt is a text that continues. kInvalidArgument if
// the text is too short, or the context too long for the model.
Result<std::vector<ScriptRegime>> TextKvScripts(const Engine& engine, const TextKvOptions& options);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_EVAL_TEXT_KV_H_
