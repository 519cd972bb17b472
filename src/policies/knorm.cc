// knorm: low key norm (Devoto et al. 2024, arXiv 2406.11430). Tokens with short keys tend to get
// attention, so the score is -|k|. Rotation does not change the norm.
#include <vector>

#include "policies/score_math.h"

namespace rkv {

namespace {

class KnormPolicy : public Policy {
 public:
  void Score(const ScoreContext& context, std::span<float> scores) const override {
    std::vector<float> row(context.d_k);
    const std::span<const float> key = row;
    for (size_t i = 0; i < scores.size(); ++i) {
      context.rows->Read(i, row.data(), nullptr);
      scores[i] = ToScore(-Norm(key));
    }
  }
};

}  // namespace

extern const PolicyInfo kKnormPolicy = {
    .name = "knorm",
    .summary = "keep the tokens whose keys have the smallest norm",
    .evicts = true,
    .options = {},
    .create = [](std::span<const double>) -> std::unique_ptr<Policy> {
      return std::make_unique<KnormPolicy>();
    },
};

}  // namespace rkv
