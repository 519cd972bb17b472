#include "bench/plan.h"

#include <gtest/gtest.h>

namespace rkv::app {
namespace {

using Numbers = std::vector<int>;

TEST(PlanTest, NumbersAreListsAndRanges) {
  EXPECT_EQ(*ParseNumbers("-p", "512", 0), (Numbers{512}));
  EXPECT_EQ(*ParseNumbers("-p", "0,512", 0), (Numbers{0, 512}));
  EXPECT_EQ(*ParseNumbers("-t", "1-4", 1), (Numbers{1, 2, 3, 4}));
  EXPECT_EQ(*ParseNumbers("-d", "64-200+64,7", 0), (Numbers{64, 128, 192, 7}));
  EXPECT_EQ(*ParseNumbers("-d", "1-9*2", 0), (Numbers{1, 2, 4, 8}));
}

TEST(PlanTest, OtherNumbersAreRefusedByName) {
  for (const char* list : {"", "x", "1,", "1;2", "-1", "4-1", "1-4+0", "0-4*2", "1-4*1", "1-4+",
                           "99999999999", "0-2000", "1 "}) {
    const auto numbers = ParseNumbers("-d", list, 0);
    EXPECT_EQ(numbers.status().code(), StatusCode::kInvalidArgument) << list;
    EXPECT_TRUE(numbers.status().message().starts_with("-d is")) << numbers.status().message();
  }
  EXPECT_EQ(ParseNumbers("-t", "0", 1).status().message(), "-t is '0'; it must be at least 1");
}

TEST(PlanTest, TypesComeInPairs) {
  EXPECT_EQ(ParseTypePairs("", "")->size(), 3u);
  const auto pairs = *ParseTypePairs("f16,q8_0", "q4_0,q8_0");
  ASSERT_EQ(pairs.size(), 2u);
  EXPECT_EQ(pairs[0], (std::pair{ElementType::kF16, ElementType::kQ4_0}));
  EXPECT_EQ(ParseTypePairs("q4_0", "")->front(),
            (std::pair{ElementType::kQ4_0, ElementType::kQ4_0}));
  EXPECT_EQ(ParseTypePairs("", "q4_0")->front(),
            (std::pair{ElementType::kQ4_0, ElementType::kQ4_0}));
  EXPECT_EQ(ParseTypePairs("f16,q8_0", "f16").status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(ParseTypePairs("f17", "").status().code(), StatusCode::kInvalidArgument);
}

TEST(PlanTest, CachesAreStocksThenPoliciesByTypeOrBudgetAndLadder) {
  BenchCacheChoices choices;
  choices.types = *ParseTypePairs("f16,q2", "");
  choices.policies = {{.name = "full", .options = {}}, {.name = "streaming", .options = {}}};
  choices.budgets = {*ParseBudget("20%"), *ParseBudget("5%")};
  choices.ladders = {*ParseLadder("none"), *ParseLadder("f16,q4_0")};
  const auto caches = *MakeBenchCaches(choices);
  std::vector<std::string> labels;
  for (const BenchCache& cache : caches) labels.push_back(cache.label());
  EXPECT_EQ(labels,
            (std::vector<std::string>{"llama.cpp f16", "rkv full f16", "rkv full q2",
                                      "rkv streaming 20% f16", "rkv streaming 20% f16,q4_0",
                                      "rkv streaming 5% f16", "rkv streaming 5% f16,q4_0"}));
  choices.policies = {{.name = "no-such", .options = {}}};
  EXPECT_EQ(MakeBenchCaches(choices).status().code(), StatusCode::kInvalidArgument);
}

TEST(PlanTest, TestsAreNamedAsInLlamaBench) {
  EXPECT_EQ((BenchTest{.prefill = true, .n = 512}).name(), "pp512");
  EXPECT_EQ((BenchTest{.prefill = false, .n = 32, .depth = 4096}).name(), "tg32 @ d4096");
}

}  // namespace
}  // namespace rkv::app
