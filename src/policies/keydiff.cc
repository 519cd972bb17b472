// keydiff: key diversity (KeyDiff; Park et al. 2025, arXiv 2504.15364). A token's score is the
// negated cosine of its key and the anchor, which is the mean of all held keys, each scaled to
// length 1. As in the paper, keys are compared after RoPE. If the key or the anchor is all zeros,
// it has no direction, and the cosine is taken as 0.
#include <vector>

#include "policies/score_math.h"

namespace rkv {

namespace {

class KeyDiffPolicy : public Policy {
 public:
  void Score(const ScoreContext& context, std::span<float> scores) const override {
    const size_t d = context.d_k;
    std::vector<float> row(d);
    const std::span<const float> key = row;
    std::vector<double> norms(scores.size());
    std::vector<double> anchor(d);  // times the number of keys, which does not change a cosine
    for (size_t i = 0; i < scores.size(); ++i) {
      context.rows->Read(i, row.data(), nullptr);
      norms[i] = Norm(key);
      if (norms[i] == 0) continue;
      const double scale = 1.0 / norms[i];
      for (size_t c = 0; c < d; ++c) anchor[c] += scale * static_cast<double>(key[c]);
    }
    const std::span<const double> direction = anchor;
    const double anchor_norm = Norm(direction);
    for (size_t i = 0; i < scores.size(); ++i) {
      const double norm = norms[i] * anchor_norm;
      context.rows->Read(i, row.data(), nullptr);
      scores[i] = norm == 0 ? 0.0f : ToScore(-Dot(key, direction) / norm);
    }
  }
};

}  // namespace

extern const PolicyInfo kKeyDiffPolicy = {
    .name = "keydiff",
    .summary = "keep the tokens whose keys differ most from the average key",
    .evicts = true,
    .options = {},
    .create = [](std::span<const double>) -> std::unique_ptr<Policy> {
      return std::make_unique<KeyDiffPolicy>();
    },
};

}  // namespace rkv
