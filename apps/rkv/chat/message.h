// When what a user types or pipes is a whole message.
#ifndef RETENTIVEKV_APPS_RKV_CHAT_MESSAGE_H_
#define RETENTIVEKV_APPS_RKV_CHAT_MESSAGE_H_

#include <string>
#include <string_view>

namespace rkv::app {

// Stands before and after a message of several lines.
inline constexpr std::string_view kBlockQuote = "\"\"\"";

// Whether `text` begins a block with """ that nothing ends yet.
bool InOpenBlock(std::string_view text);

// Whether `text` ends with a backslash that nothing escapes: the next line belongs to it.
bool EndsInBackslash(std::string_view text);

struct TypedMessage {
  std::string text;
  // It was in a block: it is said as it is, whatever it looks like.
  bool quoted = false;
};

// What was typed until it was sent, without the block's quotes.
TypedMessage Unquote(std::string text);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_CHAT_MESSAGE_H_
