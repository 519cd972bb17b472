#include "bench/measure.h"

#include <gtest/gtest.h>

#include "support/test_models.h"

namespace rkv::app {
namespace {

TEST(MeasureTest, EveryCacheTakesEveryTestAtEveryDepth) {
  BenchPlan plan;
  plan.models = {TestModelPath("qwen2-d64")};
  plan.n_threads = {2};
  plan.n_batch = {64};
  plan.n_ubatch = {32};
  plan.depths = {0, 50};
  plan.prompts = {40};
  plan.generations = {3};
  plan.repetitions = 3;
  BenchCacheChoices choices;
  choices.types = *ParseTypePairs("f16", "");
  choices.policies = {{.name = "full", .options = {}}, {.name = "streaming", .options = {}}};
  choices.budgets = {*ParseBudget("50%")};
  plan.caches = *MakeBenchCaches(choices);
  double fraction = 0;
  const auto rows = MeasureBench(plan, [&](std::string_view, double done) {
    EXPECT_GE(done, fraction);
    EXPECT_LT(done, 1);
    fraction = done;
  });
  ASSERT_TRUE(rows.ok()) << rows.status().message();
  ASSERT_EQ(rows->size(), 2u * 2 * 3);
  const char* tests[] = {"pp40", "tg3", "pp40 @ d50", "tg3 @ d50"};
  for (size_t i = 0; i < rows->size(); ++i) {
    const BenchRow& row = (*rows)[i];
    EXPECT_EQ(row.test.name(), tests[i / 3]);
    EXPECT_EQ(row.cache.label(), plan.caches[i % 3].label());
    EXPECT_EQ(row.seconds.size(), 3u);
    EXPECT_GT(row.median_ts(), 0);
    EXPECT_GT(row.bandwidth, 0);
    ASSERT_TRUE(row.ratio().has_value());
    if (row.cache.stock) {
      EXPECT_EQ(row.held_bytes, row.full_bytes);
    }
    EXPECT_EQ(row.full_bytes, (*rows)[i / 3 * 3].full_bytes) << "the same tokens for all";
  }
  // 90 tokens at a budget of a half.
  EXPECT_LE((*rows)[8].held_bytes, (*rows)[8].full_bytes / 2);
}

}  // namespace
}  // namespace rkv::app
