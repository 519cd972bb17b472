// The shape and options of the saved caches in fuzzing.
#ifndef RETENTIVEKV_FUZZ_SESSION_SHAPE_H_
#define RETENTIVEKV_FUZZ_SESSION_SHAPE_H_

#include <vector>

#include "base/f16.h"
#include "retentivekv/kv_cache.h"

namespace rkv {

constexpr size_t kFuzzedHeadSize = 32;

inline CacheShape FuzzedShape() {
  return {
      .layers = {{.n_head = 2, .n_kv_head = 1, .d_k = kFuzzedHeadSize, .d_v = kFuzzedHeadSize}}};
}

inline void AppendTokens(KvCache& cache, size_t n, float value) {
  KvCache::Append append = cache.BeginAppend({.n = n});
  for (size_t i = 0; i < n; ++i) {
    std::vector<uint16_t> row(kFuzzedHeadSize, F16FromF32(value));
    row[i % kFuzzedHeadSize] = F16FromF32(-value);
    append.Stage(0, 0, i, row.data(), row.data());
  }
  append.Commit();
}

}  // namespace rkv

#endif  // RETENTIVEKV_FUZZ_SESSION_SHAPE_H_
