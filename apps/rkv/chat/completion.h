#ifndef RETENTIVEKV_APPS_RKV_CHAT_COMPLETION_H_
#define RETENTIVEKV_APPS_RKV_CHAT_COMPLETION_H_

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace rkv::app {

// The completions of the text before the cursor.
struct Completion {
  size_t n_replaced = 0;                // bytes at the end of the text that a candidate replaces
  std::vector<std::string> candidates;  // sorted
};

// The longest common prefix of the candidates, in whole characters.
std::string CommonBeginning(const std::vector<std::string>& texts);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_CHAT_COMPLETION_H_
