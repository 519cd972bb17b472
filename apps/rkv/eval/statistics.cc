#include "eval/statistics.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "eval/random.h"

namespace rkv::app {

namespace {

double LogSumExp(std::span<const float> values) {
  const double max = *std::ranges::max_element(values);
  double sum = 0;
  for (const float value : values) sum += std::exp(value - max);
  return max + std::log(sum);
}

double ValueOf(const Ratio& ratio, std::span<const size_t> units) {
  double numerator = 0;
  double denominator = 0;
  for (const size_t unit : units) {
    numerator += ratio.numerators[unit];
    denominator += ratio.denominators[unit];
  }
  return denominator == 0 ? 0 : numerator / denominator;
}

Interval Bootstrap(size_t n_units, uint64_t seed, int n_resamples,
                   const std::function<double(std::span<const size_t>)>& statistic) {
  if (n_units == 0) return {};
  EvalRandom random(seed);
  std::vector<size_t> units(n_units);
  std::vector<double> values(static_cast<size_t>(n_resamples));
  for (double& value : values) {
    for (size_t& unit : units) unit = random.Below(n_units);
    value = statistic(units);
  }
  std::ranges::sort(values);
  const auto at = [&values](double quantile) {
    return values[static_cast<size_t>(quantile * static_cast<double>(values.size() - 1) + 0.5)];
  };
  return {.low = at(0.025), .high = at(0.975)};
}

}  // namespace

double KlDivergence(std::span<const float> p, std::span<const float> q) {
  const double p_norm = LogSumExp(p);
  const double q_norm = LogSumExp(q);
  double kl = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double log_p = p[i] - p_norm;
    const double probability = std::exp(log_p);
    if (probability > 0) kl += probability * (log_p - (q[i] - q_norm));
  }
  return std::max(kl, 0.0);
}

size_t ArgMax(std::span<const float> values) {
  return static_cast<size_t>(std::ranges::max_element(values) - values.begin());
}

double Ratio::value() const {
  double numerator = 0;
  double denominator = 0;
  for (const double x : numerators) numerator += x;
  for (const double x : denominators) denominator += x;
  return denominator == 0 ? 0 : numerator / denominator;
}

Interval BootstrapInterval(const Ratio& ratio, uint64_t seed, int n_resamples) {
  return Bootstrap(ratio.numerators.size(), seed, n_resamples,
                   [&](std::span<const size_t> units) { return ValueOf(ratio, units); });
}

Interval BootstrapDifference(const Ratio& a, const Ratio& b, uint64_t seed, int n_resamples) {
  return Bootstrap(
      std::min(a.numerators.size(), b.numerators.size()), seed, n_resamples,
      [&](std::span<const size_t> units) { return ValueOf(a, units) - ValueOf(b, units); });
}

}  // namespace rkv::app
