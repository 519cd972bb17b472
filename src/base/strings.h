#ifndef RETENTIVEKV_BASE_STRINGS_H_
#define RETENTIVEKV_BASE_STRINGS_H_

#include <string_view>

namespace rkv {

// Without white space at both ends.
inline std::string_view TrimSpace(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

}  // namespace rkv

#endif  // RETENTIVEKV_BASE_STRINGS_H_
