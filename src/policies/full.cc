// full: keeps every token. With it, logits are stock llama.cpp's up to rounding.
#include <algorithm>

#include "policies/policy.h"

namespace rkv {

namespace {

class FullPolicy : public Policy {
 public:
  void Score(const ScoreContext&, std::span<float> scores) const override {
    std::fill(scores.begin(), scores.end(), 0.0f);
  }
};

}  // namespace

extern const PolicyInfo kFullPolicy = {
    .name = "full",
    .summary = "keep every token: stock llama.cpp's results, no savings",
    .evicts = false,
    .options = {},
    .create = [](std::span<const double>) -> std::unique_ptr<Policy> {
      return std::make_unique<FullPolicy>();
    },
};

}  // namespace rkv
