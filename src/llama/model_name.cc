#include "llama/model_name.h"

#include <fmt/format.h>
#include <llama.h>

#include <filesystem>
#include <regex>

#include "base/strings.h"
#include "base/utf8.h"

namespace rkv {

namespace {

constexpr size_t kMaxName = 80;

// A file's text as one short line, safe for terminals and tables.
std::string OneLine(std::string_view text) {
  std::string line;
  for (const char c : text.substr(0, kMaxName)) {
    const auto byte = static_cast<unsigned char>(c);
    line += byte < 0x20 || byte == 0x7f || c == '|' ? ' ' : c;
  }
  line.resize(CompleteUtf8Prefix(line));
  return std::string(TrimSpace(line));
}

std::string Metadata(const llama_model* model, const char* key) {
  char text[256] = {};
  if (llama_model_meta_val_str(model, key, text, sizeof(text)) < 0) return {};
  return OneLine(text);
}

// "135M", "1.5B".
std::string SizeText(uint64_t n_parameters) {
  const auto n = static_cast<double>(n_parameters);
  if (n < 1e6) return fmt::format("{:.0f}K", n / 1e3);
  const char unit = n < 1e9 ? 'M' : 'B';
  const double number = n < 1e9 ? n / 1e6 : n / 1e9;
  return number < 10 ? fmt::format("{:.1f}{}", number, unit)
                     : fmt::format("{:.0f}{}", number, unit);
}

bool NamesSize(const std::string& name) {
  static const std::regex size(
      R"((^|[^A-Za-z0-9])([0-9]+x)?[0-9]+(\.[0-9]+)?[KMBTkmbt]([^A-Za-z0-9]|$))");
  return std::regex_search(name, size);
}

}  // namespace

std::string ModelName(const ModelNames& names, uint64_t n_parameters, std::string_view path) {
  std::string name = names.name;
  if (!names.basename.empty()) {
    name = names.basename;
    if (!names.size_label.empty()) name += "-" + names.size_label;
  }
  if (name.empty()) name = names.arch.empty() ? "model" : names.arch;
  const std::string file = std::filesystem::path(path).filename().string();
  if (ToLower(file).starts_with(ToLower(name))) name = OneLine(file.substr(0, name.size()));
  if (!NamesSize(name)) name += fmt::format(" {}", SizeText(n_parameters));
  return name;
}

std::string DescribeModel(const llama_model* model, std::string_view path) {
  const std::string name = ModelName({.name = Metadata(model, "general.name"),
                                      .basename = Metadata(model, "general.basename"),
                                      .size_label = Metadata(model, "general.size_label"),
                                      .arch = Metadata(model, "general.architecture")},
                                     llama_model_n_params(model), path);
  // "llama 256M Q4_1": only the part after the second space is correct for every file.
  char text[256] = {};
  llama_model_desc(model, text, sizeof(text));
  std::string_view type = text;
  for (int i = 0; i < 2; ++i) {
    const size_t space = type.find(' ');
    type.remove_prefix(space == std::string_view::npos ? type.size() : space + 1);
  }
  return type.empty() ? name : fmt::format("{} {}", name, type);
}

}  // namespace rkv
