#ifndef RETENTIVEKV_BASE_UTF8_H_
#define RETENTIVEKV_BASE_UTF8_H_

#include <cstddef>
#include <string_view>

namespace rkv {

// Length of the longest prefix of `text` that does not end inside a UTF-8 character. A token can be
// part of a character, but printed text must not be. Bytes that are not UTF-8 count as complete.
inline size_t CompleteUtf8Prefix(std::string_view text) {
  for (size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if ((byte & 0xC0) == 0x80) continue;  // A continuation: the start is further back.
    const size_t length = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC0 ? 2 : 1;
    return length > back ? text.size() - back : text.size();
  }
  return text.size();
}

}  // namespace rkv

#endif  // RETENTIVEKV_BASE_UTF8_H_
