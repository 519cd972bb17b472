// streaming: attention sinks and a recent window (StreamingLLM; Xiao et al. 2024, arXiv
// 2309.17453). Unlike there, tokens keep their positions: llama.cpp rotates keys before they reach
// the cache, and M-RoPE positions cannot be shifted.
#include "policies/policy.h"

namespace rkv {

namespace {

constexpr PolicyOption kOptions[] = {
    {.name = "sinks",
     .default_value = 4,
     .min = 0,
     .max = 1 << 20,
     .help = "first tokens of the conversation that are always kept"},
};

class StreamingPolicy : public Policy {
 public:
  explicit StreamingPolicy(size_t n_sinks) : n_sinks_(n_sinks) {}

  void Score(const ScoreContext& context, std::span<float> scores) const override {
    for (size_t i = 0; i < scores.size(); ++i) {
      const uint32_t index = context.token_index[i];
      const auto age = static_cast<float>(context.tokens_seen - index);
      scores[i] = index < n_sinks_ ? kAlwaysKeep : -age;
    }
  }
  size_t min_tokens() const override { return n_sinks_ + 1; }

 private:
  size_t n_sinks_;
};

}  // namespace

extern const PolicyInfo kStreamingPolicy = {
    .name = "streaming",
    .summary = "keep the first tokens (attention sinks) and the most recent ones",
    .evicts = true,
    .options = kOptions,
    .create = [](std::span<const double> values) -> std::unique_ptr<Policy> {
      return std::make_unique<StreamingPolicy>(static_cast<size_t>(values[0]));
    },
};

}  // namespace rkv
