// retentive: our default. Future questions decide which tokens of a picture are worth keeping, and
// past attention does not predict them. So a picture's tokens are kept by novelty: the error with
// which the remaining tokens represent a forgotten one. In text that continues, past attention does
// predict the next queries, so it counts as well. The precision of a token serves the present
// question: it depends on the token's residual against the mean of its kind, and on its attention.
// docs/policies.md has the measurements.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "kernels/distance.h"
#include "policies/score_math.h"

namespace rkv {

namespace {

constexpr SpecOption kOptions[] = {
    {.name = "keys",
     .default_value = 0.4,
     .min = 0,
     .max = 1,
     .help = "share of the keys in a token's residual; the values have the rest"},
    {.name = "attention",
     .default_value = 2,
     .min = 0,
     .max = 1000,
     .help = "weight of a token's attention, relative to the mean, for its precision; 0: none"},
    {.name = "power",
     .default_value = 1.5,
     .min = 0.1,
     .max = 4,
     .help = "exponent of that weight"},
    {.name = "queries",
     .default_value = 32,
     .min = 1,
     .max = 4096,
     .help = "last queries to consider",
     .whole = true},
    {.name = "text",
     .default_value = 0.02,
     .min = 0,
     .max = 1,
     .help = "weight of text with less than the mean attention, if the rest is pictures"},
    {.name = "novelty",
     .default_value = 256,
     .min = 0,
     .max = 1 << 20,
     .help = "tokens per KV head whose residual is taken against more important ones; other tokens "
             "(0: all) use the mean of their kind",
     .whole = true},
    {.name = "surprisal",
     .default_value = 1,
     .min = 0,
     .max = 1000,
     .help = "weight of a token's surprisal, relative to its attention; 0: none"},
};

float StandsFor(const ScoreContext& context, size_t i) {
  return context.stands_for.empty() ? 1.0f : context.stands_for[i];
}

// Including the tokens for which others stand.
double CountTokens(const ScoreContext& context) {
  if (context.stands_for.empty()) return static_cast<double>(context.token_index.size());
  return std::accumulate(context.stands_for.begin(), context.stands_for.end(), 0.0);
}

// K and V of a token side by side, minus the mean of its kind (text is one kind, and so is each
// picture or clip). They are scaled so that squared norms are errors in the units of the values,
// with the given share for keys. Computed row by row, because all of them take more memory than the
// cache of a long conversation.
class Residuals {
 public:
  Residuals(const ScoreContext& context, float key_share)
      : context_(context), d_k_(context.d_k), d_(d_k_ + context.d_v), k_norms_(n()), v_norms_(n()) {
    size_t n_kinds = 1;
    for (const TokenInfo& token : context.tokens) n_kinds = std::max(n_kinds, Kind(token) + 1);
    means_.resize(n_kinds * d_);
    std::vector<float> count(n_kinds);
    std::vector<float> row(d_);
    for (size_t i = 0; i < n(); ++i) {
      const float tokens = StandsFor(context, i);
      float* sum = means_.data() + Kind(context.tokens[i]) * d_;
      count[Kind(context.tokens[i])] += tokens;
      context.rows->Read(i, row.data(), row.data() + d_k_);
      for (size_t e = 0; e < d_; ++e) sum[e] += tokens * row[e];
    }
    for (size_t kind = 0; kind < n_kinds; ++kind) {
      const float share = count[kind] > 0 ? 1.0f / count[kind] : 0.0f;
      for (size_t e = 0; e < d_; ++e) means_[kind * d_ + e] *= share;
    }
    double k_square = 0;
    double v_square = 0;
    for (size_t i = 0; i < n(); ++i) {
      Copy(i, row);
      rkv::SquaredNorms(row.data(), 1, d_k_, &k_norms_[i]);
      rkv::SquaredNorms(row.data() + d_k_, 1, d_ - d_k_, &v_norms_[i]);
      const float tokens = StandsFor(context, i);
      k_square += static_cast<double>(tokens * k_norms_[i]);
      v_square += static_cast<double>(tokens * v_norms_[i]);
    }
    const double ratio = k_square > 0 ? v_square / k_square : 0.0;
    k_scale_ = static_cast<float>(std::sqrt(static_cast<double>(key_share) * ratio));
    v_scale_ = std::sqrt(1.0f - key_share);
  }

