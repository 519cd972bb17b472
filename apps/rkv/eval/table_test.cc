// Rows, bars, tables and curves of an evaluation, from results with known numbers.
#include "eval/table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "eval/curves.h"
#include "eval/rows.h"

namespace rkv::app {
namespace {

// Ten conversations of ten questions; `right` of them answered, always the same number in each.
Measurement Measured(double right, double kept) {
  Measurement measurement;
  for (int i = 0; i < 10; ++i) {
    measurement.accuracy.Add(right, 10);
    measurement.kl.Add(1.0 - right / 10, 1);
    measurement.missed.Add(0.5, 1);
  }
  measurement.kept = kept;
  measurement.held_bytes = 1024;
  measurement.by_question = {{.right = right, .n = 10}, {.right = right, .n = 10}};
  measurement.by_family = {{"doc", {.right = right, .n = 10}}};
  return measurement;
}

// full, retentive, random, h2o (with its second budget refused), and a quantised full cache.
SuiteResult Sample() {
  ConfigurationChoices choices;
  choices.policies = *ParsePolicyList({"retentive,random,h2o"});
  SuiteResult result{.accuracy_name = "accuracy",
                     .unit_name = "conversations",
                     .configurations = *MakeConfigurations(choices),
                     .budgets = *ParseBudgetList("50%,20%"),
                     .regimes = {}};
  Configuration quantized{.label = "q4_0 full cache", .options = {}, .control = true};
  quantized.options.type_k = quantized.options.type_v = ElementType::kQ4_0;
  result.configurations.push_back(quantized);
  Regime regime{.name = "known", .description = "a sample", .cells = {}};
  regime.cells = {{Measured(10, 1)},
                  {Measured(10, 0.5), Measured(9, 0.2)},
                  {Measured(4, 0.5), Measured(2, 0.2)},
                  {Measured(7, 0.5), Measurement{}},
                  {Measured(9, 0.3)}};
  regime.cells[3][1].refused = "too small, \"really\"";
  result.regimes.push_back(regime);
  return result;
}

EvalHeader Header() {
  EvalHeader header;
  header.suite = "sample";
  header.model = "<model>";
  return header;
}

TEST(RowsTest, HeadroomIsBetweenRandomAndFull) {
  const SuiteResult result = Sample();
  const std::vector<Row> rows = RowsOf(result, result.regimes[0], 1);
  ASSERT_EQ(rows.size(), 8u);
  EXPECT_FALSE(rows[0].headroom.has_value());  // full has no budget
  EXPECT_DOUBLE_EQ(*rows[2].headroom, (0.9 - 0.2) / (1.0 - 0.2));
  EXPECT_DOUBLE_EQ(*rows[3].headroom, 0);
  EXPECT_DOUBLE_EQ(*rows[5].headroom, (0.7 - 0.4) / (1.0 - 0.4));
  EXPECT_FALSE(rows[1].ours_minus.has_value());
  EXPECT_NEAR(rows[5].ours_minus->low, 0.3, 1e-12);  // without variance, no width
  EXPECT_NEAR(rows[5].ours_minus->high, 0.3, 1e-12);
  EXPECT_NEAR(rows[5].minus_full.low, -0.3, 1e-12);
  EXPECT_FALSE(rows[6].headroom.has_value());  // refused
  // Headroom is undefined if random equals full.
  SuiteResult easy = Sample();
  easy.regimes[0].cells[2][0] = Measured(9.8, 0.5);
  EXPECT_FALSE(RowsOf(easy, easy.regimes[0], 1)[1].headroom.has_value());
}

TEST(RowsTest, BarsAreForFullAndForRetentiveAt20) {
  EXPECT_TRUE(MissedBars(Sample()).empty());
  SuiteResult result = Sample();
  result.regimes[0].cells[0][0] = Measured(8.9, 1);
  result.regimes[0].cells[1][1] = Measured(2, 0.2);
  const std::vector<std::string> missed = MissedBars(result);
  ASSERT_EQ(missed.size(), 2u);
  EXPECT_NE(missed[0].find("full has 0.890"), std::string::npos) << missed[0];
  EXPECT_NE(missed[1].find("retentive at 20% has 0.200"), std::string::npos) << missed[1];
}

TEST(TableTest, RowsHaveAsManyColumnsAsTheirHeads) {
  std::istringstream lines(MarkdownTable(Header(), Sample()));
  std::string line;
  size_t columns = 0;
  size_t n_tables = 0;
  while (std::getline(lines, line)) {
    const auto n = static_cast<size_t>(std::ranges::count(line, '|'));
    if (!line.starts_with('|')) {
      columns = 0;
    } else if (columns == 0) {
      columns = n;
      ++n_tables;
    } else {
      EXPECT_EQ(n, columns) << line;
    }
  }
  EXPECT_EQ(n_tables, 3u);  // none by family, which has only one column
}

TEST(TableTest, CsvHasAsManyFieldsAsItsHead) {
  std::istringstream lines(CsvTable(Header(), Sample()));
  std::string line;
  std::getline(lines, line);
  const auto n_fields = std::ranges::count(line, ',');
  size_t n_rows = 0;
  for (; std::getline(lines, line); ++n_rows) {
    std::string unquoted;
    bool quoted = false;
    for (const char c : line) {
      quoted ^= c == '"';
      if (!quoted) unquoted += c;
    }
    EXPECT_EQ(std::ranges::count(unquoted, ','), n_fields) << line;
  }
  EXPECT_EQ(n_rows, 8u);
}

TEST(TableTest, JsonHasWhatTablesHave) {
  const auto json = nlohmann::json::parse(JsonTable(Header(), Sample()));
  EXPECT_EQ(json["seeds"], nlohmann::json({1}));
  const auto& rows = json["regimes"]["known"]["rows"];
  EXPECT_NEAR(rows[2]["headroom"], 0.875, 1e-9);
  EXPECT_EQ(rows[2]["by_question"]["2"]["accuracy"], 0.9);
  EXPECT_EQ(rows[2]["by_family"]["doc"]["measured"], 10);
  EXPECT_EQ(rows[2]["missed"], 0.5);
  EXPECT_FALSE(rows[6].contains("accuracy"));
}

TEST(CurvesTest, EveryPolicyHasALineWithABarAtEachBudget) {
  const std::string svg = SvgCurves(Header(), Sample());
  const auto count = [&svg](std::string_view text) {
    size_t n = 0;
    for (size_t at = svg.find(text); at != std::string::npos; at = svg.find(text, at + 1)) ++n;
    return n;
  };
  EXPECT_TRUE(svg.starts_with("<svg "));
  EXPECT_TRUE(svg.ends_with("</svg>\n"));
  EXPECT_EQ(count("<g>"), count("</g>"));
  EXPECT_NE(svg.find("&lt;model&gt;"), std::string::npos);
  for (const char* label : {"retentive", "random", "h2o", "q4_0 full cache"}) {
    EXPECT_EQ(count("<title>" + std::string(label) + "</title>"), 2u) << label;  // two panels
    EXPECT_EQ(count(">" + std::string(label) + "</text>"), 1u) << label;         // the legend
  }
  // In the panel of accuracy, 20 % is left of 50 %, and smaller values are lower.
  const size_t at = svg.find("<title>random</title>");
  std::istringstream line(svg.substr(svg.find("<polyline points=\"", at) + 18));
  double x1, y1, x2, y2;
  char comma;
  line >> x1 >> comma >> y1 >> x2 >> comma >> y2;
  EXPECT_LT(x1, x2);
  EXPECT_GT(y1, y2);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
}

}  // namespace
}  // namespace rkv::app
