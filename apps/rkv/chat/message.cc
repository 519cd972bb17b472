#include "chat/message.h"

namespace rkv::app {

namespace {

size_t CountQuotes(std::string_view text) {
  size_t n = 0;
  for (size_t at = text.find(kBlockQuote); at != std::string_view::npos;
       at = text.find(kBlockQuote, at + kBlockQuote.size())) {
    ++n;
  }
  return n;
}

}  // namespace

bool InOpenBlock(std::string_view text) {
  return text.starts_with(kBlockQuote) && CountQuotes(text) % 2 == 1;
}

bool EndsInBackslash(std::string_view text) {
  const size_t last_other = text.find_last_not_of('\\');
  const size_t begin = last_other == std::string_view::npos ? 0 : last_other + 1;
  return (text.size() - begin) % 2 == 1;
}

TypedMessage Unquote(std::string text) {
  const size_t quotes = 2 * kBlockQuote.size();
  // Program text can begin with such a string and continue after it.
  const bool quoted = text.size() >= quotes && text.starts_with(kBlockQuote) &&
                      text.ends_with(kBlockQuote) && CountQuotes(text) == 2;
  if (!quoted) return {.text = std::move(text), .quoted = false};
  text = text.substr(kBlockQuote.size(), text.size() - quotes);
  if (text.starts_with('\n')) text.erase(0, 1);
  if (text.ends_with('\n')) text.pop_back();
  return {.text = std::move(text), .quoted = true};
}

}  // namespace rkv::app
