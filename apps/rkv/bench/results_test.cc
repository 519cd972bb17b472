// Tables, ratios and plots of `rkv bench`, from rows with known times and bytes.
#include "bench/results.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "bench/plot.h"

namespace rkv::app {
namespace {

BenchRow Row(bool stock, size_t depth, std::vector<double> seconds) {
  BenchRow row;
  row.model = {.file = "a \"model\", 1.gguf",
               .description = "llama 7B Q4_0",
               .size = 3000000000,
               .n_params = 7000000000,
               .read_bytes = 1000000000};
  row.n_threads = 2;
  row.n_batch = 2048;
  row.n_ubatch = 512;
  row.bandwidth = 40e9;
  row.cache.stock = stock;
  row.test = {.prefill = false, .n = 100, .depth = depth};
  row.seconds = std::move(seconds);
  row.held_bytes = 5 << 20;
  row.full_bytes = 10 << 20;
  row.cache_read_bytes = 5e8;
  row.compress_seconds = stock ? 0 : 0.1;
  return row;
}

std::vector<BenchRow> Rows() {
  std::vector<BenchRow> rows = {Row(true, 0, {5, 4, 9}), Row(false, 0, {2, 2.5, 2}),
                                Row(true, 64, {10, 10, 10}), Row(false, 64, {4, 4, 4})};
  CompareWithStock(std::span(rows).first(2));
  CompareWithStock(std::span(rows).last(2));
  return rows;
}

const BenchHeader kHeader = {.command = "rkv bench",
                             .version = "rkv",
                             .cpu = "a CPU",
                             .repetitions = 3,
                             .random_depth = true,
                             .seed = 1};

TEST(ResultsTest, TheMedianIsTheMiddleOne) {
  EXPECT_DOUBLE_EQ(Median({3}), 3);
  EXPECT_DOUBLE_EQ(Median({9, 1, 5}), 5);
  EXPECT_DOUBLE_EQ(Median({9, 1, 5, 2}), 3.5);
}

TEST(ResultsTest, RowsOfServeAreComparedWithTheFullCache) {
  std::vector<BenchRow> rows = {Row(false, 64, {4, 5, 4}), Row(false, 64, {2, 2, 3})};
  rows[1].cache.options.policy.name = "retentive";
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i].n_conversations = 10;
    rows[i].serve.emplace();
    rows[i].serve->n_held = i == 0 ? 4 : 18;
  }
  CompareWithFull(rows);
  EXPECT_DOUBLE_EQ(*rows[1].full_ratio(), 2);
  EXPECT_DOUBLE_EQ(*rows[1].serve->held_ratio(), 4.5);
  EXPECT_DOUBLE_EQ(rows[1].median_ts(), 500);  // 10 clients, 100 tokens, 2 s
  const std::string table = BenchMarkdown(kHeader, rows);
  EXPECT_NE(table.find(" 4.50 |"), std::string::npos) << table;
  const auto json = nlohmann::json::parse(BenchJson(kHeader, rows));
  EXPECT_EQ(json["results"][1]["conversations_held_ratio"], 4.5);
  EXPECT_FALSE(json["results"][1].contains("stock_ratio"));
  EXPECT_NE(BenchCsv(kHeader, rows).find("conversations_held"), std::string::npos);
}

TEST(ResultsTest, RatiosAreOfMediansInTheSameTest) {
  const auto rows = Rows();
  EXPECT_DOUBLE_EQ(*rows[0].ratio(), 1);
  EXPECT_DOUBLE_EQ(*rows[1].ratio(), 2.5);  // 5 s over 2 s
  EXPECT_DOUBLE_EQ(*rows[3].ratio(), 2.5);
  EXPECT_DOUBLE_EQ(rows[0].median_ts(), 20);
  EXPECT_DOUBLE_EQ(rows[0].half_range_ts(), (25 - 100.0 / 9) / 2);
  std::vector<BenchRow> alone = {Row(false, 0, {1})};
  CompareWithStock(alone);
  EXPECT_FALSE(alone[0].ratio().has_value());
}

