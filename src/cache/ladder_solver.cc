#include "cache/ladder_solver.h"

#include <algorithm>
#include <limits>

namespace rkv {

namespace {

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
  moves_.reserve(items.size());
  for (uint32_t i = 0; i < items.size(); ++i) {
    const LadderItem& item = items[i];
    const auto& steps = hulls[item.shape][2 * size_t{item.rung} + (item.keep ? 1 : 0)];
    double rate = std::numeric_limits<double>::infinity();
    for (uint8_t n = 0; n < steps.size(); ++n) {
      // A later step is never taken before an earlier one.
      const bool enters = n == 0 && !item.keep;
      const float error = enters ? item.error : item.precision_error;
      rate = std::min(rate, static_cast<double>(error) * steps[n].avoided /
                                static_cast<double>(steps[n].bytes));
      moves_.push_back({.rate = rate,
                        .item = i,
                        .bytes = static_cast<uint32_t>(steps[n].bytes),
                        .to = steps[n].to,
                        .number = n});
    }
  }
  std::ranges::sort(moves_, [](const Move& a, const Move& b) {
    if (a.rate != b.rate) return a.rate > b.rate;
    if (a.item != b.item) return a.item > b.item;
    return a.number < b.number;
  });
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
