// Models with something wrong in them.
#ifndef RETENTIVEKV_TESTS_SUPPORT_BROKEN_MODELS_H_
#define RETENTIVEKV_TESTS_SUPPORT_BROKEN_MODELS_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <string>

#include "base/file.h"
#include "support/pictures.h"
#include "support/test_models.h"

namespace rkv {

// Writes qwen2vl-d64 with `n` pairs in the first section of its RoPE, and returns the path.
inline std::string WriteModelWithRopeSection(const std::string& path, int32_t n) {
  std::string bytes = *ReadFile(TestModelPath("qwen2vl-d64"), "model");
  const std::string key = "qwen2vl.rope.dimension_sections";
  const size_t at = bytes.find(key);
  EXPECT_NE(at, std::string::npos);
  // Behind the key are two types and the number of sections.
  const size_t first = at + key.size() + 2 * sizeof(uint32_t) + sizeof(uint64_t);
  std::memcpy(bytes.data() + first, &n, sizeof(n));
  return WriteTestFile(path, bytes);
}

}  // namespace rkv

#endif  // RETENTIVEKV_TESTS_SUPPORT_BROKEN_MODELS_H_
