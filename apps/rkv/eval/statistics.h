// Statistics that `rkv eval` computes from logits and conversations.
#ifndef RETENTIVEKV_APPS_RKV_EVAL_STATISTICS_H_
#define RETENTIVEKV_APPS_RKV_EVAL_STATISTICS_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace rkv::app {

// KL(softmax(p) || softmax(q)) in nats; never below 0. REQUIRES: equal lengths, not empty.
double KlDivergence(std::span<const float> p, std::span<const float> q);

size_t ArgMax(std::span<const float> values);  // the first of equal maxima

struct Interval {
  double low = 0;
  double high = 0;
};

// A ratio of sums over independently measured units: conversations, or blocks of text.
struct Ratio {
  std::vector<double> numerators;    // one for each unit
  std::vector<double> denominators;  // one for each unit

  void Add(double numerator, double denominator) {
    numerators.push_back(numerator);
    denominators.push_back(denominator);
  }
  double value() const;  // 0 without units
};

// The percentile bootstrap over units, at 95 %.
Interval BootstrapInterval(const Ratio& ratio, uint64_t seed, int n_resamples = 2000);
// The interval of a - b over the same units, which are resampled together.
Interval BootstrapDifference(const Ratio& a, const Ratio& b, uint64_t seed, int n_resamples = 2000);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_EVAL_STATISTICS_H_