TEST(ResultsTest, BytesAreOfAStepSharedByItsConversations) {
  BenchRow row = Row(false, 0, {5});
  EXPECT_DOUBLE_EQ(*row.bytes_per_token(), 1.5e9);
  EXPECT_DOUBLE_EQ(*row.bandwidth_share(), 1.5e9 * 20 / 40e9);
  EXPECT_DOUBLE_EQ(row.compress_share(), 0.02);
  row.n_conversations = 2;
  EXPECT_DOUBLE_EQ(row.median_ts(), 40);
  EXPECT_DOUBLE_EQ(*row.bytes_per_token(), 0.75e9);
  EXPECT_DOUBLE_EQ(*row.bandwidth_share(), 1.5e9 * 20 / 40e9);
  row.test.prefill = true;
  EXPECT_FALSE(row.bytes_per_token().has_value());
  EXPECT_FALSE(row.bandwidth_share().has_value());
}

TEST(ResultsTest, MarkdownIsATableWithWhatItMeans) {
  const std::string text = BenchMarkdown(kHeader, Rows());
  std::istringstream lines(text);
  std::vector<size_t> bars;
  for (std::string line; std::getline(lines, line) && !line.empty();) {
    bars.push_back(static_cast<size_t>(std::ranges::count(line, '|')));
  }
  ASSERT_EQ(bars.size(), 6u);  // names, the rule, four rows
  EXPECT_EQ(std::ranges::count(bars, bars.front()), 6);
  EXPECT_NE(text.find("50.00 ± 5.00 |    2.50 |"), std::string::npos) << text;
  EXPECT_NE(text.find("RANDOM keys and values"), std::string::npos);
  EXPECT_EQ(text.find("n_ubatch"), std::string::npos);  // the default value
  auto rows = Rows();
  rows[0].n_ubatch = 64;
  EXPECT_NE(BenchMarkdown(kHeader, rows).find("n_ubatch"), std::string::npos);
}

TEST(ResultsTest, TheTableSaysWhatTheMachineReads) {
  std::vector<BenchRow> rows = Rows();
  EXPECT_NE(BenchMarkdown(kHeader, rows).find("2 threads read from memory 40.0 GB/s\n"),
            std::string::npos);
  rows[1].bandwidth = 38e9;
  rows[3].bandwidth = 42.06e9;
  EXPECT_NE(BenchMarkdown(kHeader, rows).find("2 threads read from memory 38.0 to 42.1 GB/s\n"),
            std::string::npos);
}

TEST(ResultsTest, TheTableSaysWhetherStockHasItsOwnWeights) {
  std::vector<BenchRow> rows = Rows();
  EXPECT_NE(BenchMarkdown(kHeader, rows).find("- weights: in the same memory for all\n"),
            std::string::npos);
  for (BenchRow& row : rows) row.model.stock_weights = true;
  EXPECT_NE(BenchMarkdown(kHeader, rows).find("llama.cpp's as loaded by default\n"),
            std::string::npos);
  EXPECT_EQ(nlohmann::json::parse(BenchJson(kHeader, rows))["results"][0]["stock_weights"], true);
}

TEST(ResultsTest, JsonAndCsvHaveEveryRow) {
  const auto json = nlohmann::json::parse(BenchJson(kHeader, Rows()));
  ASSERT_EQ(json["results"].size(), 4u);
  EXPECT_EQ(json["results"][1]["stock_ratio"], 2.5);
  EXPECT_EQ(json["results"][1]["model_filename"], "a \"model\", 1.gguf");
  EXPECT_EQ(json["results"][0]["samples_ns"],
            (std::vector<uint64_t>{5000000000, 4000000000, 9000000000}));
  const std::string csv = BenchCsv(kHeader, Rows());
  EXPECT_EQ(std::ranges::count(csv, '\n'), 5);
  EXPECT_TRUE(csv.starts_with("model_filename,"));
  EXPECT_NE(csv.find("\n\"a \"\"model\"\", 1.gguf\","), std::string::npos);
}

TEST(ResultsTest, ThePlotHasACurveForEachCacheInEachDiagram) {
  const std::string svg = BenchPlot(Rows());
  const auto count = [&](const std::string& what) {
    size_t n = 0;
    for (size_t at = svg.find(what); at != std::string::npos; at = svg.find(what, at + 1)) ++n;
    return n;
  };
  EXPECT_EQ(count("<polyline"), 4u);
  EXPECT_EQ(count("<circle"), 8u);
  EXPECT_EQ(count(">llama.cpp f16<"), 1u);
  EXPECT_TRUE(svg.ends_with("</svg>\n"));
}

}  // namespace
}  // namespace rkv::app
