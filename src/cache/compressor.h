// Makes a cache fit its budget: selects the competing tokens, scores them, moves each to its rung,
// and gives the forgotten ones to an absorber.
#ifndef RETENTIVEKV_CACHE_COMPRESSOR_H_
#define RETENTIVEKV_CACHE_COMPRESSOR_H_

#include <cstdint>
#include <span>
#include <vector>

#include "cache/compression_task.h"
#include "cache/head_plan.h"

namespace rkv {

class Compressor {
 public:
  explicit Compressor(const CompressionTask& task);

  // Afterwards the heads hold the new tokens, too. Returns the new order of the lowest rung.
  RowOrder Run();

 private:
  void MakeCentre(Head& head) const;
  void MakeMatrix(Head& head) const;
  // Calls work(i) for every head, in parallel. Heads depend on each other only in the distribution
  // of the budget. Unless it is pooled, a head's plan is applied before the next is made, because
  // plans of all heads take more memory than one ubatch.
  template <typename Work>
  void ForHeads(const Contest& contest, const Work& work) const;
  // All heads' parts of the budget, in proportion to `weights`, but at least each head's minimum.
  static std::vector<uint64_t> Distribute(const Contest& contest,
                                          std::span<const uint64_t> weights);
  // Weights of the heads if the tokens of all heads compete for the same bytes.
  std::vector<uint64_t> PooledWeights(const PlanContext& context,
                                      std::vector<HeadPlan>& plans) const;
  // Moves the rows of `head` as the plan says.
  void Apply(const Contest& contest, HeadPlan& plan, Head& head) const;

  CompressionTask task_;
  std::vector<std::vector<LadderRung>> rungs_;  // [layer]
};

}  // namespace rkv

#endif  // RETENTIVEKV_CACHE_COMPRESSOR_H_
