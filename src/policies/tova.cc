// tova: token omission via attention (TOVA; Oren et al. 2024, arXiv 2401.06104). A token's score is
// the attention that the last query gave it. In the paper, it is averaged over all heads of a
// layer, which then keep the same tokens. Here each KV head keeps its own.
#include <algorithm>

#include "policies/policy.h"

namespace rkv {

namespace {

class TovaPolicy : public Policy {
 public:
  PolicyNeeds needs() const override {
    return {.queries = PolicyNeeds::Queries::kWindow, .window = 1, .decay = 0.0};
  }

  void Score(const ScoreContext& context, std::span<float> scores) const override {
    std::ranges::copy(context.attention, scores.begin());
  }
};

}  // namespace

extern const PolicyInfo kTovaPolicy = {
    .name = "tova",
    .summary = "keep the tokens that the last query attended to most",
    .evicts = true,
    .comparable = true,
    .options = {},
    .create = [](std::span<const double>) -> std::unique_ptr<Policy> {
      return std::make_unique<TovaPolicy>();
    },
};

}  // namespace rkv
