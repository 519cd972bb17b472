#include "chat/message.h"

#include <gtest/gtest.h>

namespace rkv::app {
namespace {

TEST(MessageTest, ABackslashThatNothingEscapesGoesOn) {
  for (const char* text : {"\\", "a\\", "a\\\\\\"}) EXPECT_TRUE(EndsInBackslash(text)) << text;
  for (const char* text : {"", "a", "a\\\\", "\\a"}) EXPECT_FALSE(EndsInBackslash(text)) << text;
}

TEST(MessageTest, ABlockIsOpenUntilItsQuotesEnd) {
  for (const char* text : {"\"\"\"", "\"\"\"a", "\"\"\"a\nb", "\"\"\"a\"\"\" \"\"\""}) {
    EXPECT_TRUE(InOpenBlock(text)) << text;
  }
  for (const char* text : {"", "\"\"", "a \"\"\"", "\"\"\"\"\"\"", "\"\"\"a\nb\"\"\""}) {
    EXPECT_FALSE(InOpenBlock(text)) << text;
  }
}

TEST(MessageTest, OnlyAWholeBlockIsUnquoted) {
  EXPECT_EQ(Unquote("\"\"\"a\nb\"\"\"").text, "a\nb");
  EXPECT_EQ(Unquote("\"\"\"\n  a\n\n\"\"\"").text, "  a\n");
  EXPECT_EQ(Unquote("\"\"\"\"\"\"").text, "");
  EXPECT_TRUE(Unquote("\"\"\"/exit\"\"\"").quoted);
  for (const char* text : {"a", "\"\"\"", "\"\"\"\"\"", "\"\"\"doc\"\"\"\nimport x",
                           "\"\"\"doc\"\"\"\nx = \"\"\"y\"\"\""}) {
    EXPECT_EQ(Unquote(text).text, text);
    EXPECT_FALSE(Unquote(text).quoted);
  }
}

}  // namespace
}  // namespace rkv::app
