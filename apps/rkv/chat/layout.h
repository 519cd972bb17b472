// Where the characters of a text that is edited stand on a terminal.
#ifndef RETENTIVEKV_APPS_RKV_CHAT_LAYOUT_H_
#define RETENTIVEKV_APPS_RKV_CHAT_LAYOUT_H_

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace rkv::app {

struct Layout {
  std::vector<std::string> rows;  // UTF-8; the prompt is in the first
  size_t cursor_row = 0;
  size_t cursor_column = 0;
};

// Breaks the text into rows of at most `width` columns, the prompt before it. Further lines of it
// are indented. Combining characters stay with what they belong to, wide ones are not cut, and
// control characters are shown as ^X. Needs UseUtf8().
Layout LayOut(std::string_view prompt, std::wstring_view text, size_t cursor, size_t width);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_CHAT_LAYOUT_H_
