#include "serve/stop_filter.h"

#include <gtest/gtest.h>

namespace rkv::app {
namespace {

// The text shown for input in pieces of `n` bytes.
std::string Shown(const std::string& text, std::vector<std::string> stops, size_t n,
                  bool* stopped = nullptr) {
  StopFilter filter(std::move(stops));
  std::string shown;
  for (size_t i = 0; i < text.size(); i += n) {
    shown += filter.Push(std::string_view(text).substr(i, n));
  }
  if (stopped != nullptr) *stopped = filter.stopped();
  return shown + filter.Finish();
}

TEST(StopFilterTest, CutsAtTheFirstStopWhateverThePieces) {
  for (size_t n = 1; n < 20; ++n) {
    bool stopped = false;
    EXPECT_EQ(Shown("one two END three", {"END", "three"}, n, &stopped), "one two ") << n;
    EXPECT_TRUE(stopped);
    EXPECT_EQ(Shown("aaab", {"aab"}, n), "a") << n;
    EXPECT_EQ(Shown("one EN two", {"END"}, n, &stopped), "one EN two") << n;
    EXPECT_FALSE(stopped);
    EXPECT_EQ(Shown("one EN", {"END"}, n), "one EN") << n;
    EXPECT_EQ(Shown("text", {}, n), "text") << n;
    EXPECT_EQ(Shown("text", {""}, n), "text") << n;
  }
}

TEST(StopFilterTest, HoldsBackOnlyWhatMayBecomeAStop) {
  StopFilter filter({"</s>"});
  EXPECT_EQ(filter.Push("a<"), "a");
  EXPECT_EQ(filter.Push("b"), "<b");
  EXPECT_EQ(filter.Push("c</"), "c");
  EXPECT_EQ(filter.Push("s>d"), "");
  EXPECT_TRUE(filter.stopped());
  EXPECT_EQ(filter.Push("more"), "");
  EXPECT_EQ(filter.Finish(), "");
}

}  // namespace
}  // namespace rkv::app
