// h2o: heavy hitters (H2O; Zhang et al. 2023, arXiv 2306.14048). A token's score is the sum of its
// attention from all queries so far. In the paper, half of the budget is for recent tokens; here
// that share is the common option `window`. Attention is the mean over the queries that share a KV
// head; models of that time had no shared heads.
#include <algorithm>

#include "policies/policy.h"

namespace rkv {

namespace {

class H2oPolicy : public Policy {
 public:
  PolicyNeeds needs() const override { return {.queries = PolicyNeeds::Queries::kAll}; }

  void Score(const ScoreContext& context, std::span<float> scores) const override {
    std::ranges::copy(context.attention, scores.begin());
  }
};

}  // namespace

extern const PolicyInfo kH2oPolicy = {
    .name = "h2o",
    .summary = "keep the tokens with the most attention over all queries (heavy hitters)",
    .evicts = true,
    .comparable = true,
    .options = {},
    .create = [](std::span<const double>) -> std::unique_ptr<Policy> {
      return std::make_unique<H2oPolicy>();
    },
};

}  // namespace rkv
