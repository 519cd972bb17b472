// expected-attention: attention of future queries (Devoto et al. 2025, arXiv 2510.00636). Queries
// are modelled as Gaussian. A token's score is its expected attention, exp(mean logit + half its
// variance), times the length of its value. Each query head has its own Gaussian. In the paper,
// mean and covariance are those of all queries before RoPE, turned by the average rotation of the
// next 512 positions. llama.cpp rotates queries before they reach the cache. So here mean and
// covariance are those of the last rotated queries, whose rotations are the nearest to the next
// ones.
#include <vector>

#include "policies/score_math.h"

namespace rkv {

namespace {

class ExpectedAttentionPolicy : public Policy {
 public:
  ExpectedAttentionPolicy(size_t queries, bool value_norm)
      : queries_(queries), value_norm_(value_norm) {}

  PolicyNeeds needs() const override {
    return {.queries = PolicyNeeds::Queries::kWindow,
            .window = queries_,
            .decay = DecayOver(queries_),
            .expected = true};
  }

  void Score(const ScoreContext& context, std::span<float> scores) const override {
    std::vector<float> row(context.d_v);
    const std::span<const float> value = row;
    for (size_t i = 0; i < scores.size(); ++i) {
      scores[i] = ToScore(context.attention[i]);
      if (!value_norm_) continue;
      context.rows->Read(i, nullptr, row.data());
      scores[i] = ToScore(scores[i] * Norm(value));
    }
  }

 private:
  size_t queries_;
  bool value_norm_;
};

constexpr SpecOption kOptions[] = {
    {.name = "queries",
     .default_value = 128,
     .min = 1,
     .max = 4096,
     .help = "last queries, which stand for future ones; older ones fade out",
     .whole = true},
    {.name = "value_norm",
     .default_value = 1,
     .min = 0,
     .max = 1,
     .help = "1: multiply by the norm of the value; 0: do not",
     .whole = true},
};

}  // namespace

extern const PolicyInfo kExpectedAttentionPolicy = {
    .name = "expected-attention",
    .summary = "keep the tokens that future queries are expected to attend to most",
    .evicts = true,
    .comparable = true,
    .options = kOptions,
    .create = [](std::span<const double> values) -> std::unique_ptr<Policy> {
      return std::make_unique<ExpectedAttentionPolicy>(static_cast<size_t>(values[0]),
                                                       values[1] != 0);
    },
};

}  // namespace rkv
