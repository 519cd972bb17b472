#include "eval/conversations.h"

#include <gtest/gtest.h>

namespace rkv::app {
namespace {

TEST(ConversationsTest, AnswersAreComparedWithoutCaseSpaceAndPunctuationAround) {
  EXPECT_EQ(NormalizeAnswer("  The  Total\nis \"$12.50\". "), "the total is \"$12.50");
  EXPECT_EQ(NormalizeAnswer("(May 3)"), "may 3");
  EXPECT_EQ(NormalizeAnswer(" ... "), "");
  EXPECT_EQ(NormalizeAnswer(""), "");
  EXPECT_EQ(NormalizeAnswer("-5"), "-5");
  EXPECT_TRUE(IsRightAnswer("Five.", {"5", "five"}));
  EXPECT_FALSE(IsRightAnswer("fifty-five", {"5", "five"}));
  EXPECT_FALSE(IsRightAnswer("5", {"-5"}));
  EXPECT_FALSE(IsRightAnswer("x", {}));
}

}  // namespace
}  // namespace rkv::app
