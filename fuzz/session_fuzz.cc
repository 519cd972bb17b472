// Saved caches, as conversation files hold them. Any bytes give an error, or a KvCache that
// attends, takes tokens and saves itself. The hash in the file is not checked here, since an
// attacker can compute it.
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "fuzz/session_shape.h"
#include "retentivekv/inspect.h"

namespace {

constexpr uint64_t kMaxTokens = 4096;  // longer caches only take time

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const rkv::CacheShape shape = rkv::FuzzedShape();
  rkv::Result<rkv::KvCache> cache = rkv::KvCache::Load(shape, bytes);
  if (!cache.ok()) {
    if (cache.status().message().empty()) std::abort();
    return 0;
  }
  if (cache->tokens_seen() > kMaxTokens) return 0;
  const std::vector<float> q(rkv::kFuzzedHeadSize, 0.25f);
  std::vector<float> out(rkv::kFuzzedHeadSize);
  cache->Attend(0, 0, q.data(), 1, 0.2f, 0.0f, out.data());
  rkv::AppendTokens(*cache, 3, 0.5f);
  cache->Attend(0, 0, q.data(), 1, 0.2f, 0.0f, out.data());
  (void)cache->Inspect();
  // Damaged keys can give sums that are no numbers; those are refused.
  (void)rkv::KvCache::Load(shape, cache->Save());
  cache->Truncate(cache->tokens_seen() / 2);
  return 0;
}
