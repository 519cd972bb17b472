#include "base/deep_stack.h"

#include <gtest/gtest.h>

#include <stdexcept>

namespace rkv {
namespace {

// Takes some 200 bytes of stack per level. The compiler cannot turn it into a loop.
size_t Depth(size_t levels) {
  volatile char frame[128] = {};
  frame[levels % sizeof(frame)] = 1;
  return levels == 0 ? 0 : Depth(levels - 1) + static_cast<size_t>(frame[levels % sizeof(frame)]);
}

TEST(DeepStackTest, HoldsWhatTheUsualStackDoesNot) {
  constexpr size_t kLevels = 200000;
  size_t depth = 0;
  ASSERT_TRUE(RunOnStackOf(size_t{512} << 20, [&] { depth = Depth(kLevels); }).ok());
  EXPECT_EQ(depth, kLevels);
}

TEST(DeepStackTest, PassesExceptionsOn) {
  EXPECT_THROW((void)RunOnStackOf(1 << 20, [] { throw std::runtime_error("no"); }),
               std::runtime_error);
}

TEST(DeepStackTest, RefusesAStackThatDoesNotFit) {
  bool ran = false;
  const Status status = RunOnStackOf(size_t{1} << 60, [&] { ran = true; });
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_FALSE(ran);
}

}  // namespace
}  // namespace rkv
