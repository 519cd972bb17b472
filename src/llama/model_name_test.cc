#include "llama/model_name.h"

#include <gtest/gtest.h>

#include "llama/model.h"
#include "support/test_models.h"

namespace rkv {
namespace {

TEST(ModelNameTest, SaysWhatTheFileCallsItselfAndItsSize) {
  const struct {
    ModelNames names;
    uint64_t n_parameters;
    const char* path;
    const char* name;
  } cases[] = {
      {{"Smollm2 135M 8k Lc100K Mix1 Ep2", "smollm2", "135M", "llama"},
       134'515'008,
       "/models/SmolLM2-135M-Instruct.Q4_1.gguf",
       "SmolLM2-135M"},
      {{"Smollm2 135M", "smollm2", "135M", "llama"}, 134'515'008, "x.gguf", "smollm2-135M"},
      {{"Qwen2 VL 2B Instruct", "", "", "qwen2vl"}, 1'500'000'000, "x", "Qwen2 VL 2B Instruct"},
      {{"RetentiveKV reference", "", "", "qwen2vl"}, 4'900'000, "", "RetentiveKV reference 4.9M"},
      {{"", "", "", "llama"}, 6'738'415'616, "a/b", "llama 6.7B"},
      {{"Mixtral", "", "", "llama"}, 46'700'000'000, "", "Mixtral 47B"},
      {{"Mixtral-8x7B", "", "", "llama"}, 46'700'000'000, "", "Mixtral-8x7B"},
      {{"", "", "", ""}, 420'000, "", "model 420K"},
  };
  for (const auto& c : cases) EXPECT_EQ(ModelName(c.names, c.n_parameters, c.path), c.name);
}

TEST(ModelNameTest, LoadedModelsAreDescribedByTheirFile) {
  const auto model = Model::Load({.model = TestModelPath("qwen2-d64")}, {});
  ASSERT_TRUE(model.ok()) << model.status().message();
  const std::string description = (*model)->Description();
  EXPECT_TRUE(description.starts_with("random qwen2 ")) << description;
  EXPECT_TRUE(description.ends_with(" F16")) << description;
  EXPECT_EQ(description.find('?'), std::string::npos) << description;
}

}  // namespace
}  // namespace rkv
