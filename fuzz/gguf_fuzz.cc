// Model files: any bytes give a model or an error, before and inside llama.cpp.
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <string>

#include "retentivekv/engine.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::string path = "/dev/shm/rkv-gguf-fuzz-" + std::to_string(::getpid()) + ".gguf";
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  rkv::EngineOptions options;
  options.model = path;
  options.n_threads = 1;
  const auto engine = rkv::Engine::Load(options);
  if (!engine.ok() && engine.status().message().empty()) std::abort();
  std::remove(path.c_str());
  return 0;
}
