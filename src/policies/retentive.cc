// retentive: our default. For questions not yet asked, attention is the wrong witness; what counts
// is how badly a token is represented by what stays when it goes, its residual against the state
// that would take it (docs/method.md).
#include <algorithm>
#include <cmath>
#include <vector>

#include "policies/policy.h"

namespace rkv {

namespace {

constexpr PolicyOption kOptions[] = {
    {.name = "keys",
     .default_value = 0.5,
     .min = 0,
     .max = 1,
     .help = "share of the keys in the residual; the rest is the values'"},
};

class RetentivePolicy : public Policy {
 public:
  explicit RetentivePolicy(std::span<const double> values)
      : key_share_(static_cast<float>(values[0])) {}

  PolicyNeeds needs() const override { return {.keys = true, .values = true}; }

  void Score(const ScoreContext& context, std::span<float> scores) const override {
    std::fill(scores.begin(), scores.end(), 0.0f);
    AddResiduals(context.keys, key_share_, scores);
    AddResiduals(context.values, 1.0f - key_share_, scores);
  }

 private:
  // Squared distances to the mean, in units of their own mean.
  static void AddResiduals(const RowsView& rows, float share, std::span<float> scores) {
    std::vector<float> mean(rows.d);
    for (size_t i = 0; i < rows.n; ++i) {
      for (size_t e = 0; e < rows.d; ++e) mean[e] += rows.row(i)[e];
    }
    for (float& x : mean) x /= static_cast<float>(rows.n);
    std::vector<float> distance(rows.n);
    float total = 0;
    for (size_t i = 0; i < rows.n; ++i) {
      for (size_t e = 0; e < rows.d; ++e) {
        const float difference = rows.row(i)[e] - mean[e];
        distance[i] += difference * difference;
      }
      total += distance[i];
    }
    if (total <= 0) return;
    const float scale = share * static_cast<float>(rows.n) / total;
    for (size_t i = 0; i < rows.n; ++i) scores[i] += scale * distance[i];
  }

  float key_share_;
};

}  // namespace

extern const PolicyInfo kRetentivePolicy = {
    .name = "retentive",
    .summary = "let tokens fade in precision by how badly their state would represent them",
    .evicts = true,
    .scores_are_errors = true,
    .comparable = true,
    .absorb = "clusters",
    .ladder = "auto",
    .options = kOptions,
    .create = [](std::span<const double> values) -> std::unique_ptr<Policy> {
      return std::make_unique<RetentivePolicy>(values);
    },
};

}  // namespace rkv
