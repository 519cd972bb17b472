#include "retentivekv/options.h"

#include <gtest/gtest.h>

#include <set>

#include "support/changed_options.h"

namespace rkv {
namespace {

TEST(LadderTest, RungsMayHaveTwoTypes) {
  const auto ladder = ParseLadder("f16,q8_0/q4_0,Q4_0/Q2,q3/q2");
  ASSERT_TRUE(ladder.ok()) << ladder.status().message();
  EXPECT_EQ(ladder->rungs[2], (Rung{.k = ElementType::kQ4_0, .v = ElementType::kQ2}));
  EXPECT_EQ(ToString(*ladder), "f16,q8_0/q4_0,q4_0/q2,q3/q2");
  EXPECT_EQ(ToString(*ParseLadder("q4_0/q4_0")), "q4_0");
  for (const char* wrong :
       {"q4_0/q2,q4_0/q2", "q4_0/q2,q3/q4_0", "q3/q2,q4_0/q2", "q4_0/", "/q2", "q4_0/q2/q2"}) {
    EXPECT_EQ(ParseLadder(wrong).status().code(), StatusCode::kInvalidArgument) << wrong;
  }
}

TEST(BudgetTest, ParsesEveryUnit) {
  const struct {
    const char* text;
    Budget::Unit unit;
    double amount;
  } cases[] = {{"20%", Budget::Unit::kPercent, 20},
               {"2.5%", Budget::Unit::kPercent, 2.5},
               {"100%", Budget::Unit::kPercent, 100},
               {"512t", Budget::Unit::kTokens, 512},
               {"64MiB", Budget::Unit::kBytes, 64.0 * 1024 * 1024},
               {"1.5GiB", Budget::Unit::kBytes, 1.5 * 1024 * 1024 * 1024},
               {"300KiB", Budget::Unit::kBytes, 300.0 * 1024},
               {"1000B", Budget::Unit::kBytes, 1000},
               {"20 %", Budget::Unit::kPercent, 20},
               {"64 MiB", Budget::Unit::kBytes, 64.0 * 1024 * 1024},
               {"64mib", Budget::Unit::kBytes, 64.0 * 1024 * 1024},
               {"64MB", Budget::Unit::kBytes, 64e6},
               {"2gb", Budget::Unit::kBytes, 2e9},
               {"512T", Budget::Unit::kTokens, 512}};
  for (const auto& expected : cases) {
    const Result<Budget> budget = ParseBudget(expected.text);
    ASSERT_TRUE(budget.ok()) << expected.text;
    EXPECT_EQ(budget->unit, expected.unit);
    EXPECT_EQ(budget->amount, expected.amount);
    EXPECT_EQ(ParseBudget(ToString(*budget))->amount, budget->amount);
  }
  EXPECT_TRUE(ParseBudget("100%")->unlimited());
  EXPECT_FALSE(ParseBudget("99%")->unlimited());
}

TEST(BudgetTest, RefusesWhatIsAmbiguousOrImpossible) {
  for (const char* text : {"", "0.2", "20", "-1", "-20%", "0%", "101%", "5x", "MiB", "1e400t",
                           "nan%", "inft", "20 % x", "64M", "64k", "--", "512tt"}) {
    const Result<Budget> budget = ParseBudget(text);
    ASSERT_FALSE(budget.ok()) << text;
    EXPECT_EQ(budget.status().code(), StatusCode::kInvalidArgument);
    EXPECT_NE(budget.status().message().find("write 20%"), std::string::npos);
  }
}

OptionTextMap TextsByName(const CacheOptions& options) {
  OptionTextMap texts;
  for (const OptionText& option : OptionTexts(options)) {
    EXPECT_TRUE(texts.emplace(option.name, option.text).second) << option.name;
  }
  return texts;
}

TEST(CacheOptionsTest, EveryOptionIsReadAsItIsWritten) {
  for (const CacheOptions& base : {CacheOptions{}, AllSet()}) {
    auto cases = ChangedOnce(base);
    cases.emplace_back("none", base);
    for (const auto& [name, options] : cases) {
      const auto parsed = ParseCacheOptions(TextsByName(options));
      ASSERT_TRUE(parsed.ok()) << name << ": " << parsed.status().message();
      EXPECT_EQ(*parsed, options) << name;
    }
  }
  EXPECT_EQ(*ParseCacheOptions({}), CacheOptions{});
}

TEST(CacheOptionsTest, EveryOptionTellsOptionsApart) {
  for (const CacheOptions& base : {CacheOptions{}, AllSet()}) {
    std::set<std::string> texts = {ToString(base)};
    const auto changed = ChangedOnce(base);
    EXPECT_EQ(changed.size(), OptionTexts(base).size());
    for (const auto& [name, options] : changed) {
      EXPECT_FALSE(options == base) << name;
      EXPECT_TRUE(texts.insert(ToString(options)).second) << name;
    }
  }
}

TEST(CacheOptionsTest, DefaultsAreLeftOut) {
  EXPECT_EQ(ToString(CacheOptions{}), "");
  EXPECT_EQ(ToString(AllSet()),
            "policy=streaming:sinks=8,window=0.1 budget=2.5% absorb=clusters:share=0.25 "
            "ladder=f16,q4_0 split=auto compression=prompt type_k=q8_0 type_v=q4_0");
}

TEST(CacheOptionsTest, UnknownNamesAndWrongTextsAreRefused) {
  const auto unknown = ParseCacheOptions({{"ladders", "auto"}});
  EXPECT_EQ(unknown.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(unknown.status().message().find("'ladders'"), std::string::npos);
  EXPECT_NE(unknown.status().message().find("policy, budget"), std::string::npos);
  EXPECT_EQ(ParseCacheOptions({{"split", "half"}}).status().message(),
            ParseSplit("half").status().message());
}

}  // namespace
}  // namespace rkv
