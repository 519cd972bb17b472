#include "kernels/distance.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/random.h"
#include "support/each_target.h"

namespace rkv {
namespace {

// Some distances are lowered and others are not.
void CheckDistances(Random& random, size_t n, size_t d, size_t n_from) {
  SCOPED_TRACE(testing::Message() << n << " rows of " << d << ", " << n_from << " points");
  std::vector<float> rows(n * d), points(n_from * d), norms(n, -1.0f), distances(n), least(n);
  for (float& x : rows) x = static_cast<float>(random.NextGaussian());
  for (float& x : points) x = static_cast<float>(random.NextGaussian());
  // Near rows, and a copy.
  for (size_t f = 0; f < std::min(n, n_from); f += 2) {
    const float step = f == 0 ? 0.0f : std::pow(10.0f, -static_cast<float>(f % 5));
    for (size_t e = 0; e < d; ++e) points[f * d + e] = rows[f * d + e] + step * points[f * d + e];
  }
  for (float& x : distances)
    x = static_cast<float>(4.0 * random.NextDouble() * static_cast<double>(d));
  const std::vector<float> before = distances;
  std::vector<const float*> from;
  for (size_t f = 0; f < n_from; ++f) from.push_back(points.data() + f * d);
  std::vector<size_t> nearest(n, n_from);
  SquaredNorms(rows.data(), n, d, norms.data());
  std::vector<float> point_norms(n_from);
  SquaredNorms(points.data(), n_from, d, point_norms.data());
  const NormedRows normed{.data = rows.data(), .norms = norms.data(), .n = n};
  const NormedPoints to{.data = from.data(), .norms = point_norms.data(), .n = n_from};
  LowerToSquaredDistances(normed, d, to, distances.data());
  FindNearest(normed, d, to, least.data(), nearest.data());
  std::vector<float> pairs(n * n_from);
  SquaredDistances(normed, d, to, pairs.data());
  for (size_t i = 0; i < n; ++i) {
    double norm = 0;
    for (size_t e = 0; e < d; ++e) {
      norm += std::pow(static_cast<double>(rows[i * d + e]), 2);
    }
    EXPECT_NEAR(static_cast<double>(norms[i]), norm, kDistanceErrorBound * norm);
    std::vector<double> expected(n_from);
    for (size_t f = 0; f < n_from; ++f) {
      for (size_t e = 0; e < d; ++e) {
        expected[f] += std::pow(
            static_cast<double>(rows[i * d + e]) - static_cast<double>(points[f * d + e]), 2);
      }
    }
    for (size_t f = 0; f < n_from; ++f) {
      EXPECT_NEAR(static_cast<double>(pairs[i * n_from + f]), expected[f],
                  kPairDistanceErrorBound * expected[f]);
    }
    const double shortest = *std::ranges::min_element(expected);
    ASSERT_LT(nearest[i], n_from);
    EXPECT_NEAR(expected[nearest[i]], shortest, 2 * kDistanceErrorBound * shortest);
    EXPECT_NEAR(static_cast<double>(least[i]), shortest, kDistanceErrorBound * shortest);
    const double lowered = std::min(shortest, static_cast<double>(before[i]));
    EXPECT_NEAR(static_cast<double>(distances[i]), lowered, kDistanceErrorBound * lowered);
  }
}

TEST(DistanceTest, MatchesDoublePrecisionOnEveryTarget) {
  ForEachTarget([] {
    Random random(1);
    for (const size_t d : {1, 3, 8, 31, 64, 100, 256, 1024}) {
      for (const size_t n : {1, 4, 7}) {
        for (const size_t n_from : {1, 2, 19, 50}) CheckDistances(random, n, d, n_from);
      }
    }
  });
}

TEST(DistanceTest, DotProductsMatchDoublePrecisionOnEveryTarget) {
  ForEachTarget([] {
    Random random(3);
    for (const size_t d : {1, 3, 8, 31, 64, 100, 256, 1024}) {
      for (const size_t n : {1, 2, 3, 4, 5, 17}) {
        std::vector<float> rows(n * d), x(d), dots(n + 1, 7.0f);
        for (float& value : rows) value = static_cast<float>(random.NextGaussian());
        for (float& value : x) value = static_cast<float>(random.NextGaussian());
        DotProducts(rows.data(), n, d, x.data(), dots.data());
        for (size_t i = 0; i < n; ++i) {
          double dot = 0, norm = 0, x_norm = 0;
          for (size_t e = 0; e < d; ++e) {
            const auto a = static_cast<double>(rows[i * d + e]);
            const auto b = static_cast<double>(x[e]);
            dot += a * b;
            norm += a * a;
            x_norm += b * b;
          }
          EXPECT_NEAR(static_cast<double>(dots[i]), dot, kDotErrorBound * std::sqrt(norm * x_norm))
              << d << " elements, row " << i << " of " << n;
        }
        EXPECT_EQ(dots[n], 7.0f);
      }
    }
  });
}

TEST(DistanceTest, IndexOfMinIsThatOfTheFirst) {
  ForEachTarget([] {
    Random random(2);
    for (size_t n = 1; n < 100; ++n) {
      std::vector<float> x(n);
      for (float& value : x) value = static_cast<float>(random.NextBelow(n / 2 + 2));
      for (size_t i = 0; i < n; i += 3) x[i] = std::numeric_limits<float>::infinity();
      EXPECT_EQ(IndexOfMin(x.data(), n),
                static_cast<size_t>(std::ranges::min_element(x) - x.begin()));
    }
  });
}

}  // namespace
}  // namespace rkv
