// The results of `rkv bench`, and its table as Markdown, CSV and JSON.
#ifndef RETENTIVEKV_APPS_RKV_BENCH_RESULTS_H_
#define RETENTIVEKV_APPS_RKV_BENCH_RESULTS_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "bench/plan.h"
#include "lab/bench.h"

namespace rkv::app {

struct BenchModelInfo {
  std::string file;
  std::string description;
  uint64_t size = 0;
  uint64_t n_params = 0;
  uint64_t read_bytes = 0;     // as BenchModel::read_bytes()
  bool stock_weights = false;  // as BenchModel::has_stock_weights()
};

// The extra values of a --serve row.
struct ServeLoad {
  uint64_t memory_bytes = 0;           // for all caches together
  size_t n_held = 0;                   // conversations of this cache that fit
  double n_restored = 0;               // conversations read back from disk in a repetition, mean
  std::optional<size_t> full_held;     // n_held of the first cache that keeps everything
  std::optional<double> full_seconds;  // its median with the same number of clients

  std::optional<double> held_ratio() const;
};

// The result of one cache in one test.
struct BenchRow {
  BenchModelInfo model;
  int n_threads = 0;
  int n_batch = 0;
  int n_ubatch = 0;
  int n_conversations = 1;  // decoded together, or clients of --serve
  double bandwidth = 0;     // bytes per second that n_threads threads read
  BenchCache cache;
  BenchTest test;

  std::vector<double> seconds;          // of each repetition
  std::optional<double> stock_seconds;  // median of the first stock cache in the same test
  uint64_t held_bytes = 0;              // by the caches, at the end of the test
  uint64_t full_bytes = 0;              // of f16 caches with all tokens
  double cache_read_bytes = 0;          // by a step of decoding, mean over the test
  double compress_seconds = 0;          // of a repetition, mean
  double observe_seconds = 0;           // likewise
  BenchPeak peak;
  std::optional<ServeLoad> serve;

  size_t n_tokens() const { return test.n * static_cast<size_t>(n_conversations); }
  double median_seconds() const;
  std::vector<double> tokens_per_second() const;  // of each repetition
  double median_ts() const { return static_cast<double>(n_tokens()) / median_seconds(); }
  double half_range_ts() const;              // half the difference of the fastest and the slowest
  std::optional<double> ratio() const;       // to stock, of speeds
  std::optional<double> full_ratio() const;  // to the full cache, of speeds with --serve
  // Of decoding: the bytes read per token, and their share of the bandwidth.
  std::optional<double> bytes_per_token() const;
  std::optional<double> bandwidth_share() const;
  double compress_share() const;  // of the test's time
};

// The middle value, or the mean of the two middle values. REQUIRES: not empty.
double Median(std::vector<double> values);

// Sets stock_seconds of the rows of one test.
void CompareWithStock(std::span<BenchRow> rows);

// Sets full_held and full_seconds of --serve rows with equal numbers of clients.
void CompareWithFull(std::span<BenchRow> rows);

struct BenchHeader {
  std::string command;
  std::string version;  // of rkv and llama.cpp
  std::string cpu;
  int repetitions = 0;
  bool random_depth = false;
  Compression compression = Compression::kStreaming;
  uint64_t seed = 0;
};

std::string BenchMarkdown(const BenchHeader& header, std::span<const BenchRow> rows);
std::string BenchCsv(const BenchHeader& header, std::span<const BenchRow> rows);
std::string BenchJson(const BenchHeader& header, std::span<const BenchRow> rows);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_BENCH_RESULTS_H_
