// Output that several commands write: text that is safe inside XML and CSV, and whole files.
#ifndef RETENTIVEKV_APPS_RKV_OUTPUT_H_
#define RETENTIVEKV_APPS_RKV_OUTPUT_H_

#include <fmt/format.h>

#include <fstream>
#include <string>
#include <string_view>

#include "retentivekv/status.h"

namespace rkv::app {

inline std::string XmlText(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    escaped += c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : std::string(1, c);
  }
  return escaped;
}

// Always in quotation marks.
inline std::string CsvText(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? "\"\"" : std::string(1, c);
  return quoted + "\"";
}

// kBadFile after an incomplete write. `what` is its role in that error, e.g. "the report ".
inline Status WriteOutput(const std::string& path, std::string_view bytes,
                          std::string_view what = "") {
  std::ofstream file(path, std::ios::binary);
  file << bytes;
  file.close();
  return file ? OkStatus() : BadFile(fmt::format("cannot write {}'{}'", what, path));
}

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_OUTPUT_H_
