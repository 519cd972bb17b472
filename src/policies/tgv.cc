// tgv: text-grounded eviction (TGV-KV; 2026, arXiv 2606.03075). All text is kept before any
// picture; tokens of pictures are ordered by the attention of text queries. The weight of a query
// is the attention that text gives it. In the paper, the budget is divided over layers by the
// attention of text to pictures, and text is never forgotten. Here the split divides the budget. If
// text alone exceeds the budget, the text with the least of that attention is forgotten.
#include "policies/score_math.h"

namespace rkv {

namespace {

class TgvPolicy : public Policy {
 public:
  PolicyNeeds needs() const override {
    return {
        .queries = PolicyNeeds::Queries::kAll,
        .only_text = true,
        .text_weighted = true,
    };
  }

  void Score(const ScoreContext& context, std::span<float> scores) const override {
    for (size_t i = 0; i < scores.size(); ++i) {
      scores[i] = TextFirst(context.tokens[i].modality, context.attention[i]);
    }
  }
};

}  // namespace

extern const PolicyInfo kTgvPolicy = {
    .name = "tgv",
    .summary = "keep text first, then the tokens that important text attended to most",
    .evicts = true,
    .comparable = true,
    .options = {},
    .create = [](std::span<const double>) -> std::unique_ptr<Policy> {
      return std::make_unique<TgvPolicy>();
    },
};

}  // namespace rkv
