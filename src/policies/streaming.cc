// streaming: attention sinks and a recent window (StreamingLLM; Xiao et al. 2024, arXiv
// 2309.17453). Unlike in the paper, tokens keep their positions: llama.cpp rotates keys before they
// reach the cache, and M-RoPE positions cannot be shifted.
#include "policies/policy.h"

namespace rkv {

namespace {

class StreamingPolicy : public Policy {
 public:
  void Score(const ScoreContext& context, std::span<float> scores) const override {
    for (size_t i = 0; i < scores.size(); ++i) {
      scores[i] = -static_cast<float>(context.tokens_seen - context.token_index[i]);
    }
  }
};

}  // namespace

extern const PolicyInfo kStreamingPolicy = {
    .name = "streaming",
    .summary = "keep the first tokens (attention sinks) and the most recent ones",
    .evicts = true,
    .options = {},
    .create = [](std::span<const double>) -> std::unique_ptr<Policy> {
      return std::make_unique<StreamingPolicy>();
    },
};

}  // namespace rkv
