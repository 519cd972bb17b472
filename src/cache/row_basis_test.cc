#include "cache/row_basis.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/random.h"
#include "kernels/element.h"

namespace rkv {
namespace {

constexpr size_t kSizes[] = {1, 2, 7, 24, 32, 48, 64, 80, 96, 128, 160, 192, 256};

std::vector<RopeLayout> LayoutsFor(size_t d) {
  std::vector<RopeLayout> layouts = {{}};
  for (const RopePairs pairs : {RopePairs::kAdjacent, RopePairs::kHalves}) {
    for (const size_t n_rot : {d, d / 2, d / 4})
      layouts.push_back({.pairs = pairs, .n_rot = n_rot});
  }
  return layouts;
}

TEST(RowBasisTest, IsOrthonormalAndGoesBack) {
  Random random(3);
  for (const size_t d : kSizes) {
    std::vector<RowBasis> bases = {RowBasis(d)};
    for (const RopeLayout& rope : LayoutsFor(d)) bases.emplace_back(d, rope);
    for (const RowBasis& basis : bases) {
      std::vector<float> x(d), y(d);
      for (float& e : x) e = static_cast<float>(random.NextGaussian());
      for (float& e : y) e = static_cast<float>(random.NextGaussian());
      std::vector<float> bx = x, by = y;
      basis.To(bx.data());
      basis.To(by.data());
      double dot = 0, in_basis = 0;
      for (size_t i = 0; i < d; ++i) {
        dot += static_cast<double>(x[i]) * static_cast<double>(y[i]);
        in_basis += static_cast<double>(bx[i]) * static_cast<double>(by[i]);
      }
      EXPECT_NEAR(in_basis, dot, 1e-4) << d;
      basis.From(bx.data());
      for (size_t i = 0; i < d; ++i) EXPECT_NEAR(bx[i], x[i], 1e-5) << d;
    }
  }
}

// Each element alone: the half in which it lands has all of it.
TEST(RowBasisTest, TheFirstHalfHasWhatTurnsSlowly) {
  for (const size_t d : {64, 80, 96, 128, 192}) {
    const size_t border = FirstBlocks(BlocksOf(d)) * kQuantBlock;
    for (const RopeLayout& rope : LayoutsFor(d)) {
      const RowBasis basis(d, rope);
      const size_t n_rot = rope.pairs == RopePairs::kNone ? 0 : rope.n_rot;
      for (size_t i = 0; i < d; ++i) {
        std::vector<float> x(d);
        x[i] = 1.0f;
        basis.To(x.data());
        double first = 0;
        for (size_t e = 0; e < border; ++e) first += static_cast<double>(x[e] * x[e]);
        // How many elements turn at most as slowly as this one's pair.
        size_t pair = rope.pairs == RopePairs::kAdjacent ? i / 2 : i % (n_rot / 2 + (n_rot == 0));
        const size_t place = i >= n_rot ? i - n_rot : d - n_rot + 2 * (n_rot / 2 - 1 - pair);
        EXPECT_NEAR(first, place < border ? 1.0 : 0.0, 1e-5) << d << " " << i << " " << n_rot;
      }
    }
  }
}

// With the order kept, blocks are as large as possible.
TEST(RowBasisTest, WithoutMixedTypesItIsTheRotation) {
  Random random(5);
  for (const size_t d : kSizes) {
    std::vector<float> x(d);
    for (float& e : x) e = static_cast<float>(random.NextGaussian());
    std::vector<float> rotated = x;
    RotateRow(rotated.data(), d);
    RowBasis(d).To(x.data());
    EXPECT_EQ(x, rotated);
  }
}

}  // namespace
}  // namespace rkv
