// Writes every test model into a folder: make_test_models DIR.
#include <llama.h>

#include <cstdio>
#include <filesystem>

#include "llama/log.h"
#include "support/test_models.h"

namespace {

using std::filesystem::path;

// The model, its vision part if it has one, and the same weights in f32.
rkv::Status Make(const path& dir, const std::string& name, rkv::ModelSpec spec) {
  RKV_RETURN_IF_ERROR(rkv::MakeModel(spec, (dir / (name + ".gguf")).string()));
  if (rkv::MakeModelHasVision(spec.arch)) {
    RKV_RETURN_IF_ERROR(rkv::MakeMmproj(spec, (dir / (name + "-mmproj.gguf")).string()));
  }
  spec.type = "f32";
  return rkv::MakeModel(spec, (dir / (name + "-f32.gguf")).string());
}

// SmolLM2 with its weights as f16.
rkv::Status MakeSmolLm2F16(const path& dir) {
  if (rkv::SmolLm2Path().empty()) return rkv::OkStatus();
  rkv::CaptureLlamaLogs();
  llama_model_quantize_params params = llama_model_quantize_default_params();
  params.ftype = LLAMA_FTYPE_MOSTLY_F16;
  params.allow_requantize = true;
  const std::string out = (dir / "smollm2-f16.gguf").string();
  const bool ok = llama_model_quantize(rkv::SmolLm2Path().c_str(), out.c_str(), &params) == 0;
  return ok ? rkv::OkStatus() : rkv::Internal("cannot convert SmolLM2");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: make_test_models DIR\n");
    return 2;
  }
  std::filesystem::create_directories(argv[1]);
  rkv::Status status = MakeSmolLm2F16(argv[1]);
  for (const auto& [name, spec] : rkv::TestModels()) {
    if (status.ok()) status = Make(argv[1], name, spec);
  }
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", status.message().c_str());
  return 1;
}
