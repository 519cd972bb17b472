// The greedy solution of the multiple-choice knapsack. Hulls depend only on the shape, the present
// rung and `keep`, so items share them.
#include "cache/ladder_solver.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>

namespace rkv {

namespace {

// Bits of a sort key for the number of a step within its item.
constexpr uint32_t kNumberBits = 3;
constexpr uint32_t kMaxNumber = (1u << kNumberBits) - 1;

}  // namespace

std::vector<LadderSolver::Step> LadderSolver::StepsOf(const std::vector<LadderRung>& rungs,
                                                      size_t top, size_t bottom) {
  std::vector<Step> steps;
  size_t at = bottom;
  while (at > top) {
    const double error = at == rungs.size() ? 1.0 : rungs[at].error;
    const size_t bytes = at == rungs.size() ? 0 : rungs[at].bytes;
    Step best;
    double best_rate = 0;
    for (size_t next = at; next-- > top;) {
      if (rungs[next].bytes <= bytes) continue;
      const Step step{.to = static_cast<uint8_t>(next),
                      .bytes = rungs[next].bytes - bytes,
                      .avoided = error - rungs[next].error};
      const double rate = step.avoided / static_cast<double>(step.bytes);
      if (rate >= best_rate && step.avoided > 0) {
        best_rate = rate;
        best = step;
      }
    }
    if (best.bytes == 0) break;
    steps.push_back(best);
    at = best.to;
  }
  return steps;
}

std::vector<std::vector<LadderSolver::Step>> LadderSolver::HullsOf(
    const std::vector<LadderRung>& rungs) {
  std::vector<std::vector<Step>> hulls;
  for (size_t top = 0; top < rungs.size(); ++top) {
    hulls.push_back(StepsOf(rungs, top, rungs.size()));
    hulls.push_back(StepsOf(rungs, top, rungs.size() - 1));
  }
  return hulls;
}

LadderSolver::LadderSolver(std::span<const std::vector<LadderRung>> shapes,
                           std::span<const LadderItem> items)
    : shapes_(shapes), hulls_(shapes.size()) {
  size_t n_steps = 0;
  hull_of_.reserve(items.size());
  for (const LadderItem& item : items) {
    std::vector<std::vector<Step>>& hulls = hulls_[item.shape];
    // All items of one head have the same shape, one of the layers' shapes.
    if (hulls.empty()) hulls = HullsOf(shapes[item.shape]);
    hull_of_.push_back(static_cast<uint8_t>(2 * item.rung + (item.keep ? 1 : 0)));
    n_steps += hulls[hull_of_.back()].size();
  }
  // In descending order: the bits of the rate (bits of non-negative floats sort as the floats do),
  // the item, and the inverted number. Sorting by one integer is several times as fast as by a
  // comparison function.
  order_.reserve(n_steps);
  for (size_t i = 0; i < items.size(); ++i) {
    const LadderItem& item = items[i];
    const std::vector<Step>& steps = hulls_[item.shape][hull_of_[i]];
    double rate = std::numeric_limits<float>::max();
    for (size_t n = 0; n < steps.size(); ++n) {
      // A later step is never taken before an earlier one.
      const bool enters = n == 0 && !item.keep;
      const float error = enters ? item.error : item.precision_error;
      // Error avoided per byte.
      rate = std::min(rate, static_cast<double>(error) * steps[n].avoided /
                                static_cast<double>(steps[n].bytes));
      order_.push_back(uint64_t{std::bit_cast<uint32_t>(static_cast<float>(rate))} << 32 |
                       i << kNumberBits | (kMaxNumber - n));
    }
  }
  std::ranges::sort(order_, std::greater{});
}

uint64_t LadderSolver::Solve(uint64_t budget, std::span<LadderItem> items) const {
  uint64_t used = 0;
  for (LadderItem& item : items) {
    const std::vector<LadderRung>& rungs = shapes_[item.shape];
    item.rung = static_cast<uint8_t>(rungs.size() - (item.keep ? 1 : 0));
    if (item.keep) used += rungs.back().bytes;
  }
  std::vector<uint8_t> taken(items.size(), 0);
  for (const uint64_t key : order_) {
    const auto low = static_cast<uint32_t>(key);
    const uint32_t number = kMaxNumber - (low & kMaxNumber);
    const uint32_t i = low >> kNumberBits;
    const Step& step = hulls_[items[i].shape][hull_of_[i]][number];
    if (number != taken[i] || used + step.bytes > budget) continue;
    ++taken[i];
    used += step.bytes;
    items[i].rung = step.to;
  }
  return used;
}

}  // namespace rkv
