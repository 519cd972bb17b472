// What a conversation's cache remembers of each token, for people who want to look into it.
#ifndef RETENTIVEKV_INSPECT_H_
#define RETENTIVEKV_INSPECT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "retentivekv/kv_cache.h"

namespace rkv {

// One state of a KV head.
struct StateInspection {
  uint32_t root = 0;  // token that it is named for: a root patch, or the heaviest part of a cluster
  float mass = 0;     // tokens that it stands for
  float share = 0;    // of the head's softmax in the last answer, mean over its tokens
};

// One KV head. The vectors over tokens have tokens_seen entries.
struct HeadInspection {
  static constexpr uint8_t kForgotten = 255;  // in no row; absorbed if `root` says where

  size_t layer = 0;
  size_t kv_head = 0;
  std::vector<uint8_t> rung;  // index into Inspection::rungs, or kForgotten
  std::vector<int64_t> root;  // of a token that a state absorbed: the state's root; else -1
  std::vector<float> share;   // of the softmax in the last answer, mean over its tokens; 0 if gone
  std::vector<StateInspection> states;
};

// What a token of the last answer was chosen with: what the token before it read.
struct AnswerTokenInspection {
  uint64_t token = 0;  // number of the chosen one among the tokens
  // Of it, in whole characters: those that it ends. Only from Conversation::Inspect(); the answer's
  // end has none.
  std::string text;
  // [cells of Inspection::media, in their order] of the softmax, mean over all heads. What a state
  // took counts for its root as it was named then.
  std::vector<float> read;
  std::vector<uint32_t> reactivated;  // roots of states that took over 5 % of a head's softmax
};

struct Inspection {
  CacheShape shape;
  std::vector<ElementType> rungs;     // of K, the most precise first
  std::vector<MediaSpan> media;       // pictures and clips among the tokens
  std::vector<HeadInspection> heads;  // by layer, then KV head
  CacheStats stats;
  // Tokens that the shares are a mean over: those that the answer's tokens were chosen with, which
  // are the last of the prompt and all of the answer but its end.
  uint64_t answer_tokens = 0;
  static constexpr size_t kMaxAnswer = 256;
  std::vector<AnswerTokenInspection> answer;  // the last kMaxAnswer of these tokens
};

}  // namespace rkv

#endif  // RETENTIVEKV_INSPECT_H_
