#include <gtest/gtest.h>

#include "retentivekv/options.h"

namespace rkv {
namespace {

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

}  // namespace
}  // namespace rkv
