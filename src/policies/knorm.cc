// knorm: low key norm (Devoto et al. 2024, arXiv 2406.11430). Tokens whose keys are short tend to
// be attended to, so the score is -|k|. Rotated keys have the norm that they had before.
#include "policies/score_math.h"

namespace rkv {

namespace {

class KnormPolicy : public Policy {
 public:
  PolicyNeeds needs() const override { return {.keys = true}; }

  void Score(const ScoreContext& context, std::span<float> scores) const override {
    for (size_t i = 0; i < scores.size(); ++i) scores[i] = ToScore(-Norm(context.keys.row(i)));
  }
};

}  // namespace

extern const PolicyInfo kKnormPolicy = {
    .name = "knorm",
    .summary = "keep the tokens with the shortest keys",
    .evicts = true,
    .options = {},
    .create = [](std::span<const double>) -> std::unique_ptr<Policy> {
      return std::make_unique<KnormPolicy>();
    },
};

}  // namespace rkv
