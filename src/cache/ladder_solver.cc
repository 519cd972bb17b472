#include "cache/ladder_solver.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>

namespace rkv {

namespace {

// Of a step within its item, in a key to sort by.
constexpr uint32_t kNumberBits = 3;
constexpr uint32_t kMostNumber = (1u << kNumberBits) - 1;

// A step up: from one rung of a hull to the next.
struct HullStep {
  uint8_t to = 0;
  size_t bytes = 0;    // that it costs
  double avoided = 0;  // error, for an item with error 1
};

// The steps that a token now on rung `top` may take, from `bottom` (rungs.size(): forgotten) up.
std::vector<HullStep> HullSteps(const std::vector<LadderRung>& rungs, size_t top, size_t bottom) {
  std::vector<HullStep> steps;
  size_t at = bottom;
  while (at > top) {
    const double error = at == rungs.size() ? 1.0 : rungs[at].error;
    const size_t bytes = at == rungs.size() ? 0 : rungs[at].bytes;
    HullStep best;
    double best_rate = 0;
    for (size_t next = at; next-- > top;) {
      if (rungs[next].bytes <= bytes) continue;
      const HullStep step{.to = static_cast<uint8_t>(next),
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

}  // namespace

LadderSolver::LadderSolver(std::span<const std::vector<LadderRung>> shapes,
                           std::span<const LadderItem> items)
    : shapes_(shapes) {
  // hulls[shape][present rung][keep]
  std::vector<std::vector<std::vector<HullStep>>> hulls;
  for (const std::vector<LadderRung>& rungs : shapes) {
    std::vector<std::vector<HullStep>>& hull = hulls.emplace_back();
    for (size_t top = 0; top < rungs.size(); ++top) {
      hull.push_back(HullSteps(rungs, top, rungs.size()));
      hull.push_back(HullSteps(rungs, top, rungs.size() - 1));
    }
  }
  // In descending order: rates as bits, which have the order of floats that are not negative; then
  // items; then the lower number. One integer each sorts several times as fast as a comparison.
  std::vector<uint64_t> order;
  order.reserve(items.size());
  const auto steps_of = [&hulls](const LadderItem& item) -> const std::vector<HullStep>& {
    return hulls[item.shape][2 * size_t{item.rung} + (item.keep ? 1 : 0)];
  };
  for (size_t i = 0; i < items.size(); ++i) {
    const LadderItem& item = items[i];
    const std::vector<HullStep>& steps = steps_of(item);
    double rate = std::numeric_limits<float>::max();
    for (size_t n = 0; n < steps.size(); ++n) {
      // A later step is never taken before an earlier one.
      const bool enters = n == 0 && !item.keep;
      const float error = enters ? item.error : item.precision_error;
      // Error avoided per byte.
      rate = std::min(rate, static_cast<double>(error) * steps[n].avoided /
                                static_cast<double>(steps[n].bytes));
      order.push_back(uint64_t{std::bit_cast<uint32_t>(static_cast<float>(rate))} << 32 |
                      i << kNumberBits | (kMostNumber - n));
    }
  }
  std::ranges::sort(order, std::greater{});
  moves_.reserve(order.size());
  for (const uint64_t key : order) {
    const auto low = static_cast<uint32_t>(key);
    const auto number = static_cast<uint8_t>(kMostNumber - (low & kMostNumber));
    const uint32_t item = low >> kNumberBits;
    const HullStep& step = steps_of(items[item])[number];
    moves_.push_back({.item = item,
                      .bytes = static_cast<uint32_t>(step.bytes),
                      .to = step.to,
                      .number = number});
  }
}

uint64_t LadderSolver::Solve(uint64_t budget, std::span<LadderItem> items) const {
  uint64_t used = 0;
  for (LadderItem& item : items) {
    const std::vector<LadderRung>& rungs = shapes_[item.shape];
    item.rung = static_cast<uint8_t>(rungs.size() - (item.keep ? 1 : 0));
    if (item.keep) used += rungs.back().bytes;
  }
  std::vector<uint8_t> taken(items.size(), 0);
  for (const Move& move : moves_) {
    if (move.number != taken[move.item] || used + move.bytes > budget) continue;
    ++taken[move.item];
    used += move.bytes;
    items[move.item].rung = move.to;
  }
  return used;
}

}  // namespace rkv
