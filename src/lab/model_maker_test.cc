#include "lab/model_maker.h"

#include <gtest/gtest.h>

#include "base/file.h"

namespace rkv {
namespace {

std::string TempFile(const std::string& name) { return testing::TempDir() + "maker-" + name; }

TEST(ModelMakerTest, TheSameSeedGivesTheSameBytes) {
  ASSERT_TRUE(MakeModel({.arch = "qwen2", .seed = 3}, TempFile("a")).ok());
  ASSERT_TRUE(MakeModel({.arch = "qwen2", .seed = 3}, TempFile("b")).ok());
  ASSERT_TRUE(MakeModel({.arch = "qwen2", .seed = 4}, TempFile("c")).ok());
  EXPECT_EQ(*ReadFile(TempFile("a"), "model"), *ReadFile(TempFile("b"), "model"));
  EXPECT_NE(*ReadFile(TempFile("a"), "model"), *ReadFile(TempFile("c"), "model"));
}

TEST(ModelMakerTest, VocabulariesGrowAndOutputsAreTied) {
  const auto size = [](const ModelSpec& spec) {
    EXPECT_TRUE(MakeModel(spec, TempFile("size")).ok());
    return ReadFile(TempFile("size"), "model")->size();
  };
  const size_t small = size({.arch = "qwen2"});
  const size_t matrix = 288 * 256 * 2;  // f16
  EXPECT_LT(size({.arch = "qwen2", .tied_output = true}), small - matrix * 9 / 10);
  EXPECT_GT(size({.arch = "qwen2", .n_vocab = 576}), small + 2 * matrix);
  EXPECT_EQ(MakeModel({.n_vocab = 287}, TempFile("bad")).code(), StatusCode::kInvalidArgument);
}

TEST(ModelMakerTest, ImpossibleSpecsAreRefused) {
  const std::string path = TempFile("bad");
  for (const ModelSpec& spec :
       {ModelSpec{.arch = "no-such"}, ModelSpec{.n_head = 3, .n_head_kv = 2},
        ModelSpec{.head_dim = 63}, ModelSpec{.n_layer = 0}, ModelSpec{.type = "q9"},
        ModelSpec{.head_dim = 80, .type = "q4_0"}, ModelSpec{.n_layer = -1}}) {
    const Status status = MakeModel(spec, path);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << spec.arch << spec.type;
    EXPECT_FALSE(status.message().empty());
  }
  EXPECT_EQ(MakeMmproj({.arch = "qwen2"}, path).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(MakeModel({}, "/no/such/dir/model.gguf").code(), StatusCode::kBadFile);
}

}  // namespace
}  // namespace rkv
