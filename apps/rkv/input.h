// What commands read in common: whole files, and prompts.
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

// A text as it is in a file or comes through a pipe, without what is only a file's: a byte order
// mark, Windows' line ends and the last line's end. `name` is for errors.
inline Result<std::string> ReadText(std::istream& file, const std::string& name) {
  constexpr size_t kMaxTextBytes = size_t{1} << 28;
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  std::string text;
  char chunk[1 << 16];
  while (file.read(chunk, sizeof(chunk)), file.gcount() > 0) {
    text.append(chunk, static_cast<size_t>(file.gcount()));
    if (text.size() > kMaxTextBytes) {
      return BadFile(
          fmt::format("{} has more than the {} MiB that are read", name, kMaxTextBytes >> 20));
    }
  }
  if (!file.eof()) return BadFile(fmt::format("cannot read {}", name));
  if (text.starts_with(kByteOrderMark)) text.erase(0, kByteOrderMark.size());
  std::string lines;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\r' || text[i + 1] != '\n') lines += text[i];
  }
  if (lines.ends_with('\n')) lines.pop_back();
  return lines;
}

// The same of a file. `what` is its role in errors, e.g. "prompt". "-" is the standard input.
inline Result<std::string> ReadTextFile(std::string_view what, const std::string& path) {
  if (path == "-") return ReadText(std::cin, fmt::format("the {} on stdin", what));
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    return BadFile(fmt::format("the {} file '{}' is a directory", what, path));
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) return BadFile(fmt::format("cannot read the {} file '{}'", what, path));
  return ReadText(file, fmt::format("the {} file '{}'", what, path));
}

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_INPUT_H_
