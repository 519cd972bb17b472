// Assigns tokens to rungs so that the total error within a number of bytes is small.
#ifndef RETENTIVEKV_CACHE_LADDER_SOLVER_H_
#define RETENTIVEKV_CACHE_LADDER_SOLVER_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace rkv {

// One rung for tokens of one shape.
struct LadderRung {
  size_t bytes = 0;  // of a row
  double error = 0;  // share of a token's error that remains on this rung; 1 when it is forgotten
};

struct LadderItem {
  float error = 0;            // loss if the token is forgotten; not negative
  float precision_error = 0;  // if it is kept, the loss is its rung's share of this
  uint16_t shape = 0;         // index of its list of rungs
  uint8_t rung = 0;           // in: present rung. out: new rung; rungs.size(): forgotten
  bool keep = false;          // may not be forgotten
};

// Chooses for every item its present rung, a lower one, or none, so that the sum of errors is small
// and the sum of bytes is at most a budget, as far as the items to keep allow it. Steps up each
// item's convex hull of (bytes, error) are taken in the order of error avoided per byte (the greedy
// solution of the multiple-choice knapsack). If both errors of each item are equal, that is optimal
// up to the last step. Among equals the later item wins.
class LadderSolver {
 public:
  LadderSolver(std::span<const std::vector<LadderRung>> shapes, std::span<const LadderItem> items);

  // Sets the rung of each item, and returns the bytes used. REQUIRES: the constructor's items;
  // their rungs may have changed.
  uint64_t Solve(uint64_t budget, std::span<LadderItem> items) const;

 private:
  // A step up: from one rung of an item's hull to the next.
  struct Step {
    uint8_t to = 0;
    size_t bytes = 0;    // cost
    double avoided = 0;  // error avoided, for an item with error 1
  };
  // The steps that a token now on rung `top` may take, from `bottom` (rungs.size(): forgotten) up.
  static std::vector<Step> StepsOf(const std::vector<LadderRung>& rungs, size_t top, size_t bottom);
  // [2 * present rung + keep]
  static std::vector<std::vector<Step>> HullsOf(const std::vector<LadderRung>& rungs);

  std::span<const std::vector<LadderRung>> shapes_;
  std::vector<std::vector<std::vector<Step>>> hulls_;  // [shape]: HullsOf(), if an item has it
  std::vector<uint8_t> hull_of_;                       // [item] which of these
  // The items' steps in the order in which they are taken: rate, item, and number of the step.
  std::vector<uint64_t> order_;
};

}  // namespace rkv

#endif  // RETENTIVEKV_CACHE_LADDER_SOLVER_H_
