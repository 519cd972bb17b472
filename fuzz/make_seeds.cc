// Writes the seeds of the fuzz corpora: make_fuzz_seeds DIR.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "fuzz/session_shape.h"
#include "lab/model_maker.h"
#include "support/encoded_pictures.h"

namespace {

namespace fs = std::filesystem;

void Write(const fs::path& path, const std::string& bytes) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary).write(bytes.data(), std::ssize(bytes));
}

void WriteRequests(const fs::path& dir) {
  const std::vector<std::string> bodies = {
      R"({"messages":[{"role":"user","content":"Hello"}],"stream":true,"max_tokens":8})",
      R"({"messages":[{"role":"system","content":"s"},{"role":"user","content":[
        {"type":"text","text":"What is it?"},
        {"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0KGgo="}}]}],
        "temperature":0.5,"top_p":0.9,"seed":1,"stop":["\n"],"logprobs":true,"top_logprobs":2,
        "stream_options":{"include_usage":true}})",
      R"({"prompt":"Once","n_predict":4,"stop":"x","logprobs":1,"policy":"retentive","budget":"20%"})",
      R"({"content":"tokens of this"})", "data:image/png;base64,iVBORw0KGgo="};
  for (size_t i = 0; i < bodies.size(); ++i) Write(dir / std::to_string(i), bodies[i]);
}

void WritePictures(const fs::path& dir) {
  const std::vector<std::string> files = rkv::PicturesOfEachFormat(12, 8);
  for (size_t i = 0; i < files.size(); ++i) Write(dir / std::to_string(i), files[i]);
}

// Caches of each kind: full, with several rungs, with states, with pictures.
bool WriteSessions(const fs::path& dir) {
  for (const rkv::PolicyDescription& policy : rkv::DescribePolicies()) {
    rkv::CacheOptions options;
    options.policy = {.name = policy.name, .options = {}};
    if (policy.evicts) options.budget = {.unit = rkv::Budget::Unit::kPercent, .amount = 40};
    rkv::Result<rkv::KvCache> cache = rkv::KvCache::Create(rkv::FuzzedShape(), options);
    if (!cache.ok()) {
      std::fprintf(stderr, "error: %s: %s\n", policy.name.c_str(),
                   std::string(cache.status().message()).c_str());
      return false;
    }
    cache->AddMedia({.first_token = 2, .rows = 4, .columns = 6});
    for (const size_t n : {26, 9, 1, 1, 1}) {
      rkv::AppendTokens(*cache, n, 0.1f * static_cast<float>(n));
    }
    Write(dir / policy.name, cache->Save());
  }
  return true;
}

bool WriteModels(const fs::path& dir) {
  fs::create_directories(dir);
  for (const char* arch : {"llama", "qwen2", "qwen2vl", "gemma2"}) {
    rkv::ModelSpec spec{.arch = arch, .n_layer = 1, .n_head = 1, .n_head_kv = 1, .head_dim = 32};
    spec.n_embd = 32;
    spec.n_ff = 32;
    const rkv::Status status = rkv::MakeModel(spec, (dir / arch).string());
    if (!status.ok()) {
      std::fprintf(stderr, "error: %s\n", std::string(status.message()).c_str());
      return false;
    }
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: make_fuzz_seeds DIR\n");
    return 2;
  }
  const fs::path dir(argv[1]);
  WriteRequests(dir / "request");
  WritePictures(dir / "picture");
  return WriteSessions(dir / "session") && WriteModels(dir / "gguf") ? 0 : 1;
}
