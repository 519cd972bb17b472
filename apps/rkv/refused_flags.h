// llama.cpp flags that rkv does not have, to refuse them by name.
#ifndef RETENTIVEKV_APPS_RKV_REFUSED_FLAGS_H_
#define RETENTIVEKV_APPS_RKV_REFUSED_FLAGS_H_

#include <string>
#include <string_view>
#include <vector>

namespace rkv::app {

// The alternative to a llama.cpp flag, as the end of a sentence. Empty for flags that llama.cpp
// does not have, or that rkv has.
std::string_view InsteadOfLlamaFlag(std::string_view flag);

// The name in `names` most similar to `written`; empty if none is similar.
std::string NearestName(std::string_view written, const std::vector<std::string>& names);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_REFUSED_FLAGS_H_
