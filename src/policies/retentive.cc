// retentive: our default. What stays of a picture is decided for the questions that are yet to
// come, for which attention is the wrong witness: by novelty, how badly a token is represented by
// what stays when it goes. Text that goes on is its own next question, so there attention counts as
// well. How precise a token stays is decided for the question at hand: by its residual against the
// mean of its kind, and by its attention. docs/policies.md tells what was measured.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "policies/score_math.h"

namespace rkv {

namespace {

constexpr SpecOption kOptions[] = {
    {.name = "keys",
     .default_value = 0.5,
     .min = 0,
     .max = 1,
     .help = "share of the keys in a token's residual; the rest is the values'"},
    {.name = "attention",
     .default_value = 2,
     .min = 0,
     .max = 1000,
     .help = "weight of a token's attention, relative to the mean, for its precision; 0: none"},
    {.name = "power", .default_value = 1.5, .min = 0.1, .max = 4, .help = "power of that weight"},
    {.name = "queries",
     .default_value = 32,
     .min = 1,
     .max = 4096,
     .help = "last queries whose attention counts"},
    {.name = "novelty",
     .default_value = 256,
     .min = 0,
     .max = 1 << 20,
     .help =
         "tokens per head whose residual is against all that matter more; the others', and with "
         "0 all, is against the mean of their kind"},
};

// Rows of K and V side by side, scaled so that squared distances are errors in the units of the
// values: keys count as much as values do, by the given share.
class Points {
 public:
  Points(const ScoreContext& context, float key_share)
      : n_(context.token_index.size()), d_k_(context.keys.d), d_(d_k_ + context.values.d) {
    data_.resize(n_ * d_);
    for (size_t i = 0; i < n_; ++i) {
      std::ranges::copy(context.keys.row(i), row(i));
      std::ranges::copy(context.values.row(i), row(i) + d_k_);
    }
    SubtractMeans(context);
    double k_square = 0;
    double v_square = 0;
    for (size_t i = 0; i < n_; ++i) {
      for (size_t e = 0; e < d_; ++e) {
        const auto x = static_cast<double>(row(i)[e]);
        (e < d_k_ ? k_square : v_square) += x * x;
      }
    }
    const double ratio = k_square > 0 ? v_square / k_square : 0.0;
    const auto k_scale = static_cast<float>(std::sqrt(static_cast<double>(key_share) * ratio));
    const float v_scale = std::sqrt(1.0f - key_share);
    for (size_t i = 0; i < n_; ++i) {
      for (size_t e = 0; e < d_; ++e) row(i)[e] *= e < d_k_ ? k_scale : v_scale;
    }
  }

  size_t n() const { return n_; }
  float SquaredNorm(size_t i) const {
    float sum = 0;
    for (size_t e = 0; e < d_; ++e) sum += row(i)[e] * row(i)[e];
    return sum;
  }
  float SquaredDistance(size_t i, size_t j) const {
    const float* a = row(i);
    const float* b = row(j);
    float sum = 0;
    for (size_t e = 0; e < d_; ++e) sum += (a[e] - b[e]) * (a[e] - b[e]);
    return sum;
  }

 private:
  float* row(size_t i) { return data_.data() + i * d_; }
  const float* row(size_t i) const { return data_.data() + i * d_; }

  // Text, and each picture or clip, is a kind of its own.
  static size_t Kind(const TokenInfo& token) {
    return token.modality == Modality::kText ? 0 : 1 + token.media;
  }
  void SubtractMeans(const ScoreContext& context) {
    if (d_ == 0) return;
    size_t n_kinds = 1;
    for (const TokenInfo& token : context.tokens) n_kinds = std::max(n_kinds, Kind(token) + 1);
    std::vector<float> mean(n_kinds * d_), count(n_kinds);
    for (size_t i = 0; i < n_; ++i) {
      const size_t kind = Kind(context.tokens[i]);
      count[kind] += 1;
      for (size_t e = 0; e < d_; ++e) mean[kind * d_ + e] += row(i)[e];
    }
    for (size_t i = 0; i < n_; ++i) {
      const size_t kind = Kind(context.tokens[i]);
      for (size_t e = 0; e < d_; ++e) row(i)[e] -= mean[kind * d_ + e] / count[kind];
    }
  }

