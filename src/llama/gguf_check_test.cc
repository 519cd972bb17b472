// Damaged GGUF files, including seeded mutations, are refused or read without a crash.
#include "llama/gguf_check.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/random.h"
#include "retentivekv/engine.h"
#include "support/damage.h"
#include "support/pictures.h"
#include "support/test_models.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/lsan_interface.h>
#endif

namespace rkv {
namespace {

const std::string kModel = SourcePath("models/reference/reference-f16.gguf");
const std::string kProjector = SourcePath("models/reference/mmproj-reference-f16.gguf");

// The file with `value` in place of the bytes after `text` and `skip` more bytes.
template <typename T>
std::string With(std::string bytes, std::string_view text, size_t skip, T value) {
  const size_t at = bytes.find(text);
  EXPECT_NE(at, std::string::npos) << text;
  std::memcpy(bytes.data() + at + text.size() + skip, &value, sizeof(value));
  return bytes;
}

// A value's type follows its key.
template <typename T>
std::string WithValue(const std::string& bytes, std::string_view key, T value) {
  return With(bytes, key, sizeof(uint32_t), value);
}

// After a tensor's name come the number of its dimensions, the dimensions, and its type.
std::string WithType(const std::string& bytes, std::string_view tensor, size_t n_dims,
                     ggml_type type) {
  return With(bytes, tensor, sizeof(uint32_t) + n_dims * sizeof(uint64_t),
              static_cast<uint32_t>(type));
}

std::string WithName(std::string bytes, std::string_view tensor) {
  bytes[bytes.find(tensor)] = '~';
  return bytes;
}

Status CheckProjector(const std::string& bytes) {
#if defined(__SANITIZE_ADDRESS__)
  const __lsan::ScopedDisabler libmtmd_leaks_when_it_fails;
#endif
  mtmd_context_params params = mtmd_context_params_default();
  params.n_threads = 1;
  return CheckProjectorFile(WriteTestFile(testing::TempDir() + "gguf-check.gguf", bytes), params);
}

TEST(GgufCheckTest, ProjectorsThatMtmdWouldDieOfAreRefused) {
  const std::string good = *ReadFile(kProjector, "mmproj");
  const Status status = CheckProjector(good);
  ASSERT_TRUE(status.ok()) << status.message();
  for (const char* name : {"qwen2vl-d64", "qwen2vl-d80", "llava-d64"}) {
    const Status made = CheckProjector(*ReadFile(TestMmprojPath(name), "mmproj"));
    EXPECT_TRUE(made.ok()) << name << made.message();
  }
  const auto refused = [](const std::string& bytes, std::string_view what) {
    const Status refusal = CheckProjector(bytes);
    EXPECT_EQ(refusal.code(), StatusCode::kBadFile) << what;
    EXPECT_NE(refusal.message().find("mmproj"), std::string::npos) << refusal.message();
  };
  for (const auto& [key, value] : std::initializer_list<std::pair<const char*, uint32_t>>{
           {"clip.vision.attention.head_count", 0},
           {"clip.vision.attention.head_count", 7},
           {"clip.vision.attention.head_count", 64},
           {"clip.vision.attention.head_count", std::numeric_limits<int32_t>::max()},
           {"clip.vision.embedding_length", 0},
           {"clip.vision.embedding_length", 96},
           {"clip.vision.embedding_length", 1 << 20},
           {"clip.vision.patch_size", 0},
           {"clip.vision.patch_size", 3},
           {"clip.vision.patch_size", 64},
           {"clip.vision.spatial_merge_size", 1},
           {"clip.vision.spatial_merge_size", 3},
           {"clip.vision.spatial_merge_size", 64},
           {"clip.vision.block_count", 0},
           {"clip.vision.block_count", 5}}) {
    refused(WithValue(good, key, value), fmt::format("{} {}", key, value));
  }
  for (const float eps : {-1.0f, std::nanf(""), std::numeric_limits<float>::infinity()}) {
    refused(WithValue(good, "clip.vision.attention.layer_norm_epsilon", eps), "eps");
  }
  for (const char* tensor : {"v.patch_embd.weight", "v.patch_embd.weight.1", "mm.0.bias",
                             "v.blk.0.attn_q.weight", "v.blk.0.attn_q.bias", "v.blk.2.attn_k.bias",
                             "v.blk.3.attn_v.weight", "v.blk.1.ln1.weight"}) {
    refused(WithName(good, tensor), tensor);
  }
  refused(WithType(good, "mm.2.weight", 2, GGML_TYPE_I16), "i16");
  refused(WithType(good, "v.patch_embd.weight.1", 4, GGML_TYPE_BF16), "bf16");
  refused(WithType(good, "v.blk.0.ffn_up.bias", 1, GGML_TYPE_I32), "i32");
  // Shapes that contradict each other, with equal numbers of bytes.
  refused(With(With(good, "v.blk.0.ffn_up.weight", 4, uint64_t{96}), "v.blk.0.ffn_up.weight", 12,
               uint64_t{1536}),
          "shape");
  refused(good.substr(0, good.size() - 1000), "cut");
}

TEST(GgufCheckTest, ModelsOfTypesThatNothingComputesWithAreRefused) {
  const std::string good = *ReadFile(kModel, "model");
  const auto check = [](const std::string& bytes) {
    return CheckModelFile(WriteTestFile(testing::TempDir() + "gguf-check-model.gguf", bytes));
  };
  EXPECT_TRUE(check(good).ok());
  EXPECT_EQ(check(WithType(good, "blk.0.attn_k.weight", 2, GGML_TYPE_I16)).code(),
            StatusCode::kBadFile);
  EXPECT_EQ(check(WithType(good, "blk.0.attn_k.bias", 1, GGML_TYPE_I32)).code(),
            StatusCode::kBadFile);
  EXPECT_EQ(check(good.substr(0, good.size() - 1000)).code(), StatusCode::kBadFile);
}

// Loads mutated projectors, and reads a picture with the first usable one.
void ReadWithMutations() {
  const std::string good = *ReadFile(kProjector, "mmproj");
  constexpr size_t kMetadataBytes = 4723;
  Random random(3);
  int n_read = 0;
  for (int i = 0; i < 300; ++i) {
    std::string bytes = good;
    for (uint64_t n = 1 + random.NextBelow(2); n > 0; --n) {
      const size_t at = 4 + random.NextBelow(kMetadataBytes - 12);
      const uint64_t extremes[] = {0, 1, 1 << 20, uint64_t{1} << 31, ~uint64_t{0}};
      const uint64_t value = extremes[random.NextBelow(5)];
      const uint64_t way = random.NextBelow(kOverwrites);
      Overwrite(bytes, at, way, value, random);
    }
    const bool ok = CheckProjector(bytes).ok();
    if (!ok || n_read == 20) continue;
    EngineOptions options;
    options.model = kModel;
    options.mmproj = testing::TempDir() + "gguf-check.gguf";
    options.n_threads = 1;
    auto engine = Engine::Load(options);
    if (!engine.ok()) continue;
    ++n_read;
    auto conversation = (*engine)->NewConversation({});
    const std::string picture = SourcePath("models/reference/sample.png");
    if (!(*conversation)->AddUserMessage("hello", std::vector<std::string>{picture}).ok()) continue;
    AnswerOptions answer;
    answer.max_tokens = 1;
    (void)(*engine)->Answer(**conversation, answer);
  }
  std::_Exit(n_read > 5 ? 0 : 3);
}

TEST(GgufCheckDeathTest, MutatedProjectorsAreRefusedOrRead) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // Threads may have been started before.
  EXPECT_EXIT(ReadWithMutations(), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace rkv