  size_t n() const { return context_.token_index.size(); }
  size_t d() const { return d_; }
  void SquaredNorms(std::span<float> norms) const {
    for (size_t i = 0; i < n(); ++i) {
      norms[i] = k_scale_ * k_scale_ * k_norms_[i] + v_scale_ * v_scale_ * v_norms_[i];
    }
  }
  void Read(size_t i, std::span<float> row) const {
    Copy(i, row);
    for (size_t e = 0; e < d_k_; ++e) row[e] *= k_scale_;
    for (size_t e = d_k_; e < d_; ++e) row[e] *= v_scale_;
  }

 private:
  static size_t Kind(const TokenInfo& token) {
    return token.modality == Modality::kText ? 0 : 1 + token.media;
  }
  // Not scaled.
  void Copy(size_t i, std::span<float> row) const {
    const float* mean = means_.data() + Kind(context_.tokens[i]) * d_;
    context_.rows->Read(i, row.data(), row.data() + d_k_);
    for (size_t e = 0; e < d_; ++e) row[e] -= mean[e];
  }

  const ScoreContext& context_;
  size_t d_k_;
  size_t d_;
  std::vector<float> means_;  // [kinds, d]
  std::vector<float> k_norms_, v_norms_;
  float k_scale_ = 0;
  float v_scale_ = 0;
};

class RetentivePolicy : public Policy {
 public:
  explicit RetentivePolicy(std::span<const double> values)
      : key_share_(static_cast<float>(values[0])),
        attention_(values[1]),
        power_(values[2]),
        queries_(static_cast<size_t>(values[3])),
        text_(values[4]),
        n_picks_(static_cast<size_t>(values[5])),
        surprisal_(values[6]) {}

  PolicyNeeds needs() const override {
    PolicyNeeds needs{.surprisal = surprisal_ > 0, .lowest_rung = false, .all_tokens = false};
    if (attention_ > 0) {
      needs.queries = PolicyNeeds::Queries::kWindow;
      needs.window = queries_;
      needs.decay = DecayOver(queries_);
    }
    return needs;
  }

  void Score(const ScoreContext& context, std::span<float> scores) const override {
    std::vector<float> precision_errors(scores.size());
    ScoreAll(context, scores, precision_errors);
  }

  void ScoreAll(const ScoreContext& context, std::span<float> scores,
                std::span<float> precision_errors) const override {
    const Residuals residuals(context, key_share_);
    residuals.SquaredNorms(scores);
    const std::vector<float> weights = Weights(context);
    for (size_t i = 0; i < scores.size(); ++i) precision_errors[i] = weights[i] * scores[i];
    if (context.room >= 1) return;
    if (n_picks_ > 0) PickFarthest(residuals, NumPicks(context), scores);
    const double mean = MeanAttention(context);
    // Attention has tested text already; a picture's tokens still wait for a question.
    const auto unread = static_cast<float>(std::pow(text_, 1.0 - context.text_share));
    for (size_t i = 0; i < scores.size(); ++i) {
      if (context.tokens[i].modality != Modality::kText) continue;
      scores[i] *= weights[i];
      if (mean > 0 && static_cast<double>(context.attention[i]) < mean) scores[i] *= unread;
    }
  }

 private:
  // 0: no attention was observed.
  static double MeanAttention(const ScoreContext& context) {
    const double total = std::accumulate(context.attention.begin(), context.attention.end(), 0.0);
    const double n = CountTokens(context);
    return n > 0 ? total / n : 0.0;
  }

  // Weights of text: the mean of its weight by attention, which the text that goes on needs, and of
  // that by surprisal, which questions about facts need.
  std::vector<float> Weights(const ScoreContext& context) const {
    std::vector<float> weights(context.token_index.size(), 1.0f);
    const double mean = MeanAttention(context);
    const double scale = mean > 0 ? attention_ / mean : 0.0;
    const double part = AttentionPart(context.room, context.text_share);
    const double share = context.surprisal.empty() ? 0.0 : surprisal_ / (1.0 + surprisal_);
    for (size_t i = 0; i < weights.size(); ++i) {
      if (context.tokens[i].modality != Modality::kText) continue;
      double weight = 1.0;
      if (mean > 0) {
        const auto attention = static_cast<double>(context.attention[i]);
        weight = std::pow(1.0 + std::pow(scale * attention, power_), part);
      }
      if (share > 0) {
        weight = (1.0 - share) * weight + share * SurprisalWeight(context.surprisal[i]);
      }
      weights[i] = static_cast<float>(weight);
    }
    return weights;
  }

  // The model can foretell other tokens again. Log-normal, with a mean of about 1.
  static double SurprisalWeight(float score) {
    constexpr double kExponent = 1.5;
    constexpr double kMaxScore = 3;
    if (std::isnan(score)) return 1.0;
    const double x = std::clamp(static_cast<double>(score), -kMaxScore, kMaxScore);
    return std::exp(kExponent * x - 0.5 * kExponent * kExponent);
  }

