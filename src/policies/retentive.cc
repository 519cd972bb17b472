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
    static const int mode = getenv("MODE") ? atoi(getenv("MODE")) : 0;
    static const float tw = getenv("TW") ? atof(getenv("TW")) : 1;
    if (mode <= 1) {
      std::vector<uint32_t> group(scores.size());
      for (size_t i = 0; i < scores.size(); ++i)
        group[i] = mode == 0 ? 0 : context.tokens[i].modality == Modality::kText ? 0 : 1 + context.tokens[i].media;
      AddResiduals(context.keys, key_share_, scores, group);
      AddResiduals(context.values, 1.0f - key_share_, scores, group);
    } else {
      Farthest(context, scores, mode);
    }
    for (size_t i = 0; i < scores.size(); ++i)
      if (context.tokens[i].modality == Modality::kText) scores[i] *= tw;
    static const float vp = getenv("VP") ? atof(getenv("VP")) : 0;
    if (vp != 0) {
      std::vector<float> m(context.values.d); double t = 0;
      for (size_t i = 0; i < scores.size(); ++i) for (size_t e = 0; e < m.size(); ++e) m[e] += context.values.row(i)[e] / scores.size();
      for (size_t i = 0; i < scores.size(); ++i) for (size_t e = 0; e < m.size(); ++e) { double q = context.values.row(i)[e] - m[e]; t += q*q; }
      const float f = std::pow(t / scores.size(), vp);
      for (float& s : scores) s *= f;
    }
    static const float lw = getenv("LW") ? atof(getenv("LW")) : 1;
    for (float& s : scores) s *= std::pow(lw, context.layer);
    static const float ex = getenv("EX") ? atof(getenv("EX")) : 1;
    if (ex != 1) for (float& s : scores) s = std::pow(s, ex);
  }

 private:
  void Farthest(const ScoreContext& context, std::span<float> scores, int mode) const {
    const size_t n = scores.size();
    const size_t d = context.keys.d + context.values.d;
    std::vector<float> x(n * d), mean(d);
    for (size_t i = 0; i < n; ++i) {
      std::copy_n(context.keys.row(i).data(), context.keys.d, x.data() + i * d);
      std::copy_n(context.values.row(i).data(), context.values.d, x.data() + i * d + context.keys.d);
    }
    for (size_t i = 0; i < n; ++i) for (size_t e = 0; e < d; ++e) mean[e] += x[i * d + e] / n;
    double kv = 0, vv = 0;
    for (size_t i = 0; i < n; ++i) for (size_t e = 0; e < d; ++e) { double t = x[i*d+e]-mean[e]; (e < context.keys.d ? kv : vv) += t*t; }
    const float ks = std::sqrt(key_share_ * n / std::max(kv, 1e-20)), vs = std::sqrt((1 - key_share_) * n / std::max(vv, 1e-20));
    for (size_t i = 0; i < n; ++i) for (size_t e = 0; e < d; ++e) x[i*d+e] = (x[i*d+e] - mean[e]) * (e < context.keys.d ? ks : vs);
    std::vector<float> dist(n);
    std::vector<bool> done(n);
    for (size_t i = 0; i < n; ++i) { float t = 0; for (size_t e = 0; e < d; ++e) t += x[i*d+e]*x[i*d+e]; dist[i] = mode == 3 ? 1e30f : t; }
    for (size_t r = 0; r < n; ++r) {
      size_t best = n;
      for (size_t i = n; i-- > 0;) if (!done[i] && (best == n || dist[i] > dist[best])) best = i;
      done[best] = true;
      scores[best] = std::min(dist[best], 1e6f);
      for (size_t i = 0; i < n; ++i) if (!done[i]) {
        float t = 0; for (size_t e = 0; e < d; ++e) { float q = x[i*d+e]-x[best*d+e]; t += q*q; }
        dist[i] = std::min(dist[i], t);
      }
    }
  }

  // Squared distances to the mean, in units of their own mean.
  static void AddResiduals(const RowsView& rows, float share, std::span<float> scores, const std::vector<uint32_t>& group) {
    const size_t n_groups = 1 + *std::ranges::max_element(group);
    std::vector<float> mean(rows.d * n_groups), count(n_groups);
    for (size_t i = 0; i < rows.n; ++i) {
      for (size_t e = 0; e < rows.d; ++e) mean[group[i] * rows.d + e] += rows.row(i)[e];
      count[group[i]] += 1;
    }
    for (size_t g = 0; g < n_groups; ++g)
    for (size_t e = 0; e < rows.d; ++e) mean[g * rows.d + e] /= std::max(count[g], 1.f);
    std::vector<float> distance(rows.n);
    float total = 0;
    for (size_t i = 0; i < rows.n; ++i) {
      for (size_t e = 0; e < rows.d; ++e) {
        const float difference = rows.row(i)[e] - mean[group[i] * rows.d + e];
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
