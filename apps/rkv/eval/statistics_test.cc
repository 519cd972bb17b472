// KL, ArgMax and the bootstrap, against values known from theory.
#include "eval/statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "eval/random.h"

namespace rkv::app {
namespace {

TEST(KlDivergenceTest, IsTheSumOverProbabilities) {
  const std::vector<float> p = {1.0f, -2.0f, 0.5f, 3.0f};
  const std::vector<float> q = {0.0f, 1.0f, 2.0f, -1.0f};
  const auto softmax = [](const std::vector<float>& logits) {
    std::vector<double> probabilities;
    double sum = 0;
    for (const float x : logits) sum += std::exp(static_cast<double>(x));
    for (const float x : logits) probabilities.push_back(std::exp(static_cast<double>(x)) / sum);
    return probabilities;
  };
  double expected = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    expected += softmax(p)[i] * std::log(softmax(p)[i] / softmax(q)[i]);
  }
  EXPECT_NEAR(KlDivergence(p, q), expected, 1e-12);
  EXPECT_GT(KlDivergence(q, p), 0);
}

TEST(KlDivergenceTest, IsZeroForTheSameDistribution) {
  const std::vector<float> p = {1.0f, -2.0f, 0.5f};
  const std::vector<float> shifted = {101.0f, 98.0f, 100.5f};
  EXPECT_EQ(KlDivergence(p, p), 0);
  EXPECT_NEAR(KlDivergence(p, shifted), 0, 1e-12);
}

TEST(KlDivergenceTest, IsExactForLargeLogits) {
  const float none = -std::numeric_limits<float>::infinity();
  const std::vector<float> p = {800.0f, 800.0f, none};
  const std::vector<float> q = {800.0f, 800.0f, 800.0f};
  EXPECT_NEAR(KlDivergence(p, q), std::log(1.5), 1e-12);
}

TEST(ArgMaxTest, IsTheFirstOfTheLargest) {
  EXPECT_EQ(ArgMax(std::vector<float>{1.0f, 3.0f, 3.0f, -1.0f}), 1u);
}

TEST(BootstrapTest, ConstantsHaveNoWidth) {
  Ratio ratio;
  for (int i = 0; i < 10; ++i) ratio.Add(3, 4);
  EXPECT_DOUBLE_EQ(ratio.value(), 0.75);
  const Interval interval = BootstrapInterval(ratio, 1);
  EXPECT_DOUBLE_EQ(interval.low, 0.75);
  EXPECT_DOUBLE_EQ(interval.high, 0.75);
  EXPECT_EQ(BootstrapInterval({}, 1).high, 0);
}

TEST(BootstrapTest, IsAsWideAsTheNormalApproximation) {
  EvalRandom random(7);
  Ratio ratio;
  double sum = 0;
  double squares = 0;
  constexpr int kUnits = 400;
  for (int i = 0; i < kUnits; ++i) {
    const double x = static_cast<double>(random.Below(1000)) / 1000;
    ratio.Add(x, 1);
    sum += x;
    squares += x * x;
  }
  const double mean = sum / kUnits;
  const double error = std::sqrt((squares / kUnits - mean * mean) / kUnits);
  const Interval interval = BootstrapInterval(ratio, 3);
  EXPECT_NEAR(interval.low, mean - 1.96 * error, 0.25 * error);
  EXPECT_NEAR(interval.high, mean + 1.96 * error, 0.25 * error);
  EXPECT_EQ(BootstrapInterval(ratio, 3).low, interval.low);
}

TEST(BootstrapTest, DifferencesArePaired) {
  EvalRandom random(8);
  Ratio a;
  Ratio b;
  for (int i = 0; i < 50; ++i) {
    const double x = static_cast<double>(random.Below(1000)) / 1000;
    a.Add(x + 0.1, 1);
    b.Add(x, 1);
  }
  const Interval difference = BootstrapDifference(a, b, 5);
  EXPECT_NEAR(difference.low, 0.1, 1e-9);
  EXPECT_NEAR(difference.high, 0.1, 1e-9);
  EXPECT_GT(BootstrapInterval(a, 5).high - BootstrapInterval(a, 5).low, 0.05);
}

TEST(BootstrapTest, RatiosWeighUnitsByTheirSize) {
  Ratio ratio;
  ratio.Add(0, 1);
  ratio.Add(9, 9);
  EXPECT_DOUBLE_EQ(ratio.value(), 0.9);
}

}  // namespace
}  // namespace rkv::app
