// lookm: text first, then heavy hitters (LOOK-M; Wan et al. 2024, arXiv 2406.18139). Every text
// token outranks every image or audio token. Each group is ordered by the attention of all queries,
// as in h2o. Forgotten tokens are merged into remaining ones. In the paper, the prompt is
// compressed once; here text can be forgotten too, if a conversation's text alone exceeds the
// budget.
#include "policies/score_math.h"

namespace rkv {

namespace {

class LookMPolicy : public Policy {
 public:
  PolicyNeeds needs() const override { return {.queries = PolicyNeeds::Queries::kAll}; }

  void Score(const ScoreContext& context, std::span<float> scores) const override {
    for (size_t i = 0; i < scores.size(); ++i) {
      scores[i] = TextFirst(context.tokens[i].modality, context.attention[i]);
    }
  }
};

}  // namespace

extern const PolicyInfo kLookMPolicy = {
    .name = "lookm",
    .summary =
        "keep text first, then the tokens with the most attention; merge evicted tokens into kept "
        "ones",
    .evicts = true,
    .comparable = true,
    .absorb = "merge",
    .options = {},
    .create = [](std::span<const double>) -> std::unique_ptr<Policy> {
      return std::make_unique<LookMPolicy>();
    },
};

}  // namespace rkv
