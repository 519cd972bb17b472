// Input that several commands read: whole files, and prompts.
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

inline constexpr size_t kMaxInputBytes = size_t{1} << 30;

// Reads a whole file, or a pipe to its end, such as a shell's <(command). `what` is its role in
// errors, e.g. "picture". kBadFile for anything else, such as a device, which may have no end.
inline Result<std::string> ReadInput(const std::string& path, std::string_view what) {
  namespace fs = std::filesystem;
  const auto refuse = [&](std::string_view why) {
    return BadFile(fmt::format("cannot read the {} '{}': {}", what, path, why));
  };
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) return refuse(error ? error.message() : "it does not exist");
  if (fs::is_directory(status)) return refuse("it is a directory");
  if (!fs::is_regular_file(status) && !fs::is_fifo(status)) {
    return refuse("it is a device, not a file");
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) return refuse("permission denied");
  std::string bytes;
  char chunk[1 << 16];
  while (file.read(chunk, sizeof(chunk)) || file.gcount() > 0) {
    bytes.append(chunk, static_cast<size_t>(file.gcount()));
    if (bytes.size() > kMaxInputBytes) {
      return refuse(fmt::format("it is larger than {} MiB", kMaxInputBytes >> 20));
    }
  }
  if (file.bad()) return refuse("the read failed");
  return bytes;
}

inline Result<std::string> ReadPicture(const std::string& path) {
  return ReadInput(path, "picture");
}

// Reads a text and removes the marks of a file: a byte order mark, Windows' line ends and the last
// line end. `what` is its role in errors, e.g. "prompt". "-" is the standard input.
inline Result<std::string> ReadTextFile(std::string_view what, const std::string& path) {
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  std::string text;
  if (path == "-") {
    text.assign(std::istreambuf_iterator<char>(std::cin), {});
  } else {
    RKV_ASSIGN_OR_RETURN(text, ReadInput(path, fmt::format("{} file", what)));
  }
  if (text.starts_with(kByteOrderMark)) text.erase(0, kByteOrderMark.size());
  std::string lines;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\r' || text[i + 1] != '\n') lines += text[i];
  }
  if (lines.ends_with('\n')) lines.pop_back();
  return lines;
}

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_INPUT_H_
