#include "kernels/element.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "base/f16.h"
#include "base/random.h"
#include "support/each_target.h"

namespace rkv {
namespace {

const std::vector<ElementType> kTypes = [] {
  std::vector<ElementType> types;
  for (size_t i = 0; i < kElementTypes; ++i) types.push_back(static_cast<ElementType>(i));
  return types;
}();

std::vector<float> RandomRow(Random& random, size_t d, double scale) {
  std::vector<float> x(d);
  for (float& e : x) e = static_cast<float>(scale * random.NextGaussian());
  return x;
}

std::vector<float> RoundTrip(ElementType type, const std::vector<float>& x) {
  std::vector<uint8_t> row(RowBytes(type, x.size()) + 1, 0xAB);
  EncodeRow(type, x.data(), x.size(), row.data());
  EXPECT_EQ(row.back(), 0xAB) << "wrote past the row";
  std::vector<float> decoded(x.size() + 1, 77.0f);
  DecodeRow(type, row.data(), x.size(), decoded.data());
  EXPECT_EQ(decoded.back(), 77.0f) << "decoded past the row";
  decoded.pop_back();
  return decoded;
}

TEST(ElementTest, BytesPerElement) {
  EXPECT_EQ(RowBytes(ElementType::kF16, 80), 160u);
  EXPECT_EQ(RowBytes(ElementType::kQ8_0, 64), 68u);
  EXPECT_EQ(RowBytes(ElementType::kQ4_0, 64), 36u);
  EXPECT_EQ(RowBytes(ElementType::kQ3, 64), 26u);
  EXPECT_EQ(RowBytes(ElementType::kQ2, 64), 18u);
  EXPECT_EQ(RowBytes(ElementType::kQ2, 80), 27u);  // padded to 96
  for (const size_t d : {32, 64, 96, 128, 256}) {
    EXPECT_LE(8.0 * static_cast<double>(RowBytes(ElementType::kQ2, d)) / static_cast<double>(d),
              2.75);
  }
}

TEST(ElementTest, RoundTripsWithinTheStatedBound) {
  Random random(5);
  for (const ElementType type : kTypes) {
    for (const size_t d : {1, 7, 16, 31, 32, 33, 64, 80, 96, 128, 255, 256}) {
      for (const double scale : {1e-3, 1.0, 300.0}) {
        const std::vector<float> x = RandomRow(random, d, scale);
        const std::vector<float> decoded = RoundTrip(type, x);
        for (size_t i = 0; i < d; ++i) {
          double reference = std::abs(static_cast<double>(x[i]));
          if (IsQuantized(type)) {
            const size_t begin = i / kQuantBlock * kQuantBlock;
            for (size_t j = begin; j < std::min(d, begin + kQuantBlock); ++j) {
              reference = std::max(reference, std::abs(static_cast<double>(x[j])));
            }
          }
          // Below 2^-14, f16 and the f16 scales of blocks lose precision.
          const double smallest = type == ElementType::kBF16 ? 1e-30 : 127 * 0x1p-25;
          EXPECT_LE(std::abs(static_cast<double>(decoded[i]) - static_cast<double>(x[i])),
                    ElementErrorBound(type) * reference + smallest)
              << ToString(type) << " d " << d << " element " << i;
        }
      }
    }
  }
}

TEST(ElementTest, RowsBeginAnywhere) {
  Random random(6);
  const std::vector<float> x = RandomRow(random, 80, 1.0);
  for (const ElementType type : kTypes) {
    const size_t n = RowBytes(type, x.size());
    std::vector<uint8_t> aligned(n), odd(n + 1);
    EncodeRow(type, x.data(), x.size(), aligned.data());
    EncodeRow(type, x.data(), x.size(), odd.data() + 1);
    EXPECT_EQ(std::memcmp(aligned.data(), odd.data() + 1, n), 0);
    std::vector<float> decoded(x.size());
    DecodeRow(type, odd.data() + 1, x.size(), decoded.data());
    EXPECT_EQ(decoded, RoundTrip(type, x));
  }
}

TEST(ElementTest, ZerosStayZerosAndConstantsSurvive) {
  for (const ElementType type : kTypes) {
    for (const float x : RoundTrip(type, std::vector<float>(70, 0.0f))) EXPECT_EQ(x, 0.0f);
    // Any block of two opposite values has an exact or nearly exact code in every type.
    std::vector<float> x(64, 1.5f);
    for (size_t i = 0; i < x.size(); i += 3) x[i] = -1.5f;
    for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(RoundTrip(type, x)[i], x[i], 0.23) << i;
  }
}

TEST(ElementTest, GaussianErrorsAreAsTheLadderReckons) {
  Random random(9);
  for (const ElementType type : kTypes) {
    double error = 0;
    double square = 0;
    for (int round = 0; round < 2000; ++round) {
      const std::vector<float> x = RandomRow(random, 64, 1.0);
      const std::vector<float> decoded = RoundTrip(type, x);
      for (size_t i = 0; i < x.size(); ++i) {
        const double e = static_cast<double>(decoded[i]) - static_cast<double>(x[i]);
        error += e * e;
        square += static_cast<double>(x[i]) * static_cast<double>(x[i]);
      }
    }
    EXPECT_NEAR(error / square / GaussianError(type), 1.0, 0.25)
        << ToString(type) << " " << error / square;
  }
}

// The layouts are llama.cpp's, written out here from their definition.
TEST(ElementTest, LayoutsAreLlamaCpps) {
  Random random(3);
  const std::vector<float> x = RandomRow(random, 32, 2.0);
  uint8_t q8[34];
  EncodeRow(ElementType::kQ8_0, x.data(), 32, q8);
  uint8_t q4[18];
  EncodeRow(ElementType::kQ4_0, x.data(), 32, q4);
  float extreme = 0;
  for (const float e : x) extreme = std::abs(e) > std::abs(extreme) ? e : extreme;
  uint16_t half;
  std::memcpy(&half, q8, 2);
  EXPECT_EQ(half, F16FromF32(std::abs(extreme) / 127.0f));
  std::memcpy(&half, q4, 2);
  EXPECT_EQ(half, F16FromF32(extreme / -8.0f));
  for (size_t i = 0; i < 32; ++i) {
    EXPECT_EQ(static_cast<int8_t>(q8[2 + i]), std::lround(x[i] * 127.0f / std::abs(extreme))) << i;
    const int nibble = i < 16 ? q4[2 + i] & 15 : q4[2 + i - 16] >> 4;
    EXPECT_EQ(nibble, std::min(15, static_cast<int>(x[i] * -8.0f / extreme + 8.5f))) << i;
  }
}

TEST(ElementTest, Q2IsAtLeastAsGoodAsItsNeighbouringScales) {
  Random random(21);
  for (int round = 0; round < 50; ++round) {
    const std::vector<float> x = RandomRow(random, 32, std::exp(3 * random.NextGaussian()));
    uint8_t row[9];
    EncodeRow(ElementType::kQ2, x.data(), 32, row);
    const auto error = [&x](uint8_t code) {
      const double step = static_cast<double>(ScaleOfByte(code));
      double sum = 0;
      for (const float e : x) {
        const double level = std::clamp(std::floor(static_cast<double>(e) / step), -2.0, 1.0) + 0.5;
        sum += std::pow(static_cast<double>(e) - level * step, 2);
      }
      return sum;
    };
    for (const int other : {-2, -1, 1, 2}) {
      EXPECT_LE(error(row[0]), 1.0001 * error(static_cast<uint8_t>(row[0] + other)));
    }
  }
}

TEST(ElementTest, ScaleOfAByteIsAPowerOfTheEighthRootOfTwo) {
  EXPECT_EQ(ScaleOfByte(0), 0.0f);
  for (int code = 1; code < 256; ++code) {
    EXPECT_NEAR(static_cast<double>(ScaleOfByte(static_cast<uint8_t>(code))) /
                    std::exp2((code - 144) / 8.0),
                1.0, 1e-6)
        << code;
  }
}

TEST(RotationTest, IsOrthonormalSymmetricAndItsOwnInverse) {
  Random random(2);
  for (const size_t d : {1, 2, 24, 32, 64, 80, 96, 128, 192, 256}) {
    const std::vector<float> x = RandomRow(random, d, 1.0);
    const std::vector<float> y = RandomRow(random, d, 1.0);
    std::vector<float> rx = x, ry = y;
    RotateRow(rx.data(), d);
    RotateRow(ry.data(), d);
    double xy = 0, rotated = 0, x_ry = 0, rx_y = 0;
    for (size_t i = 0; i < d; ++i) {
      xy += static_cast<double>(x[i]) * static_cast<double>(y[i]);
      rotated += static_cast<double>(rx[i]) * static_cast<double>(ry[i]);
      x_ry += static_cast<double>(x[i]) * static_cast<double>(ry[i]);
      rx_y += static_cast<double>(rx[i]) * static_cast<double>(y[i]);
    }
    EXPECT_NEAR(rotated, xy, 1e-4) << d;
    EXPECT_NEAR(x_ry, rx_y, 1e-4) << d;
    RotateRow(rx.data(), d);
    for (size_t i = 0; i < d; ++i) EXPECT_NEAR(rx[i], x[i], 1e-5) << d;
  }
}

// One row of the matrix, by its definition: the sign is the parity of the common bits.
TEST(RotationTest, IsTheHadamardMatrixOfTheLargestPowerOfTwo) {
  for (const size_t d : {8, 24, 64}) {
    const size_t n = d & (~d + 1);
    for (size_t column = 0; column < d; ++column) {
      std::vector<float> x(d);
      x[column] = 1.0f;
      RotateRow(x.data(), d);
      for (size_t row = 0; row < d; ++row) {
        const bool same_block = row / n == column / n;
        const double sign = __builtin_parityll((row % n) & (column % n)) != 0 ? -1.0 : 1.0;
        EXPECT_NEAR(static_cast<double>(x[row]),
                    same_block ? sign / std::sqrt(static_cast<double>(n)) : 0.0, 1e-6);
      }
    }
  }
}

TEST(RotationTest, SpreadsOutliersSoThatFewBitsAreEnough) {
  Random random(8);
  double plain = 0;
  double rotated = 0;
  for (int round = 0; round < 100; ++round) {
    std::vector<float> x = RandomRow(random, 64, 1.0);
    x[5] *= 20.0f;
    const auto error = [](const std::vector<float>& row) {
      const std::vector<float> decoded = RoundTrip(ElementType::kQ2, row);
      double sum = 0;
      for (size_t i = 0; i < row.size(); ++i) {
        sum += std::pow(static_cast<double>(decoded[i]) - static_cast<double>(row[i]), 2);
      }
      return sum;
    };
    plain += error(x);
    RotateRow(x.data(), 64);
    rotated += error(x);
  }
  EXPECT_LT(rotated, 0.8 * plain);
}

TEST(ElementTest, EveryTargetDecodesAlike) {
  Random random(4);
  const std::vector<float> x = RandomRow(random, 100, 1.0);
  for (const ElementType type : kTypes) {
    const std::vector<float> expected = RoundTrip(type, x);
    ForEachTarget([&] { EXPECT_EQ(RoundTrip(type, x), expected) << ToString(type); });
  }
}

// docs/formats.md: 2 + floor(element / step) in 0..3, for elements i, i + 8, i + 16 and i + 24 in
// byte i. NaN is 0.
TEST(ElementTest, Q2CodesAreThoseOfTheFormatOnEveryTarget) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const std::vector<std::pair<size_t, float>> specials = {
      {3, std::numeric_limits<float>::quiet_NaN()}, {9, kInfinity}, {31, -kInfinity}, {12, -0.0f}};
  ForEachTarget([&] {
    Random random(6);
    for (int round = 0; round < 60; ++round) {
      std::vector<float> x = RandomRow(random, kQuantBlock, std::pow(2.0, round % 20 - 10));
      if (round % 4 == 1) std::ranges::fill(x, 0.0f);
      for (const auto& [i, special] : specials) {
        if (round % 4 > 1) x[i] = special;
      }
      uint8_t block[UnitBytes(ElementType::kQ2)];
      EncodeRow(ElementType::kQ2, x.data(), kQuantBlock, block);
      const float step = ScaleOfByte(block[0]);
      for (size_t i = 0; i < kQuantBlock; ++i) {
        const float level = step > 0 ? std::floor(x[i] * (1.0f / step)) : std::floor(x[i] * 0.0f);
        const int expected = level >= -2 ? static_cast<int>(std::min(level, 1.0f)) + 2 : 0;
        EXPECT_EQ((block[1 + i % 8] >> (2 * (i / 8))) & 3, expected) << x[i] << " by " << step;
      }
    }
  });
}

}  // namespace
}  // namespace rkv