  // Fewer picks if tokens stand for others, which might be picked as well.
  size_t NumPicks(const ScoreContext& context) const {
    const auto n = static_cast<double>(context.token_index.size());
    const double picks = static_cast<double>(n_picks_) * n / std::max(CountTokens(context), 1.0);
    return static_cast<size_t>(std::ceil(picks));
  }

  // Picks tokens one by one: always the one farthest from the means and from all picks so far. Its
  // distance at that time is the error of forgetting it. Of equals the newer is picked first.
  // REQUIRES: `distance` holds squared norms, which are the distances to the means.
  static void PickFarthest(const Residuals& residuals, size_t n_picks, std::span<float> distance) {
    const std::vector<float> norms(distance.begin(), distance.end());
    const size_t d = residuals.d();
    struct Bound {
      float distance = 0;  // to the first n_seen picks: an upper bound of the distance to all
      uint32_t token = 0;
      uint32_t n_seen = 0;

      bool operator<(const Bound& other) const {
        return distance != other.distance ? distance < other.distance : token < other.token;
      }
    };
    std::vector<Bound> farthest(residuals.n());  // a heap
    for (uint32_t i = 0; i < farthest.size(); ++i) farthest[i] = {distance[i], i, 0};
    std::make_heap(farthest.begin(), farthest.end());
    n_picks = std::min(n_picks, residuals.n());
    std::vector<float> picked(n_picks * d), pick_norms;
    std::vector<const float*> picks;
    const auto picks_from = [&](size_t first) {
      return NormedPoints{.data = picks.data() + first,
                          .norms = pick_norms.data() + first,
                          .n = picks.size() - first};
    };
    std::vector<float> row(d);
    const auto compare = [&](Bound& bound) {
      residuals.Read(bound.token, row);
      LowerToSquaredDistances({.data = row.data(), .norms = norms.data() + bound.token, .n = 1}, d,
                              picks_from(bound.n_seen), &bound.distance);
      bound.n_seen = static_cast<uint32_t>(picks.size());
    };
    while (picks.size() < n_picks) {
      std::pop_heap(farthest.begin(), farthest.end());
      Bound& top = farthest.back();
      if (top.n_seen == picks.size()) {
        const std::span<float> pick = std::span(picked).subspan(picks.size() * d, d);
        residuals.Read(top.token, pick);
        picks.push_back(pick.data());
        pick_norms.push_back(norms[top.token]);
        distance[top.token] = top.distance;
        farthest.pop_back();
        continue;
      }
      // Only tokens at the top are compared with the latest picks.
      compare(top);
      std::push_heap(farthest.begin(), farthest.end());
    }
    // The other tokens: those compared with many picks one by one, the rest together, which is
    // faster.
    constexpr size_t kTogether = 64;
    std::vector<float> rows(kTogether * d), row_norms, lowered;
    std::vector<uint32_t> tokens;
    const auto lower_together = [&] {
      LowerToSquaredDistances({.data = rows.data(), .norms = row_norms.data(), .n = tokens.size()},
                              d, picks_from(0), lowered.data());
      for (size_t i = 0; i < tokens.size(); ++i) distance[tokens[i]] = lowered[i];
      tokens.clear();
      row_norms.clear();
      lowered.clear();
    };
    for (Bound& bound : farthest) {
      if (2 * size_t{bound.n_seen} >= picks.size()) {
        compare(bound);
        distance[bound.token] = bound.distance;
        continue;
      }
      residuals.Read(bound.token, std::span(rows).subspan(tokens.size() * d, d));
      tokens.push_back(bound.token);
      row_norms.push_back(norms[bound.token]);
      lowered.push_back(distance[bound.token]);
      if (tokens.size() == kTogether) lower_together();
    }
    lower_together();
  }

  float key_share_;
  double attention_;
  double power_;
  size_t queries_;
  double text_;
  size_t n_picks_;
  double surprisal_;
};

}  // namespace

extern const PolicyInfo kRetentivePolicy = {
    .name = "retentive",
    .summary = "lower the precision of tokens, and evict those that other tokens represent best",
    .evicts = true,
    .scores_are_errors = true,
    .comparable = true,
    .absorb = "clusters",
    .ladder = "auto",
    .split = Split::kAuto,
    .options = kOptions,
    .create = [](std::span<const double> values) -> std::unique_ptr<Policy> {
      return std::make_unique<RetentivePolicy>(values);
    },
};

}  // namespace rkv
