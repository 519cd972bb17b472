// Reads a user's messages for rkv chat, from a terminal or a pipe.
#ifndef RETENTIVEKV_APPS_RKV_LINE_READER_H_
#define RETENTIVEKV_APPS_RKV_LINE_READER_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "chat/completion.h"
#include "chat/message.h"

namespace rkv::app {

// Reads messages, one a line. A line that ends with a backslash continues in the next, and """
// begins and ends a message of several lines. A terminal has editing, pasting, completion and
// history. Other input is read by lines that end with LF or CRLF.
class LineReader {
 public:
  // The completions for the tab key after this text; nothing if tab types a tab.
  using Complete = std::function<std::optional<Completion>(std::string_view before_cursor)>;

  // Keeps the history in that file; empty: in none.
  LineReader(Complete complete, const std::string& history_path);
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  // Nothing at the end of input. Exits with 130 on Ctrl-C.
  std::optional<TypedMessage> Next();

 private:
  class Editor;
  std::optional<std::string> NextLines();

  std::unique_ptr<Editor> editor_;  // null without a terminal
  bool prompts_ = false;            // the terminal can only show a prompt, without editing
  bool first_line_ = true;
};

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_LINE_READER_H_
