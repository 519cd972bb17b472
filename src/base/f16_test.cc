#include "base/f16.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace rkv {
namespace {

TEST(F16Test, EveryHalfSurvivesTheRoundTrip) {
  for (uint32_t h = 0; h < 0x10000; ++h) {
    const float f = F32FromF16(static_cast<uint16_t>(h));
    if (std::isnan(f)) {
      EXPECT_TRUE(std::isnan(F32FromF16(F16FromF32(f))));
    } else {
      ASSERT_EQ(F16FromF32(f), h) << f;
    }
  }
}

TEST(F16Test, KnownValues) {
  EXPECT_EQ(F32FromF16(0x3C00), 1.0f);
  EXPECT_EQ(F32FromF16(0xC000), -2.0f);
  EXPECT_EQ(F32FromF16(0x0001), 0x1p-24f);
  EXPECT_EQ(F32FromF16(0x7BFF), 65504.0f);
  EXPECT_EQ(F32FromF16(0x7C00), std::numeric_limits<float>::infinity());
}

TEST(F16Test, RoundsToNearestEven) {
  EXPECT_EQ(F16FromF32(1.0f + 0x1p-11f), 0x3C00);      // Halfway: to even.
  EXPECT_EQ(F16FromF32(1.0f + 3 * 0x1p-11f), 0x3C02);  // Halfway: to even.
  EXPECT_EQ(F16FromF32(1.0f + 0x1p-11f + 0x1p-20f), 0x3C01);
  EXPECT_EQ(F16FromF32(65520.0f), 0x7C00);
  EXPECT_EQ(F16FromF32(65519.0f), 0x7BFF);
  EXPECT_EQ(F16FromF32(0x1p-25f), 0x0000);  // Halfway to the first subnormal.
  EXPECT_EQ(F16FromF32(-0x1.8p-25f), 0x8001);
}

}  // namespace
}  // namespace rkv
