// h2o: heavy hitters (H2O; Zhang et al. 2023, arXiv 2306.14048). A token's score is the sum of its
// attention from all queries so far. As in the paper, half of the budget is for recent tokens.
// Attention is the mean over the queries that share a KV head; models of that time had no shared
// heads.
#include <algorithm>
#include <cmath>

#include "policies/score_math.h"

namespace rkv {

namespace {

class H2oPolicy : public Policy {
 public:
  explicit H2oPolicy(double recent) : recent_(recent) {}

  PolicyNeeds needs() const override { return {.queries = PolicyNeeds::Queries::kAll}; }

  void Score(const ScoreContext& context, std::span<float> scores) const override {
    std::ranges::copy(context.attention, scores.begin());
    if (scores.empty()) return;
    // Recent tokens come first, and stay in the order of their attention.
    const double fitting = context.room * static_cast<double>(context.tokens_seen);
    const auto n_recent = static_cast<uint64_t>(std::ceil(recent_ * fitting));
    const float above = 1.0f + std::max(0.0f, std::ranges::max(context.attention));
    for (size_t i = 0; i < scores.size(); ++i) {
      if (context.token_index[i] + n_recent >= context.tokens_seen) {
        scores[i] = ToScore(static_cast<double>(scores[i]) + static_cast<double>(above));
      }
    }
  }

 private:
  double recent_;
};

constexpr SpecOption kOptions[] = {
    {.name = "recent",
     .default_value = 0.5,
     .min = 0,
     .max = 1,
     .help = "share of the tokens that fit which is for the most recent ones"},
};

}  // namespace

extern const PolicyInfo kH2oPolicy = {
    .name = "h2o",
    .summary = "keep recent tokens, and those with the most attention over all queries",
    .evicts = true,
    .comparable = true,
    .options = kOptions,
    .create = [](std::span<const double> values) -> std::unique_ptr<Policy> {
      return std::make_unique<H2oPolicy>(values[0]);
    },
};

}  // namespace rkv
