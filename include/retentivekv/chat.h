// Messages, media and sampling: the text of a conversation, and how answers are chosen.
#ifndef RETENTIVEKV_CHAT_H_
#define RETENTIVEKV_CHAT_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "retentivekv/status.h"

namespace rkv {

// Maximum number of pictures and clips in one turn.
inline constexpr size_t kMaxMediaFiles = 256;

// A picture or audio file in memory.
struct MediaFile {
  std::string name;  // for messages
  std::string bytes;
};

struct SamplingOptions {
  float temperature = 0.8f;  // 0: greedy
  int top_k = 40;
  float top_p = 0.95f;
  float min_p = 0.05f;
  uint32_t seed = 0xFFFFFFFF;  // 0xFFFFFFFF: random
  bool ignore_eos = false;     // continue the answer to max_tokens

  // llama.cpp's other samplers, with its names and defaults: off.
  float typical_p = 1.0f;     // 1: off
  float top_n_sigma = -1.0f;  // 0 or less: off
  float xtc_probability = 0.0f;
  float xtc_threshold = 0.1f;
  float dynatemp_range = 0.0f;
  float dynatemp_exponent = 1.0f;
  int repeat_last_n = 64;  // tokens that the next three penalties look back
  float repeat_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  float dry_multiplier = 0.0f;
  float dry_base = 1.75f;
  int dry_allowed_length = 2;
  int dry_penalty_last_n = 64;
  std::vector<std::string> dry_sequence_breakers = {"\n", ":", "\"", "*"};
  int mirostat = 0;  // 1 or 2: in place of all samplers but temperature
  float mirostat_tau = 5.0f;
  float mirostat_eta = 0.1f;
  float adaptive_target = -1.0f;  // of the sampler adaptive_p, which `samplers` must name
  float adaptive_decay = 0.9f;
  // Names in the order in which they run; empty: llama.cpp's order. See SamplerNames().
  std::vector<std::string> samplers = {};
  std::vector<std::pair<int32_t, float>> logit_bias = {};  // token, term added to its logit
  std::string grammar = {};                                // GBNF; answers match its rule "root"
};

// Valid names in SamplingOptions::samplers. The first nine are the default, in its order.
std::vector<std::string> SamplerNames();
// Sampler names from a list such as "top_k;temperature", or from letters such as "kt". Both accept
// llama.cpp's other spellings. kInvalidArgument names the unknown sampler.
Result<std::vector<std::string>> ParseSamplers(std::string_view text);
Result<std::vector<std::string>> ParseSamplerLetters(std::string_view text);

struct ChatMessage {
  std::string role;  // "system", "user", "assistant"
  // A media marker stands in place of each picture or clip. If a user's own text contains a marker,
  // three invisible characters break it (U+2060, U+2063, U+2060).
  std::string content;
};

// Placeholder for a picture or clip in ChatMessage::content.
std::string_view MediaMarker();

// A message as the user wrote it: texts, pictures and clips in their order.
struct Message {
  struct Part {
    std::string text;
    std::optional<MediaFile> media;  // in place of text
  };
  std::string role;  // "system", "user", "assistant"
  std::vector<Part> parts;
};

}  // namespace rkv

#endif  // RETENTIVEKV_CHAT_H_
