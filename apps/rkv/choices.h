// Helpers of the commands that compare policies: lists, and checks of policies.
#ifndef RETENTIVEKV_APPS_RKV_CHOICES_H_
#define RETENTIVEKV_APPS_RKV_CHOICES_H_

#include <algorithm>
#include <string_view>
#include <vector>

#include "retentivekv/kv_cache.h"
#include "retentivekv/options.h"
#include "retentivekv/status.h"

namespace rkv::app {

// The parts of a list with commas between them; an empty list is one empty part.
inline std::vector<std::string_view> SplitList(std::string_view list) {
  std::vector<std::string_view> parts;
  while (true) {
    const size_t end = list.find(',');
    parts.push_back(list.substr(0, end));
    if (end == std::string_view::npos) return parts;
    list.remove_prefix(end + 1);
  }
}

// Null for an unknown policy.
inline const PolicyDescription* FindPolicy(std::string_view name) {
  static const std::vector<PolicyDescription> policies = DescribePolicies();
  const auto found = std::ranges::find(policies, name, &PolicyDescription::name);
  return found == policies.end() ? nullptr : &*found;
}

// Rejects unknown names and options, by creating a small cache without a budget.
inline Status CheckOptions(CacheOptions options) {
  options.budget = {};
  const CacheShape shape{.layers = {{.n_head = 1, .n_kv_head = 1, .d_k = 64, .d_v = 64}}};
  return KvCache::Create(shape, options).status();
}

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_CHOICES_H_
