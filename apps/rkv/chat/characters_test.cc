#include "chat/characters.h"

#include <gtest/gtest.h>

namespace rkv::app {
namespace {

TEST(CharactersTest, TextIsTheSameThereAndBack) {
  for (const std::string text : {"", "a", "Größe", "日本語", "😀", "e\u0301", "\u07FF\u0800\uFFFF",
                                 "\U00010000\U0010FFFF"}) {
    EXPECT_EQ(Narrow(Widen(text)), text);
  }
  EXPECT_EQ(Widen("aé漢😀"), L"aé漢😀");
}

TEST(CharactersTest, WhatIsNotUtf8IsReplaced) {
  const std::pair<std::string, std::wstring> cases[] = {
      {"\xFF", L"\uFFFD"},
      {"a\x80z", L"a\uFFFDz"},
      {"\xC3z", L"\uFFFDz"},
      {"\xC0\xAF", L"\uFFFD\uFFFD"},                      // overlong
      {"\xE0\x80\x80", L"\uFFFD\uFFFD\uFFFD"},            // overlong
      {"\xED\xA0\x80", L"\uFFFD\uFFFD\uFFFD"},            // a surrogate
      {"\xF4\x90\x80\x80", L"\uFFFD\uFFFD\uFFFD\uFFFD"},  // beyond Unicode
      {"z\xE6\x97", L"z\uFFFD\uFFFD"},                    // cut off
  };
  for (const auto& [text, characters] : cases) EXPECT_EQ(Widen(text), characters) << text;
}

TEST(CharactersTest, ABeginningIsNoCharacterYet) {
  const std::string text = "😀";
  size_t length = 0;
  for (size_t n = 1; n < text.size(); ++n) {
    EXPECT_FALSE(FirstCharacter(text.substr(0, n), length).has_value()) << n;
  }
  EXPECT_EQ(FirstCharacter(text + "x", length), L'😀');
  EXPECT_EQ(length, 4u);
}

TEST(CharactersTest, PrintableTextControlsNothing) {
  EXPECT_EQ(Printable("Größe\t日本語\n"), "Größe\t日本語\n");
  EXPECT_EQ(Printable("\x1b[31mred\x1b]0;title\x07"), "␛[31mred␛]0;title␇");
  EXPECT_EQ(Printable("a\r\nb\rc"), "a\nbc");
  EXPECT_EQ(Printable(std::string("\0\x7F", 2)), "␀␡");
  EXPECT_EQ(Printable("\xC2\x9B"
                      "31m \x9B"
                      "31m"),
            "\uFFFD31m \uFFFD31m");  // C1, as UTF-8 and as a byte
}

}  // namespace
}  // namespace rkv::app
