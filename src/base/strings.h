#ifndef RETENTIVEKV_BASE_STRINGS_H_
#define RETENTIVEKV_BASE_STRINGS_H_

#include <algorithm>
#include <string>
#include <string_view>

namespace rkv {

// Without white space at both ends.
inline std::string_view TrimSpace(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

// Converts the letters A to Z to a to z, and no other bytes.
inline std::string ToLower(std::string_view text) {
  std::string lower(text);
  std::ranges::transform(lower, lower.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return lower;
}

}  // namespace rkv

#endif  // RETENTIVEKV_BASE_STRINGS_H_
