// paper: the retention estimator of RetentiveKV as published (2026, arXiv 2605.04075):
//   R = lambda * alpha + (1 - lambda) * H
// where alpha is the attention that text gave a token, relative to the maximum of the head's
// tokens, and H is the entropy of that attention. Forgotten tokens go into states by their place;
// the states are read additively as published. In the paper, H is written as -p ln p of text's
// attention to pictures. Within one query that orders tokens of low attention just as attention
// does. So here it is taken across the queries: 0 to 1, high if no single query has claimed the
// token (ScoreContext::entropy).
#include "policies/score_math.h"

namespace rkv {

namespace {

class PaperPolicy : public Policy {
 public:
  PaperPolicy(double lambda, size_t queries) : lambda_(lambda), queries_(queries) {}

  PolicyNeeds needs() const override {
    return {.queries = PolicyNeeds::Queries::kWindow,
            .window = queries_,
            .decay = DecayOver(queries_),
            .entropy = uses_entropy(),
            .only_text = true};
  }

  void Score(const ScoreContext& context, std::span<float> scores) const override {
    double max_attention = 0;
    for (const double attention : context.attention)
      max_attention = std::max(max_attention, attention);
    for (size_t i = 0; i < scores.size(); ++i) {
      double score = max_attention == 0 ? 0.0 : lambda_ * (context.attention[i] / max_attention);
      if (uses_entropy()) score += (1 - lambda_) * context.entropy[i];
      scores[i] = ToScore(score);
    }
  }

 private:
  bool uses_entropy() const { return lambda_ < 1; }

  double lambda_;
  size_t queries_;
};

constexpr SpecOption kOptions[] = {
    {.name = "lambda",
     .default_value = 0.5,
     .min = 0,
     .max = 1,
     .help = "share of attention in the score; the rest is entropy"},
    {.name = "queries",
     .default_value = 32,
     .min = 1,
     .max = 4096,
     .help = "last text queries to consider; older ones fade out",
     .whole = true},
};

}  // namespace

extern const PolicyInfo kPaperPolicy = {
    .name = "paper",
    .summary =
        "keep the tokens with the most attention and entropy from text queries (RetentiveKV's "
        "published R)",
    .evicts = true,
    .absorb = "states:additive=1",
    .options = kOptions,
    .create = [](std::span<const double> values) -> std::unique_ptr<Policy> {
      return std::make_unique<PaperPolicy>(values[0], static_cast<size_t>(values[1]));
    },
};

}  // namespace rkv
