#include "chat/layout.h"

#include <gtest/gtest.h>

#include "chat/characters.h"

namespace rkv::app {
namespace {

using Rows = std::vector<std::string>;

class LayoutTest : public testing::Test {
 protected:
  LayoutTest() { UseUtf8(); }
};

void ExpectCursor(const std::wstring& text, size_t cursor, size_t width, size_t row,
                  size_t column) {
  const Layout layout = LayOut("> ", text, cursor, width);
  EXPECT_EQ(layout.cursor_row, row) << Narrow(text) << " at " << cursor;
  EXPECT_EQ(layout.cursor_column, column) << Narrow(text) << " at " << cursor;
}

TEST_F(LayoutTest, LongLinesAreBroken) {
  EXPECT_EQ(LayOut("> ", L"abcdefghij", 0, 6).rows, (Rows{"> abcd", "efghij"}));
  ExpectCursor(L"abcdefghij", 0, 6, 0, 2);
  ExpectCursor(L"abcdefghij", 4, 6, 1, 0);
  ExpectCursor(L"abcdefghij", 10, 6, 2, 0);  // after a full row
  ExpectCursor(L"", 0, 6, 0, 2);
}

TEST_F(LayoutTest, FurtherLinesAreIndented) {
  EXPECT_EQ(LayOut("> ", L"a\nb\n", 4, 20).rows, (Rows{"> a", "  b", "  "}));
  ExpectCursor(L"a\nb\n", 1, 20, 0, 3);
  ExpectCursor(L"a\nb\n", 2, 20, 1, 2);
  ExpectCursor(L"a\nb\n", 4, 20, 2, 2);
}

TEST_F(LayoutTest, WideCharactersAreNotCut) {
  EXPECT_EQ(LayOut("> ", L"a日本", 3, 6).rows, (Rows{"> a日", "本"}));
  ExpectCursor(L"a日本", 2, 6, 0, 5);
  ExpectCursor(L"a日本", 3, 6, 1, 2);
  ExpectCursor(L"😀", 1, 20, 0, 4);
}

TEST_F(LayoutTest, CombiningCharactersStayWithTheirBase) {
  EXPECT_EQ(LayOut("> ", L"abce\u0301x", 6, 6).rows, (Rows{"> abce\u0301", "x"}));
  ExpectCursor(L"e\u0301", 2, 20, 0, 3);
}

TEST_F(LayoutTest, TabsAndControlCharacters) {
  EXPECT_EQ(LayOut("> ", L"a\tb\x1b", 0, 40).rows, Rows{"> a     b^["});
  ExpectCursor(L"a\tb", 2, 40, 0, 8);
  EXPECT_EQ(LayOut("> ", L"abc\tb", 5, 6).rows, (Rows{"> abc ", "b"}));
}

TEST_F(LayoutTest, NarrowTerminalsAreNoFault) {
  for (size_t width = 0; width < 8; ++width) {
    for (size_t cursor = 0; cursor <= 5; ++cursor) {
      const Layout layout = LayOut("(search) ", L"日\t\n\x01x", cursor, width);
      EXPECT_LT(layout.cursor_row, layout.rows.size());
    }
  }
}

}  // namespace
}  // namespace rkv::app
