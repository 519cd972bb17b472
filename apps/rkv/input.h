// What commands read in common: whole files.
#ifndef RETENTIVEKV_APPS_RKV_INPUT_H_
#define RETENTIVEKV_APPS_RKV_INPUT_H_

#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <string_view>

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

// `what` is its role in errors, e.g. "prompt". "-" is the standard input.
inline Result<std::string> ReadTextFile(std::string_view what, const std::string& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    return BadFile(fmt::format("the {} file '{}' is a directory", what, path));
  }
  if (path == "-") return std::string(std::istreambuf_iterator<char>(std::cin), {});
  std::ifstream file(path, std::ios::binary);
  std::string text(std::istreambuf_iterator<char>(file), {});
  if (!file) return BadFile(fmt::format("cannot read the {} file '{}'", what, path));
  return text;
}

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_INPUT_H_
