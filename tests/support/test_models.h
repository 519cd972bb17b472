// The models that tests run on.
#ifndef RETENTIVEKV_TESTS_SUPPORT_TEST_MODELS_H_
#define RETENTIVEKV_TESTS_SUPPORT_TEST_MODELS_H_

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "lab/model_maker.h"

namespace rkv {

// By name; between them every architecture of the generator and head sizes 64, 80, 128 and 256.
inline std::vector<std::pair<std::string, ModelSpec>> TestModels() {
  return {
      {"llama-d64", {.arch = "llama", .n_head = 4, .n_head_kv = 4, .head_dim = 64}},
      {"llama-d128", {.arch = "llama", .n_head = 3, .n_head_kv = 3, .head_dim = 128}},
      {"qwen2-d64", {.arch = "qwen2", .n_layer = 3, .n_head = 6, .n_head_kv = 2, .head_dim = 64}},
      {"qwen2-d128", {.arch = "qwen2", .n_head = 4, .n_head_kv = 1, .head_dim = 128}},
      {"qwen3-d80", {.arch = "qwen3", .n_head = 4, .n_head_kv = 2, .head_dim = 80}},
      {"qwen3-d256", {.arch = "qwen3", .n_head = 2, .n_head_kv = 1, .head_dim = 256}},
      {"qwen2vl-d64", {.arch = "qwen2vl", .n_head = 4, .n_head_kv = 2, .head_dim = 64}},
      {"qwen2vl-d80", {.arch = "qwen2vl", .n_head = 4, .n_head_kv = 2, .head_dim = 80}},
      {"qwen3vl-d128",
       {.arch = "qwen3vl", .n_layer = 4, .n_head = 4, .n_head_kv = 2, .head_dim = 128}},
      {"llava-d64", {.arch = "llava", .n_head = 4, .n_head_kv = 4, .head_dim = 64}},
      {"gemma2-d256", {.arch = "gemma2", .n_head = 2, .n_head_kv = 1, .head_dim = 256}},
      // With all experts: a choice between two that are nearly equal turns the last bit of an
      // attention output into another expert's.
      {"openai-moe-d64",
       {.arch = "openai-moe", .n_head = 8, .n_head_kv = 2, .head_dim = 64, .n_expert_used = 4}},
      {"gemma2-swa", {.arch = "gemma2-swa"}},
      {"mamba", {.arch = "mamba"}},
      {"deepseek2", {.arch = "deepseek2"}},
  };
}

inline std::string TestModelPath(const std::string& name) {
  return RKV_TEST_MODELS "/" + name + ".gguf";
}
inline std::string TestMmprojPath(const std::string& name) {
  return TestModelPath(name + "-mmproj");
}

inline std::string SourcePath(const std::string& path) { return RKV_SOURCE_DIR "/" + path; }

// SmolLM2-135M-Instruct, if the set-up fetched it; else empty.
inline std::string SmolLm2Path() {
  const std::string path = SourcePath(".deps/models/SmolLM2-135M-Instruct.Q4_1.gguf");
  return std::filesystem::exists(path) ? path : "";
}

// Why tests on real weights cannot run here, or null if they can.
inline const char* WhyNoRealWeights() {
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  return "real weights take too long under sanitizers; generated models cover the same code";
#else
  if (!SmolLm2Path().empty()) return nullptr;
  return "SmolLM2 was not fetched; scripts/test.sh does it where a network allows";
#endif
}

// Why the quality of results is not measured here, or null if it is: it is the same in every build.
inline const char* WhyNoQuality() {
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  return "the quality of results is measured in builds without sanitizers, which are faster";
#else
  return nullptr;
#endif
}

}  // namespace rkv

#endif  // RETENTIVEKV_TESTS_SUPPORT_TEST_MODELS_H_
