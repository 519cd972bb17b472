#include "reference_model.h"

#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <vector>

namespace rkv::app {

namespace fs = std::filesystem;

namespace {

std::vector<fs::path> SearchPath() {
  std::vector<fs::path> path;
  if (const char* dir = std::getenv("RKV_REFERENCE_DIR"); dir != nullptr) path.emplace_back(dir);
  std::error_code error;
  const fs::path self = fs::read_symlink("/proc/self/exe", error);
  if (!error) path.push_back(self.parent_path() / ".." / "share" / "retentivekv" / "reference");
  path.emplace_back(RKV_SOURCE_REFERENCE_DIR);
  return path;
}

}  // namespace

Status UseReferenceModel(EngineOptions& options, std::string_view name) {
  const std::string model = fmt::format("{}-f16.gguf", name);
  const std::string mmproj = "mmproj-" + model;
  std::error_code error;
  std::string tried;
  for (const fs::path& dir : SearchPath()) {
    if (fs::exists(dir / model, error) && fs::exists(dir / mmproj, error)) {
      options.model = (dir / model).string();
      if (options.mmproj.empty()) options.mmproj = (dir / mmproj).string();
      return OkStatus();
    }
    tried += fmt::format(" {}", dir.string());
  }
  return BadFile(fmt::format("the bundled model was not found in:{}; pass a model with -m", tried));
}

Result<std::string> FindReferenceFile(const std::string& name) {
  std::error_code error;
  std::string tried;
  for (const fs::path& dir : SearchPath()) {
    if (fs::exists(dir / name, error)) return (dir / name).string();
    tried += fmt::format(" {}", dir.string());
  }
  return BadFile(fmt::format("'{}' was not found in:{}", name, tried));
}

}  // namespace rkv::app
