// Detects the end of a typed or piped message.
#ifndef RETENTIVEKV_APPS_RKV_CHAT_MESSAGE_H_
#define RETENTIVEKV_APPS_RKV_CHAT_MESSAGE_H_

#include <string>
#include <string_view>

namespace rkv::app {

// Stands before and after a message of several lines.
inline constexpr std::string_view kBlockQuote = "\"\"\"";

// Whether `text` begins a block with """ and does not end it.
bool InOpenBlock(std::string_view text);

// Whether `text` ends with an unescaped backslash: the next line then belongs to it.
bool EndsInBackslash(std::string_view text);

struct TypedMessage {
  std::string text;
  // The message was in a block, so it is sent unchanged, even if it looks like a command.
  bool quoted = false;
};

// The typed message without the block's quotes.
TypedMessage Unquote(std::string text);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_CHAT_MESSAGE_H_
