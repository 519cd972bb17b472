// What `rkv bench` measured, and its table as Markdown, CSV and JSON.
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

// What a row of --serve has besides.
struct ServeLoad {
  uint64_t memory_bytes = 0;           // for all caches together
  size_t n_held = 0;                   // conversations of this cache that fit
  double n_restored = 0;               // that came back from disk in a repetition, mean
  std::optional<size_t> full_held;     // n_held of the first cache that keeps everything
  std::optional<double> full_seconds;  // its median with as many clients

  std::optional<double> held_ratio() const;
};

// One cache in one test.
struct BenchRow {
  BenchModelInfo model;
  int n_threads = 0;
  int n_batch = 0;
  int n_ubatch = 0;
  int n_conversations = 1;  // decoded together, or clients of --serve
  double bandwidth = 0;     // bytes per second that so many threads read
  BenchCache cache;
  BenchTest test;

  std::vector<double> seconds;          // of each repetition
  std::optional<double> stock_seconds;  // median of the first stock cache in the same test
  uint64_t held_bytes = 0;              // by the caches, at the end of the test
  uint64_t full_bytes = 0;              // what f16 caches of all tokens would hold
  double cache_read_bytes = 0;          // by a step of decoding, mean over the test
  double compress_seconds = 0;          // of a repetition, mean
  double observe_seconds = 0;           // likewise
  BenchPeak peak;
  std::optional<ServeLoad> serve;

  size_t n_tokens() const { return test.n * static_cast<size_t>(n_conversations); }
  double median_seconds() const;
  std::vector<double> tokens_per_second() const;  // of each repetition
  double median_ts() const { return static_cast<double>(n_tokens()) / median_seconds(); }
  double half_range_ts() const;              // half of the way from the slowest to the fastest
  std::optional<double> ratio() const;       // to stock, of speeds
  std::optional<double> full_ratio() const;  // to the full cache, of speeds with --serve
  // Of decoding: bytes that it reads per token, and the share of the bandwidth that this is.
  std::optional<double> bytes_per_token() const;
  std::optional<double> bandwidth_share() const;
  double compress_share() const;  // of the test's time
};

// The middle one, or the mean of the two in the middle. REQUIRES: not empty.
double Median(std::vector<double> values);

// Sets stock_seconds of the rows of one test.
void CompareWithStock(std::span<BenchRow> rows);

// Sets what rows of --serve with as many clients tell about the full cache.
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
