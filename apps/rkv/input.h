// What commands read in common: whole files.
#ifndef RETENTIVEKV_APPS_RKV_INPUT_H_
#define RETENTIVEKV_APPS_RKV_INPUT_H_

#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "retentivekv/status.h"

namespace rkv::app {

inline Result<std::string> ReadPicture(const std::string& path) {
  std::error_code error;
  std::ifstream file(path, std::ios::binary);
  std::string bytes(std::istreambuf_iterator<char>(file), {});
  if (!file || std::filesystem::is_directory(path, error)) {
    return BadFile(fmt::format("cannot read the picture '{}'", path));
  }
  return bytes;
}

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_INPUT_H_
