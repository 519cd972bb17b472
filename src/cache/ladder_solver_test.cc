#include "cache/ladder_solver.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "base/random.h"

namespace rkv {
namespace {

const std::vector<std::vector<LadderRung>> kShapes = {
    {{.bytes = 260, .error = 0}, {.bytes = 76, .error = 0.007}, {.bytes = 40, .error = 0.11}},
    {{.bytes = 100, .error = 0}}};

double ErrorOf(const LadderItem& item) {
  const auto& rungs = kShapes[item.shape];
  return static_cast<double>(item.error) * (item.rung == rungs.size() ? 1 : rungs[item.rung].error);
}
uint64_t BytesOf(const LadderItem& item) {
  const auto& rungs = kShapes[item.shape];
  return item.rung == rungs.size() ? 0 : rungs[item.rung].bytes;
}

std::vector<LadderItem> RandomItems(Random& random, size_t n) {
  std::vector<LadderItem> items(n);
  for (LadderItem& item : items) {
    item.error = static_cast<float>(std::exp(2 * random.NextGaussian()));
    item.precision_error = item.error;
    item.shape = static_cast<uint16_t>(random.NextBelow(2));
    item.rung = static_cast<uint8_t>(random.NextBelow(kShapes[item.shape].size()));
    item.keep = random.NextBelow(8) == 0;
  }
  return items;
}

struct Solution {
  double error = 0;
  uint64_t bytes = 0;
};
Solution Solve(std::vector<LadderItem>& items, uint64_t budget) {
  const uint64_t used = LadderSolver(kShapes, items).Solve(budget, items);
  Solution solution;
  for (const LadderItem& item : items) {
    solution.error += ErrorOf(item);
    solution.bytes += BytesOf(item);
  }
  EXPECT_EQ(used, solution.bytes);
  return solution;
}

TEST(LadderSolverTest, KeepsWithinTheBudgetAndNeverMovesUp) {
  Random random(1);
  for (int round = 0; round < 300; ++round) {
    const std::vector<LadderItem> before = RandomItems(random, 1 + random.NextBelow(40));
    std::vector<LadderItem> items = before;
    const uint64_t budget = random.NextBelow(4000);
    uint64_t least = 0;
    for (const LadderItem& item : items) {
      if (item.keep) least += kShapes[item.shape].back().bytes;
    }
    const Solution solution = Solve(items, budget);
    EXPECT_LE(solution.bytes, std::max(budget, least));
    for (size_t i = 0; i < items.size(); ++i) {
      EXPECT_GE(items[i].rung, before[i].rung);
      if (items[i].keep) {
        EXPECT_LT(items[i].rung, kShapes[items[i].shape].size());
      }
    }
  }
}

TEST(LadderSolverTest, EverythingStaysWhereThereIsRoom) {
  Random random(2);
  std::vector<LadderItem> items = RandomItems(random, 30);
  const std::vector<LadderItem> before = items;
  Solve(items, 1 << 20);
  for (size_t i = 0; i < items.size(); ++i) EXPECT_EQ(items[i].rung, before[i].rung);
}

// Compares with all possible choices.
TEST(LadderSolverTest, IsOptimalUpToOneItem) {
  Random random(3);
  for (int round = 0; round < 60; ++round) {
    std::vector<LadderItem> items = RandomItems(random, 7);
    double largest = 0;
    for (LadderItem& item : items) {
      item.keep = false;
      largest = std::max(largest, static_cast<double>(item.error));
    }
    const std::vector<LadderItem> before = items;
    const uint64_t budget = 100 + random.NextBelow(900);
    double best = 1e300;
    std::vector<LadderItem> choice = before;
    const std::function<void(size_t, uint64_t, double)> search = [&](size_t i, uint64_t bytes,
                                                                     double error) {
      if (bytes > budget) return;
      if (i == choice.size()) {
        best = std::min(best, error);
        return;
      }
      for (size_t rung = before[i].rung; rung <= kShapes[before[i].shape].size(); ++rung) {
        choice[i].rung = static_cast<uint8_t>(rung);
        search(i + 1, bytes + BytesOf(choice[i]), error + ErrorOf(choice[i]));
      }
    };
    search(0, 0, 0.0);
    const Solution solution = Solve(items, budget);
    EXPECT_GE(solution.error, best - 1e-6);
    EXPECT_LE(solution.error, best + largest);
  }
}

TEST(LadderSolverTest, MoreBytesNeverLoseMoreError) {
  Random random(4);
  const std::vector<LadderItem> before = RandomItems(random, 50);
  double last = 1e300;
  for (uint64_t budget = 0; budget < 15000; budget += 500) {
    std::vector<LadderItem> items = before;
    const double error = Solve(items, budget).error;
    // The last step may be one that fits by chance, so allow one item's worth.
    EXPECT_LE(error, last * 1.02) << budget;
    last = std::min(last, error);
  }
}

TEST(LadderSolverTest, AmongEqualsTheNewerStays) {
  std::vector<LadderItem> items(5, {.error = 1.0f, .precision_error = 1.0f, .shape = 1});
  Solve(items, 200);
  EXPECT_EQ(items[0].rung, 1);
  EXPECT_EQ(items[2].rung, 1);
  EXPECT_EQ(items[3].rung, 0);
  EXPECT_EQ(items[4].rung, 0);
}

// Attention may ask for precision without choosing the tokens that stay.
TEST(LadderSolverTest, PrecisionIsOrderedByItsOwnError) {
  const std::vector<LadderItem> before = {{.error = 1.0f, .precision_error = 500.0f},
                                          {.error = 20.0f, .precision_error = 1.0f},
                                          {.error = 30.0f, .precision_error = 1.0f}};
  std::vector<LadderItem> items = before;
  Solve(items, 2 * 40);
  EXPECT_EQ(items[0].rung,
            3);  // The minimum error, so it is forgotten, regardless of its precision_error.
  EXPECT_EQ(items[1].rung, 2);
  EXPECT_EQ(items[2].rung, 2);
  items = before;
  Solve(items, 3 * 40 + 220);
  EXPECT_EQ(items[0].rung, 0);
  EXPECT_EQ(items[1].rung, 2);
  EXPECT_EQ(items[2].rung, 2);
}

TEST(LadderSolverTest, NothingToDo) {
  std::vector<LadderItem> none;
  EXPECT_EQ(LadderSolver(kShapes, none).Solve(100, none), 0u);
}

}  // namespace
}  // namespace rkv
