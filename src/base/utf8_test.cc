#include "base/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace rkv {
namespace {

TEST(Utf8Test, HoldsBackOnlyIncompleteCharacters) {
  const std::string text = "aé漢😀";  // 1 + 2 + 3 + 4 bytes
  const size_t complete[] = {0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10};
  ASSERT_EQ(text.size(), 10u);
  for (size_t n = 0; n <= text.size(); ++n) {
    EXPECT_EQ(CompleteUtf8Prefix(std::string_view(text).substr(0, n)), complete[n]) << n;
  }
}

TEST(Utf8Test, GarbagePasses) {
  EXPECT_EQ(CompleteUtf8Prefix("\x80\x80\x80\x80"), 4u);
  EXPECT_EQ(CompleteUtf8Prefix("a\xBF"), 2u);
}

}  // namespace
}  // namespace rkv
