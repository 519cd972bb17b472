// Runs of a suite with a fake part that counts its calls: order, resuming, and journals.
#include "eval/suite.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>

#include "support/changed_options.h"

namespace rkv::app {
namespace {

// Counts its calls; stops the run at the call after `n_calls_left`.
class CountingPart : public SuitePart {
 public:
  CountingPart(int& n_calls, int& n_calls_left) : n_calls_(n_calls), n_calls_left_(n_calls_left) {}
  Status Measure(const CacheOptions& options, std::span<Measurement> measurements) override {
    if (n_calls_left_-- <= 0) return Cancelled("stopped");
    ++n_calls_;
    for (Measurement& measurement : measurements) {
      measurement.accuracy.Add(options.budget.amount, 100);
    }
    return OkStatus();
  }

 private:
  int& n_calls_;
  int& n_calls_left_;
};

class SuiteTest : public testing::Test {
 protected:
  SuiteTest() {
    std::filesystem::remove(path_);
    plan_ = {.accuracy_name = "accuracy", .unit_name = "calls", .regimes = {}, .parts = {}};
    plan_.regimes.resize(2);
    for (const char* name : {"part 1", "part 2"}) {
      plan_.parts.push_back({.name = name, .regimes = {0, 1}, .make = [this] {
                               return std::make_unique<CountingPart>(n_calls_, n_calls_left_);
                             }});
    }
    ConfigurationChoices choices;
    choices.policies = *ParsePolicyList({"streaming"});
    configurations_ = *MakeConfigurations(choices);
  }

  Result<SuiteResult> Run(Journal* journal) {
    return RunSuite(plan_, configurations_, *ParseBudgetList("50%,20%"), journal,
                    [](std::string_view, double) {});
  }
  Result<Journal> Open(int seed = 1) { return Journal::Open(path_, {{"seed", seed}}); }

  std::string path_ = testing::TempDir() + "/journal.jsonl";
  SuitePlan plan_;
  std::vector<Configuration> configurations_;
  int n_calls_ = 0;
  int n_calls_left_ = 1000;
};

TEST_F(SuiteTest, EveryPartIsMeasuredWithEveryConfiguration) {
  const auto result = Run(nullptr);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(n_calls_, 2 * 3);
  for (const Regime& regime : result->regimes) {
    ASSERT_EQ(regime.cells.size(), 2u);
    ASSERT_EQ(regime.cells[1].size(), 2u);
    EXPECT_DOUBLE_EQ(regime.cells[0][0].accuracy.value(), 1);
    EXPECT_DOUBLE_EQ(regime.cells[1][1].accuracy.value(), 0.2);
    EXPECT_EQ(regime.cells[1][1].accuracy.numerators.size(), 2u);
  }
}

TEST_F(SuiteTest, AStoppedRunGoesOn) {
  n_calls_left_ = 4;  // all of part 1, and `full` of part 2
  {
    Journal journal = *Open();
    EXPECT_EQ(Run(&journal).status().code(), StatusCode::kCancelled);
  }
  // Simulates a run that was killed while it wrote a line.
  std::ofstream(path_, std::ios::app) << R"({"key":"part 2 | stre)";
  n_calls_ = 0;
  n_calls_left_ = 1000;
  Journal journal = *Open();
  const auto result = Run(&journal);
  ASSERT_TRUE(result.ok()) << result.status().message();
  EXPECT_EQ(n_calls_, 3);  // `full` of part 2 again, for comparison with the others
  EXPECT_DOUBLE_EQ(result->regimes[1].cells[1][0].accuracy.value(), 0.5);
  EXPECT_EQ(result->regimes[1].cells[0][0].accuracy.numerators.size(), 2u);

  n_calls_ = 0;
  Journal again = *Open();
  EXPECT_TRUE(Run(&again).ok());
  EXPECT_EQ(n_calls_, 0);
}

TEST_F(SuiteTest, OtherSettingsAreRefused) {
  ASSERT_TRUE(Open(1).ok());
  const auto other = Open(2);
  EXPECT_EQ(other.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(other.status().message().find("seed is 2 now, but 1 in the file"), std::string::npos)
      << other.status().message();
}

TEST_F(SuiteTest, OtherFilesAreLeftAlone) {
  for (const std::string text : {"a note without an end", "a note\n", "{\"seed\":1}\n"}) {
    std::ofstream(path_, std::ios::trunc) << text;
    EXPECT_EQ(Open().status().code(), StatusCode::kBadFile);
    std::ifstream file(path_);
    EXPECT_EQ(std::string(std::istreambuf_iterator<char>(file), {}), text);
  }
  std::filesystem::remove(path_);
  ASSERT_TRUE(Open().ok());
  std::ofstream(path_, std::ios::app) << "{\"key\":\"a\"}\n";
  EXPECT_NE(Open().status().message().find("line 2"), std::string::npos);
  EXPECT_EQ(Journal::Open("/no/such/folder/file", {}).status().code(), StatusCode::kBadFile);
}

TEST_F(SuiteTest, KeysNameAllThatMatters) {
  CacheOptions options = configurations_[1].options;
  options.budget = *ParseBudget("20%");
  const std::string key = JournalKey("part", options);
  EXPECT_EQ(key, "part | streaming | 20%");
  EXPECT_NE(JournalKey("part 2", options), key);
  EXPECT_EQ(JournalKey("part", options, Stock::kFlashAttention),
            "part | llama.cpp, flash attention on");
  EXPECT_EQ(JournalKey("part", options, Stock::kNoFlashAttention),
            "part | llama.cpp, flash attention off");
  for (const CacheOptions& base : {options, AllSet()}) {
    std::set<std::string> keys = {JournalKey("part", base)};
    for (const auto& [name, changed] : ChangedOnce(base)) {
      EXPECT_TRUE(keys.insert(JournalKey("part", changed)).second) << name;
    }
  }
}

// Journals of earlier versions must be found.
TEST_F(SuiteTest, KeysStayAsTheyAre) {
  EXPECT_EQ(JournalKey("p", configurations_[0].options), "p | full | none");
  CacheOptions options = AllSet();
  EXPECT_EQ(JournalKey("p", options),
            "p | streaming:sinks=8,window=0.1 | 2.5% | absorb clusters:share=0.25 | "
            "ladder f16,q4_0 | split auto | K q8_0 | V q4_0");
  options.compression = Compression::kStreaming;
  EXPECT_EQ(JournalKey("p", options),
            "p | streaming:sinks=8,window=0.1 | 2.5% | absorb clusters:share=0.25 | "
            "ladder f16,q4_0 | split auto | compress streaming | K q8_0 | V q4_0");
}

}  // namespace
}  // namespace rkv::app