  size_t n_;
  size_t d_k_;
  size_t d_;
  std::vector<float> data_;  // [n, d]
};

class RetentivePolicy : public Policy {
 public:
  explicit RetentivePolicy(std::span<const double> values)
      : key_share_(static_cast<float>(values[0])),
        attention_(values[1]),
        power_(values[2]),
        queries_(static_cast<size_t>(values[3])),
        n_picks_(static_cast<size_t>(values[4])) {}

  PolicyNeeds needs() const override {
    PolicyNeeds needs{.keys = true, .values = true, .lowest_rung = false};
    if (attention_ > 0) {
      needs.queries = PolicyNeeds::Queries::kWindow;
      needs.window = queries_;
      needs.decay = DecayOver(queries_);
    }
    return needs;
  }

  void Score(const ScoreContext& context, std::span<float> scores) const override {
    const Points points(context, key_share_);
    for (size_t i = 0; i < points.n(); ++i) scores[i] = points.SquaredNorm(i);
    if (context.room >= 1) return;
    if (n_picks_ > 0) PickFarthest(points, scores);
    const std::vector<float> weights = Weights(context);
    for (size_t i = 0; i < points.n(); ++i) {
      if (context.tokens[i].modality == Modality::kText) scores[i] *= weights[i];
    }
  }

  void Precision(const ScoreContext& context, std::span<float> errors) const override {
    const Points points(context, key_share_);
    const std::vector<float> weights = Weights(context);
    for (size_t i = 0; i < points.n(); ++i) errors[i] = points.SquaredNorm(i) * weights[i];
  }

 private:
  // By the attention that each token gets, relative to the mean; at least 1.
  std::vector<float> Weights(const ScoreContext& context) const {
    std::vector<float> weights(context.token_index.size(), 1.0f);
    const double total = std::accumulate(context.attention.begin(), context.attention.end(), 0.0);
    if (total <= 0) return weights;
    const double scale = attention_ * static_cast<double>(weights.size()) / total;
    const double part = AttentionPart(context.room);
    for (size_t i = 0; i < weights.size(); ++i) {
      const double weight =
          1.0 + std::pow(scale * static_cast<double>(context.attention[i]), power_);
      weights[i] = static_cast<float>(std::pow(weight, part));
    }
    return weights;
  }

  // Takes tokens one by one, always the one that is farthest from the means and from all taken so
  // far; its distance then is what would be lost without it. Of equals the newer is taken first.
  void PickFarthest(const Points& points, std::span<float> distance) const {
    std::vector<bool> taken(points.n());
    for (size_t pick = 0; pick < std::min(n_picks_, points.n()); ++pick) {
      size_t farthest = points.n();
      for (size_t i = points.n(); i-- > 0;) {
        if (!taken[i] && (farthest == points.n() || distance[i] > distance[farthest])) farthest = i;
      }
      taken[farthest] = true;
      for (size_t i = 0; i < points.n(); ++i) {
        if (!taken[i]) distance[i] = std::min(distance[i], points.SquaredDistance(i, farthest));
      }
    }
  }

  float key_share_;
  double attention_;
  double power_;
  size_t queries_;
  size_t n_picks_;
};

}  // namespace

extern const PolicyInfo kRetentivePolicy = {
    .name = "retentive",
    .summary = "let tokens fade in precision, and forget those that others represent best",
    .evicts = true,
    .scores_are_errors = true,
    .comparable = true,
    .absorb = "none",
    .ladder = "auto",
    .split = Split::kAuto,
    .window = 64,
    .options = kOptions,
    .create = [](std::span<const double> values) -> std::unique_ptr<Policy> {
      return std::make_unique<RetentivePolicy>(values);
    },
};

}  // namespace rkv
