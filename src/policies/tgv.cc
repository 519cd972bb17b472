// tgv: text-grounded eviction (TGV-KV; 2026, arXiv 2606.03075). All text is kept before any
// picture; tokens of pictures are ordered by the attention of text queries, each of which weighs
// what text gives it of its own attention. There, the budget is divided over layers by how much
// text attends to pictures, and text never leaves; here the division is the split's business, and
// when text alone passes the budget, the text that got least of that attention leaves.
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
    .summary = "keep text, then what the text that matters attended to most",
    .evicts = true,
    .comparable = true,
    .options = {},
    .create = [](std::span<const double>) -> std::unique_ptr<Policy> {
      return std::make_unique<TgvPolicy>();
    },
};

}  // namespace rkv
