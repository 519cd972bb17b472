#include "llama/model.h"

#include <gtest/gtest.h>
#include <llama.h>

#include <string>

#include "base/huge_pages.h"
#include "lab/model_maker.h"
#include "support/advised_memory.h"

namespace rkv {
namespace {

size_t AdvisedBytes() {
  size_t total = 0;
  for (const AddressRange& range : AdvisedMemory()) total += range.end - range.begin;
  return total;
}

// The allocator of a sanitizer keeps freed memory.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kPlainMalloc = false;
#else
constexpr bool kPlainMalloc = true;
#endif

TEST(ModelTest, WeightsThatAreCopiedAreInHugePages) {
  if (!HasHugePages() || !kPlainMalloc) GTEST_SKIP() << "no huge pages, or not for malloc alone";
  ModelSpec spec = ReleasedShapes().front().spec;
  spec.n_layer = 2;
  spec.n_embd = spec.n_head * (spec.head_dim = 32);
  spec.n_ff = 64;
  const std::string path = testing::TempDir() + "huge-pages.gguf";
  ASSERT_TRUE(MakeModel(spec, path).ok());
  EngineOptions options;
  options.model = path;
  options.n_ctx = 64;
  options.n_ubatch = 1;
  const size_t before = AdvisedBytes();
  auto model = Model::Load(options, {}, /*huge_pages=*/false);
  ASSERT_TRUE(model.ok()) << model.status().message();
  EXPECT_EQ((*model)->huge_page_bytes(), 0u);
  EXPECT_EQ(AdvisedBytes(), before);
  double progress = -1;
  model = Model::Load(options, [&](double fraction) {
    EXPECT_GE(fraction, progress);
    progress = fraction;
  });
  ASSERT_TRUE(model.ok()) << model.status().message();
  EXPECT_EQ(progress, 1);
  const size_t bytes = (*model)->huge_page_bytes();
  if (bytes == 0) GTEST_SKIP() << "llama.cpp copies no weights for this CPU";
  EXPECT_GE(bytes, llama_model_size((*model)->llama()) / 3);
  EXPECT_EQ(AdvisedBytes(), before + bytes);
}

}  // namespace
}  // namespace rkv
