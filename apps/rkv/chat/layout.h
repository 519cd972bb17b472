// The places of an edited text's characters on a terminal.
#ifndef RETENTIVEKV_APPS_RKV_CHAT_LAYOUT_H_
#define RETENTIVEKV_APPS_RKV_CHAT_LAYOUT_H_

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace rkv::app {

struct Layout {
  std::vector<std::string> rows;  // UTF-8; the first has the prompt
  size_t cursor_row = 0;
  size_t cursor_column = 0;
};

// Breaks the prompt and the text into rows of at most `width` columns. Indents further lines of the
// text. Keeps combining characters with their base, does not cut wide characters, and shows control
// characters as ^X. Needs UseUtf8().
Layout LayOut(std::string_view prompt, std::wstring_view text, size_t cursor, size_t width);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_CHAT_LAYOUT_H_
