#include "chat/completion.h"

#include <algorithm>

namespace rkv::app {

std::string CommonBeginning(const std::vector<std::string>& texts) {
  if (texts.empty()) return "";
  const std::string& first = texts.front();
  size_t length = first.size();
  for (const std::string& text : texts) {
    const auto end = std::mismatch(first.begin(), first.end(), text.begin(), text.end()).first;
    length = std::min(length, static_cast<size_t>(end - first.begin()));
  }
  // A prefix must not end inside a character.
  const auto continues = [&] {
    return length < first.size() && (static_cast<unsigned char>(first[length]) & 0xC0) == 0x80;
  };
  while (length > 0 && continues()) --length;
  return first.substr(0, length);
}

}  // namespace rkv::app
