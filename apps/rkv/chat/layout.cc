#include "chat/layout.h"

#include <wchar.h>

#include <algorithm>

#include "chat/characters.h"

namespace rkv::app {

namespace {

constexpr size_t kTab = 8;
constexpr size_t kMinWidth = 4;  // of a prompt and a wide character
constexpr std::string_view kIndent = "  ";

class Rows {
 public:
  Rows(std::string_view prompt, size_t width) : width_(width) { Begin(prompt); }

  void Begin(std::string_view text) {
    rows.emplace_back(text);
    column = text.size();
  }
  void Put(std::string_view cell, size_t cell_width) {
    if (column + cell_width > width_) Begin("");
    rows.back() += cell;
    column += cell_width;
  }
  // A terminal starts a new row only with the next character after the last column. A cursor needs
  // its place before that.
  void MakeRoom() {
    if (column >= width_) Begin("");
  }

  std::vector<std::string> rows;
  size_t column = 0;

 private:
  size_t width_;
};

}  // namespace

Layout LayOut(std::string_view prompt, std::wstring_view text, size_t cursor, size_t width) {
  width = std::max(width, kMinWidth);
  if (prompt.size() > width / 2) prompt = prompt.substr(0, 2);
  Rows rows(prompt, width);
  Layout layout;
  const auto place_cursor = [&] {
    rows.MakeRoom();
    layout.cursor_row = rows.rows.size() - 1;
    layout.cursor_column = rows.column;
  };
  for (size_t i = 0; i < text.size(); ++i) {
    if (i == cursor) place_cursor();
    const wchar_t c = text[i];
    if (c == '\n') {
      rows.Begin(kIndent);
    } else if (c == '\t') {
      rows.MakeRoom();
      const size_t stop = std::min((rows.column / kTab + 1) * kTab, width);
      rows.Put(std::string(stop - rows.column, ' '), stop - rows.column);
    } else if (c < 0x20 || c == 0x7F) {
      rows.Put(std::string{'^', static_cast<char>(c ^ 0x40)}, 2);
    } else {
      const int columns = ::wcwidth(c);
      const wchar_t shown = columns < 0 ? wchar_t{0xFFFD} : c;
      rows.Put(Narrow({&shown, 1}), columns < 0 ? 1 : static_cast<size_t>(columns));
    }
  }
  if (cursor >= text.size()) place_cursor();
  layout.rows = std::move(rows.rows);
  return layout;
}

}  // namespace rkv::app
