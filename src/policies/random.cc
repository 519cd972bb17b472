// random: the control that every policy has to beat. A token's score is a hash of the seed, the
// head and the token's place in the conversation. So the remaining tokens are always a uniform
// sample of all tokens seen so far, the same on every platform.
#include "base/random.h"

#include "policies/policy.h"

namespace rkv {

namespace {

uint64_t Mix(uint64_t hash, uint64_t value) { return Random(hash ^ value).NextU64(); }

class RandomPolicy : public Policy {
 public:
  explicit RandomPolicy(uint64_t seed) : seed_(seed) {}

  void Score(const ScoreContext& context, std::span<float> scores) const override {
    const uint64_t head = Mix(Mix(Mix(0, seed_), context.layer), context.kv_head);
    for (size_t i = 0; i < scores.size(); ++i) {
      // Uniform in [0, 1), with the precision of a float.
      scores[i] = static_cast<float>(Mix(head, context.token_index[i]) >> 40) * 0x1p-24f;
    }
  }

 private:
  uint64_t seed_;
};

constexpr SpecOption kOptions[] = {
    {.name = "seed",
     .default_value = 0,
     .min = 0,
     .max = 4294967295.0,
     .help = "random seed",
     .whole = true},
};

}  // namespace

extern const PolicyInfo kRandomPolicy = {
    .name = "random",
    .summary = "keep random tokens: the baseline for all other policies",
    .evicts = true,
    .options = kOptions,
    .create = [](std::span<const double> values) -> std::unique_ptr<Policy> {
      return std::make_unique<RandomPolicy>(static_cast<uint64_t>(values[0]));
    },
};

}  // namespace rkv
