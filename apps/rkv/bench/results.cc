// The values of rows, and the tables of `rkv bench` as Markdown, CSV and JSON.
#include "bench/results.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "choices.h"
#include "output.h"

namespace rkv::app {

namespace {

constexpr double kMiB = 1024.0 * 1024.0;

std::string SizeText(uint64_t bytes) {
  const auto size = static_cast<double>(bytes);
  return size < 1024 * kMiB ? fmt::format("{:.2f} MiB", size / kMiB)
                            : fmt::format("{:.2f} GiB", size / kMiB / 1024);
}

std::string ParamsText(uint64_t n) {
  return n < 1000000000 ? fmt::format("{:.2f} M", static_cast<double>(n) / 1e6)
                        : fmt::format("{:.2f} B", static_cast<double>(n) / 1e9);
}

std::string MiB(double bytes) { return fmt::format("{:.1f}", bytes / kMiB); }

template <typename T>
std::string Optional(const char* format, const std::optional<T>& value, double factor = 1) {
  return value.has_value() ? fmt::format(fmt::runtime(format), *value * factor) : "";
}

std::string CompressText(const BenchRow& row) {
  if (row.cache.stock) return "";
  return fmt::format("{:.2f} ms ({:.2f} %)", 1000 * row.compress_seconds,
                     100 * row.compress_share());
}

enum class Tables { kBoth, kCaches, kServe };

struct Column {
  const char* name;
  bool right;  // aligned
  std::string (*text)(const BenchRow&);
  Tables tables = Tables::kBoth;
};

const Column kColumns[] = {
    {"model", false, [](const BenchRow& r) { return r.model.description; }},
    {"size", true, [](const BenchRow& r) { return SizeText(r.model.size); }},
    {"params", true, [](const BenchRow& r) { return ParamsText(r.model.n_params); }},
    {"threads", true, [](const BenchRow& r) { return std::to_string(r.n_threads); }},
    {"n_batch", true, [](const BenchRow& r) { return std::to_string(r.n_batch); }, Tables::kCaches},
    {"n_ubatch", true, [](const BenchRow& r) { return std::to_string(r.n_ubatch); }},
    {"batch", true, [](const BenchRow& r) { return std::to_string(r.n_conversations); },
     Tables::kCaches},
    {"engine", false, [](const BenchRow& r) { return r.cache.engine(); }, Tables::kCaches},
    {"policy", false, [](const BenchRow& r) { return r.cache.policy(); }},
    {"budget", true, [](const BenchRow& r) { return r.cache.budget(); }},
    {"type", false, [](const BenchRow& r) { return r.cache.type(); }},
    {"held", true, [](const BenchRow& r) { return std::to_string(r.serve->n_held); },
     Tables::kServe},
    {"held x full", true,
     [](const BenchRow& r) { return Optional("{:.2f}", r.serve->held_ratio()); }, Tables::kServe},
    {"clients", true, [](const BenchRow& r) { return std::to_string(r.n_conversations); },
     Tables::kServe},
    {"test", true, [](const BenchRow& r) { return r.test.name(); }},
    {"t/s", true,
     [](const BenchRow& r) {
       return fmt::format("{:.2f} ± {:.2f}", r.median_ts(), r.half_range_ts());
     }},
    {"x stock", true, [](const BenchRow& r) { return Optional("{:.2f}", r.ratio()); },
     Tables::kCaches},
    {"t/s x full", true, [](const BenchRow& r) { return Optional("{:.2f}", r.full_ratio()); },
     Tables::kServe},
    {"restored", true, [](const BenchRow& r) { return fmt::format("{:.1f}", r.serve->n_restored); },
     Tables::kServe},
    {"KV MiB", true, [](const BenchRow& r) { return MiB(static_cast<double>(r.held_bytes)); }},
    {"peak KV MiB", true,
     [](const BenchRow& r) { return MiB(static_cast<double>(r.peak.kv_bytes)); }},
    {"peak MiB", true,
     [](const BenchRow& r) { return MiB(static_cast<double>(r.peak.process_bytes)); },
     Tables::kCaches},
    {"MB/token", true,
     [](const BenchRow& r) { return Optional("{:.1f}", r.bytes_per_token(), 1e-6); },
     Tables::kCaches},
    {"of read", true,
     [](const BenchRow& r) { return Optional("{:.0f} %", r.bandwidth_share(), 100); },
     Tables::kCaches},
    {"compress", true, CompressText, Tables::kCaches},
};

bool OfServe(std::span<const BenchRow> rows) {
  return !rows.empty() && rows.front().serve.has_value();
}

// Leaves out columns with the default value in all rows, as in llama-bench.
bool Shown(const Column& column, std::span<const BenchRow> rows) {
  if (column.tables == (OfServe(rows) ? Tables::kCaches : Tables::kServe)) return false;
  static const std::map<std::string_view, std::string> kDefaults = {
      {"n_batch", "2048"}, {"n_ubatch", "512"}, {"batch", "1"}};
  const auto found = kDefaults.find(column.name);
  if (found == kDefaults.end()) return true;
  return std::ranges::any_of(rows,
                             [&](const BenchRow& r) { return column.text(r) != found->second; });
}

nlohmann::ordered_json OptionalJson(const std::optional<double>& value) {
  return value.has_value() ? nlohmann::ordered_json(*value) : nlohmann::ordered_json();
}

// The width in characters: the table's only character of two bytes counts once.
size_t Width(const std::string& text) {
  return static_cast<size_t>(
      std::ranges::count_if(text, [](char c) { return (c & 0xc0) != 0x80; }));
}

std::string CsvValue(const nlohmann::ordered_json& value) {
  if (value.is_null()) return "";
  return value.is_string() ? CsvText(value.get<std::string>()) : value.dump();
}

nlohmann::ordered_json RowJson(const BenchHeader& header, const BenchRow& row) {
  const std::vector<double> ts = row.tokens_per_second();
  std::vector<uint64_t> samples_ns;
  for (const double s : row.seconds) samples_ns.push_back(static_cast<uint64_t>(s * 1e9));
  const bool serve = row.serve.has_value();
  nlohmann::ordered_json json = {{"model_filename", row.model.file},
                                 {"model_type", row.model.description},
                                 {"model_size", row.model.size},
                                 {"model_n_params", row.model.n_params},
                                 {"n_threads", row.n_threads},
                                 {"n_batch", row.n_batch},
                                 {"n_ubatch", row.n_ubatch},
                                 {"n_conversations", row.n_conversations},
                                 {"engine", row.cache.engine()},
                                 {"policy", row.cache.policy()},
                                 {"budget", row.cache.budget()},
                                 {"type", row.cache.type()},
                                 {"test", row.test.name()},
                                 {"n_prompt", row.test.prefill ? row.test.n : 0},
                                 {"n_gen", row.test.prefill ? 0 : row.test.n},
                                 {"n_depth", row.test.depth},
                                 {"random_depth", header.random_depth},
                                 {"median_ts", row.median_ts()},
                                 {"min_ts", *std::ranges::min_element(ts)},
                                 {"max_ts", *std::ranges::max_element(ts)},
                                 {"stock_ratio", nullptr},
                                 {"kv_bytes", row.held_bytes},
                                 {"kv_full_bytes", row.full_bytes},
                                 {"peak_kv_bytes", row.peak.kv_bytes},
                                 {"peak_bytes", row.peak.process_bytes},
                                 {"weight_read_bytes", row.model.read_bytes},
                                 {"stock_weights", row.model.stock_weights},
                                 {"cache_read_bytes", row.cache_read_bytes},
                                 {"bytes_per_token", nullptr},
                                 {"read_bandwidth", row.bandwidth},
                                 {"read_bandwidth_share", nullptr},
                                 {"compress_ms", 1000 * row.compress_seconds},
                                 {"compress_share", row.compress_share()},
                                 {"observe_ms", 1000 * row.observe_seconds},
                                 {"samples_ns", samples_ns},
                                 {"samples_ts", ts}};
  if (serve) {
    for (const char* name :
         {"n_batch", "random_depth", "stock_ratio", "peak_bytes", "weight_read_bytes",
          "stock_weights", "cache_read_bytes", "bytes_per_token", "read_bandwidth",
          "read_bandwidth_share", "compress_ms", "compress_share", "observe_ms"}) {
      json.erase(name);
    }
    json.update({{"memory_bytes", row.serve->memory_bytes},
                 {"conversations_held", row.serve->n_held},
                 {"conversations_held_ratio", OptionalJson(row.serve->held_ratio())},
                 {"conversations_restored", row.serve->n_restored},
                 {"full_ratio", OptionalJson(row.full_ratio())}});
    return json;
  }
  if (row.ratio().has_value()) json["stock_ratio"] = *row.ratio();
  if (row.bytes_per_token().has_value()) {
    json["bytes_per_token"] = *row.bytes_per_token();
    json["read_bandwidth_share"] = *row.bandwidth_share();
  }
  return json;
}

// The text below a table of --serve.
std::string ServeNotes(const BenchHeader& header, const BenchRow& row) {
  return fmt::format(
      "- held: conversations with an answer in progress that fit into {} MiB (--memory); x full: "
      "relative to the first full cache, with the same number of clients\n"
      "- t/s: of all clients together, from the last question to the last answer, including "
      "restores from disk; median of {} repetitions, interleaved over the lines with the same "
      "number of clients, ± half of the range\n"
      "- restored: parked conversations that were restored from disk, in one repetition; KV MiB: "
      "in memory at the end; peak KV MiB: maximum after any step\n"
      "- compression: {}; seed {}\n- command: `{}`\n",
      MiB(static_cast<double>(row.serve->memory_bytes)), header.repetitions,
      ToString(header.compression), header.seed, header.command);
}

}  // namespace

double Median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::ranges::nth_element(values, middle);
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

double BenchRow::median_seconds() const { return Median(seconds); }

std::vector<double> BenchRow::tokens_per_second() const {
  std::vector<double> ts;
  for (const double s : seconds) ts.push_back(static_cast<double>(n_tokens()) / s);
  return ts;
}

double BenchRow::half_range_ts() const {
  const std::vector<double> ts = tokens_per_second();
  const auto [min_rate, max_rate] = std::ranges::minmax_element(ts);
  return (*max_rate - *min_rate) / 2;
}

std::optional<double> BenchRow::ratio() const {
  if (!stock_seconds.has_value()) return std::nullopt;
  return *stock_seconds / median_seconds();
}

std::optional<double> BenchRow::full_ratio() const {
  if (!serve.has_value() || !serve->full_seconds.has_value()) return std::nullopt;
  return *serve->full_seconds / median_seconds();
}

std::optional<double> ServeLoad::held_ratio() const {
  if (!full_held.has_value()) return std::nullopt;
  return static_cast<double>(n_held) / static_cast<double>(*full_held);
}

std::optional<double> BenchRow::bytes_per_token() const {
  if (test.prefill) return std::nullopt;
  return (static_cast<double>(model.read_bytes) + cache_read_bytes) / n_conversations;
}

std::optional<double> BenchRow::bandwidth_share() const {
  if (test.prefill || bandwidth <= 0) return std::nullopt;
  return *bytes_per_token() * median_ts() / bandwidth;
}

double BenchRow::compress_share() const {
  double mean = 0;
  for (const double s : seconds) mean += s / static_cast<double>(seconds.size());
  return compress_seconds / mean;
}

void CompareWithStock(std::span<BenchRow> rows) {
  const auto stock = std::ranges::find_if(rows, [](const BenchRow& r) { return r.cache.stock; });
  if (stock == rows.end()) return;
  const double seconds = stock->median_seconds();
  for (BenchRow& row : rows) row.stock_seconds = seconds;
}

void CompareWithFull(std::span<BenchRow> rows) {
  const auto full = std::ranges::find_if(rows, [](const BenchRow& row) {
    const PolicyDescription* policy = FindPolicy(ChosenPolicy(row.cache.options).name);
    return policy != nullptr && !policy->evicts;
  });
  if (full == rows.end()) return;
  const size_t n_held = full->serve->n_held;
  const double seconds = full->median_seconds();
  for (BenchRow& row : rows) {
    row.serve->full_held = n_held;
    row.serve->full_seconds = seconds;
  }
}

std::string BenchMarkdown(const BenchHeader& header, std::span<const BenchRow> rows) {
  std::vector<std::vector<std::string>> columns;  // texts, the name first
  std::vector<bool> right;
  for (const Column& column : kColumns) {
    if (!Shown(column, rows)) continue;
    right.push_back(column.right);
    columns.push_back({column.name});
    for (const BenchRow& row : rows) columns.back().push_back(column.text(row));
  }
  std::string text;
  for (size_t line = 0; line <= rows.size(); ++line) {
    std::string rule;
    for (size_t c = 0; c < columns.size(); ++c) {
      size_t width = 0;
      for (const std::string& cell : columns[c]) width = std::max(width, Width(cell));
      const std::string& cell = columns[c][line];
      const std::string space(width - Width(cell), ' ');
      text += fmt::format("| {} ", right[c] ? space + cell : cell + space);
      rule += fmt::format("| {}{} ", std::string(width - 1, '-'), right[c] ? ':' : '-');
    }
    text += "|\n";
    if (line == 0) text += rule + "|\n";
  }
  text += fmt::format("\n- {}, {}\n", header.version, header.cpu);
  if (OfServe(rows)) return text + ServeNotes(header, rows.front());
  text += fmt::format(
      "- t/s: median of {} repetitions, interleaved over the lines of a test, ± half of the range; "
      "x stock: relative to the first line of llama.cpp in the same test\n",
      header.repetitions);
  text +=
      "- KV MiB: held at the end of the test; peak KV MiB: maximum, including the ubatch and the "
      "buffers of attention and compression (llama.cpp: its allocation); peak MiB: of a process "
      "with this cache\n"
      "- MB/token: weights and cache that decoding reads once; of read: MB/token times t/s, as a "
      "share of the measured bandwidth; compress: of one repetition\n";
  // The lowest and the highest of the tests' medians.
  std::map<int, std::pair<double, double>> bandwidths;
  for (const BenchRow& row : rows) {
    auto& [low, high] =
        bandwidths.try_emplace(row.n_threads, row.bandwidth, row.bandwidth).first->second;
    low = std::min(low, row.bandwidth);
    high = std::max(high, row.bandwidth);
  }
  for (const auto& [n_threads, range] : bandwidths) {
    const std::string low = fmt::format("{:.1f}", range.first / 1e9);
    const std::string high = fmt::format("{:.1f}", range.second / 1e9);
    text += fmt::format("- {} {} from memory {} GB/s\n", n_threads,
                        n_threads == 1 ? "thread reads" : "threads read",
                        low == high ? low : fmt::format("{} to {}", low, high));
  }
  const bool apart =
      std::ranges::any_of(rows, [](const BenchRow& r) { return r.model.stock_weights; });
  text += apart ? "- weights: rkv's in huge pages, llama.cpp's as loaded by default\n"
                : "- weights: in the same memory for all\n";
  const bool deep = std::ranges::any_of(rows, [](const BenchRow& r) { return r.test.depth > 0; });
  if (deep) {
    text += header.random_depth
                ? "- depth: RANDOM keys and values on both sides, not read by the model\n"
                : "- depth: random tokens, read by the model on both sides\n";
  }
  text += fmt::format("- compression: {}; seed {}\n- command: `{}`\n", ToString(header.compression),
                      header.seed, header.command);
  return text;
}

std::string BenchCsv(const BenchHeader& header, std::span<const BenchRow> rows) {
  std::string text;
  for (const BenchRow& row : rows) {
    nlohmann::ordered_json json = RowJson(header, row);
    json.erase("samples_ns");
    json.erase("samples_ts");
    std::string names, values;
    for (const auto& [name, value] : json.items()) {
      if (!names.empty()) {
        names += ',';
        values += ',';
      }
      names += name;
      values += CsvValue(value);
    }
    if (text.empty()) text = names + "\n";
    text += values + "\n";
  }
  return text;
}

std::string BenchJson(const BenchHeader& header, std::span<const BenchRow> rows) {
  nlohmann::ordered_json json = {{"command", header.command},
                                 {"version", header.version},
                                 {"cpu", header.cpu},
                                 {"repetitions", header.repetitions},
                                 {"compression", ToString(header.compression)},
                                 {"seed", header.seed},
                                 {"results", nlohmann::ordered_json::array()}};
  for (const BenchRow& row : rows) json["results"].push_back(RowJson(header, row));
  return json.dump(2) + "\n";
}

}  // namespace rkv::app
