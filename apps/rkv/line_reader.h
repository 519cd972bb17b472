// What a user types, or a pipe says, to rkv chat.
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

// Messages, one a line: a line that ends with a backslash goes on in the next, and """ begins and
// ends a message of several lines. On a terminal with editing, pasting, completion and history;
// else lines as they come, ended by LF or CRLF.
class LineReader {
 public:
  // What the tab key does behind this text; nothing if it types a tab.
  using Complete = std::function<std::optional<Completion>(std::string_view before_cursor)>;

  // The history is kept in that file; empty: in none.
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
  bool prompts_ = false;            // a terminal that can do no more than show a prompt
  bool first_line_ = true;
};

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_LINE_READER_H_
