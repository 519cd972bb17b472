// Makes a cache fit its budget: decides who competes, scores their tokens, moves each to its rung,
// and has an absorber take the forgotten ones.
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

  // Afterwards the new tokens are held, too. Returns the order that the lowest rung is in now.
  RowOrder Run();

 private:
  void MakeCentre(Head& head) const;
  void MakeMatrix(Head& head) const;
  // Heads do not depend on each other, except where the budget is distributed: each is planned and
  // applied on its own, as plans of all heads take more memory than one ubatch.
  template <typename Work>
  void ForHeads(const Contest& contest, const Work& work) const;
  // All heads' parts of the budget, in proportion to `weights`, but never less than the least.
  static std::vector<uint64_t> Distribute(const Contest& contest,
                                          std::span<const uint64_t> weights);
  // The part of each head where tokens of all of them compete for the same bytes.
  std::vector<uint64_t> PooledWeights(const PlanContext& context,
                                      std::vector<HeadPlan>& plans) const;
  // Carries the plan out.
  void Apply(const Contest& contest, HeadPlan& plan, Head& head) const;

  CompressionTask task_;
  std::vector<std::vector<LadderRung>> rungs_;  // [layer]
};

}  // namespace rkv

#endif  // RETENTIVEKV_CACHE_COMPRESSOR_H_
