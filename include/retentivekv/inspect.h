// A view into a conversation's cache: the precision, state and attention of each token.
#ifndef RETENTIVEKV_INSPECT_H_
#define RETENTIVEKV_INSPECT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "retentivekv/kv_cache.h"

namespace rkv {

// One state of a KV head.
struct StateInspection {
  uint32_t root = 0;  // token that names it: a root patch, or the heaviest part of a cluster
  float mass = 0;     // number of tokens that it stands for
  float share = 0;    // of the head's softmax in the last answer, mean over its tokens
};

// One KV head. The vectors over tokens have tokens_seen entries.
struct HeadInspection {
  static constexpr uint8_t kForgotten = 255;  // in no row; absorbed if `root` is not -1

  size_t layer = 0;
  size_t kv_head = 0;
  std::vector<uint8_t> rung;  // index into Inspection::rungs, or kForgotten
  std::vector<int64_t> root;  // of a token that a state absorbed: the state's root; else -1
  std::vector<float> share;   // of the softmax in the last answer, mean over its tokens; 0 if gone
  std::vector<StateInspection> states;
};

// The basis of one token of the last answer: the attention of the token before it.
struct AnswerTokenInspection {
  uint64_t token = 0;  // position of the chosen token in the conversation
  // The whole characters that the token completes. Set only by Conversation::Inspect(); empty for
  // the end of the answer.
  std::string text;
  // [cells of Inspection::media, in their order] share of the softmax, mean over all heads. A
  // state's share counts for the root that it had then.
  std::vector<float> read;
  std::vector<uint32_t> reactivated;  // roots of states with over 5 % of a head's softmax
};

struct Inspection {
  CacheShape shape;
  std::vector<Rung> rungs;            // the most precise first
  std::vector<MediaSpan> media;       // pictures and clips among the tokens
  std::vector<HeadInspection> heads;  // by layer, then KV head
  CacheStats stats;
  // Number of tokens that the shares are a mean over: the last token of the prompt, and all tokens
  // of the answer but its end.
  uint64_t answer_tokens = 0;
  static constexpr size_t kMaxAnswer = 256;
  std::vector<AnswerTokenInspection> answer;  // the last kMaxAnswer of the answer's tokens
};

}  // namespace rkv

#endif  // RETENTIVEKV_INSPECT_H_
