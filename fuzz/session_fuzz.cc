// Saved caches, as conversation files hold them: any bytes are a Memory that attends, takes tokens
// and saves itself, or an error. The hash in the file is not in the way: whoever wants to harm can
// compute it.
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "fuzz/session_shape.h"
#include "retentivekv/inspect.h"

namespace {

constexpr uint64_t kMostTokens = 4096;  // longer ones only take time

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const rkv::MemoryShape shape = rkv::FuzzedShape();
  rkv::Result<rkv::Memory> memory = rkv::Memory::Load(shape, bytes);
  if (!memory.ok()) {
    if (memory.status().message().empty()) std::abort();
    return 0;
  }
  if (memory->tokens_seen() > kMostTokens) return 0;
  const std::vector<float> q(rkv::kFuzzedHeadSize, 0.25f);
  std::vector<float> out(rkv::kFuzzedHeadSize);
  memory->Attend(0, 0, q.data(), 1, 0.2f, 0.0f, out.data());
  rkv::AppendTokens(*memory, 3, 0.5f);
  memory->Attend(0, 0, q.data(), 1, 0.2f, 0.0f, out.data());
  (void)memory->Inspect();
  // Refused where damaged keys have made sums that are no numbers.
  (void)rkv::Memory::Load(shape, memory->Save());
  memory->Truncate(memory->tokens_seen() / 2);
  return 0;
}
