#ifndef RETENTIVEKV_APPS_RKV_CHAT_COMPLETION_H_
#define RETENTIVEKV_APPS_RKV_CHAT_COMPLETION_H_

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace rkv::app {

// What the tab key can make of the text before the cursor.
struct Completion {
  size_t n_replaced = 0;                // bytes of its end that a candidate is put in place of
  std::vector<std::string> candidates;  // sorted
};

// The longest text that all begin with, in whole characters.
std::string CommonBeginning(const std::vector<std::string>& texts);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_CHAT_COMPLETION_H_
