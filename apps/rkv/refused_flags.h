// Flags of llama.cpp's programs that rkv does not have, to refuse them by name.
#ifndef RETENTIVEKV_APPS_RKV_REFUSED_FLAGS_H_
#define RETENTIVEKV_APPS_RKV_REFUSED_FLAGS_H_

#include <string>
#include <string_view>
#include <vector>

namespace rkv::app {

// What to do instead of a flag of llama.cpp, as the end of a sentence; empty for a flag that
// llama.cpp does not have either, or that rkv has.
std::string_view InsteadOfLlamaFlag(std::string_view flag);

// Of `names`, the one that was most likely meant by `written`; empty if none is near.
std::string NearestName(std::string_view written, const std::vector<std::string>& names);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_REFUSED_FLAGS_H_
