// Makes a KvCache fit its budget: scores its tokens, decides who sits on which rung, moves them,
// and lets states absorb what leaves.
#ifndef RETENTIVEKV_CACHE_COMPRESSOR_H_
#define RETENTIVEKV_CACHE_COMPRESSOR_H_

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "cache/kv_cache_impl.h"
#include "cache/ladder_solver.h"
#include "cache/row_codec.h"
#include "rows/states.h"

namespace rkv {

// K and V of a head's centre, as q8_0.
inline size_t CentreBytes(const LayerShape& shape) {
  return RowBytes(ElementType::kQ8_0, shape.d_k) + RowBytes(ElementType::kQ8_0, shape.d_v);
}

// Of the matrix that a head's states share, as f16.
inline size_t MatrixElements(const LayerShape& shape) { return shape.d_k * shape.d_v; }
inline size_t MatrixBytes(const LayerShape& shape) {
  return MatrixElements(shape) * sizeof(uint16_t);
}

// A store with exactly room for `n` rows, none being allocated for none.
inline uint64_t StoreBytesFor(size_t n, const RowLayout& layout) {
  return n == 0 ? 0 : sizeof(RowStore) + RowStore::BytesFor(n, layout);
}

class Compressor {
 public:
  // Rows of a store at the most that are free after a compression.
  static constexpr uint64_t kMaxSpareRows = 128;

  // Down to `budget` bytes.
  Compressor(KvCache::Impl& cache, uint64_t budget);

  // The last `n_new` tokens are in the KvCache's transit and not yet held.
  void Run(size_t n_new);

 private:
  // A token that competes: held in a tier, or new.
  struct Candidate {
    uint32_t index = 0;
    uint32_t slot = 0;  // in its tier; of a new token: its place in the ubatch
    uint8_t tier = 0;
    bool is_new = false;
    uint16_t stands_for = 1;  // ScoreContext::stands_for
  };
  // What becomes of a head's tokens.
  struct HeadPlan {
    std::vector<Candidate> candidates;  // ascending by index
    std::vector<LadderItem> items;      // of the candidates
    RowCodec codec;
    StateMetric metric;
    size_t n_staying = 0;  // on the lowest rung, for whom a candidate stands
    size_t n_states = 0;   // that may be held
  };
  class CandidateRows;

  // Who competes. may_rest: most of the lowest rung need not.
  void Decide(bool may_rest);
  // Whether no token has to leave the lowest rung for what remembers those that left, with `room`
  // bytes beside MinBytes().
  bool AllStay(uint64_t room) const;
  // To have every token of the conversation on the lowest rung.
  uint64_t MinBytes() const;
  // Of a tier's first `n` rows, every stride-th stands for those up to the next, which stay where
  // they are.
  struct Sample {
    size_t n = 0;
    size_t stride = 1;

    size_t n_competing() const { return (n + stride - 1) / stride; }
  };
  Sample SampleOf(size_t head, size_t tier) const;
  size_t CountTokens(size_t head) const;  // held, and new
  size_t CountCandidates(size_t head) const;
  // What the head holds at the least, by Decide() so far: all that may not be forgotten.
  uint64_t MustHoldBytes(size_t head) const;
  uint64_t SpareBytes(size_t head) const;  // of spare_, with their tables
  // By samples_ and rests_: who competes, and what each head gets at the least, spare rows after
  // all that must be held. False if that is more than the budget.
  bool FitsMinimum();

  // Heads do not depend on each other, except where the budget is distributed: each is planned
  // and applied on its own, as plans of all heads take more memory than one ubatch.
  template <typename Work>
  void ForHeads(const Work& work) const;
  // All heads' parts of the budget, in proportion to `weights`, and least_bytes_ at the least.
  std::vector<uint64_t> Distribute(std::span<const uint64_t> weights) const;
  // What each head gets where tokens of all of them compete for the same bytes.
  std::vector<uint64_t> PooledWeights(std::vector<HeadPlan>& plans) const;

  HeadPlan Weigh(size_t head) const;
  void Gather(size_t head, HeadPlan& plan) const;
  void Score(size_t head, HeadPlan& plan) const;
  void WeighKept(HeadPlan& plan) const;
  void MakeCentre(size_t head);
  void MakeMatrix(size_t head);
  // Adds what the head's states, as they are stored now, lack of the points that went into them.
  // `before` is the mass that the states had, `retention` what was retained of it.
  void UpdateMatrix(size_t head, const RowCodec& codec, const std::vector<StateSums>& points,
                    const std::vector<size_t>& went, double before, double retention);
  // Within `share` bytes, which hold everything of the head.
  void Solve(size_t head, HeadPlan& plan, uint64_t share) const;
  // `budget` is for rows of candidates and states.
  void SolveRows(size_t head, HeadPlan& plan, const LadderSolver& solver, uint64_t budget) const;
  // Whether states are certain to be made or changed, as far as that can be told before solving.
  bool NeedsMetric(size_t head) const;
  void MeasureMetric(size_t head, const CandidateRows& rows, HeadPlan& plan) const;
  double StateError(size_t head, const HeadPlan& plan, size_t n_states) const;
  uint64_t StayingBytes(size_t head, const HeadPlan& plan) const;  // of HeadPlan::n_staying
  // Of others that may not be forgotten, at the least.
  uint64_t KeptBytes(const HeadPlan& plan) const;
  // Held once the items are where they should be.
  uint64_t PlannedBytes(size_t head, const HeadPlan& plan, std::span<const LadderItem> items) const;
  void Apply(size_t head, HeadPlan& plan);
  // `entropy` is the mean of the forgotten.
  void Absorb(size_t head, const HeadPlan& plan, std::vector<StateSums> forgotten, double entropy);
  double MeanAttention(size_t head, const HeadPlan& plan) const;
  // The recurrence's a, from a token's stats. `mean_attention` is 0 where all count alike.
  static float AbsorbedShare(std::span<const float> stats, double mean_attention);
  double ForgottenEntropy(size_t head, const HeadPlan& plan) const;
  // Each returns where the states and the forgotten went.
  std::vector<size_t> AbsorbByPlace(std::vector<StateSums>& states,
                                    std::vector<StateSums>& forgotten) const;
  void TraceRoots(size_t head, const std::vector<uint32_t>& roots_before,
                  const std::vector<uint32_t>& tokens, const std::vector<StateSums>& states,
                  const std::vector<size_t>& went);
  void MergeIntoKept(size_t head, const RowCodec& codec, const std::vector<StateSums>& forgotten);
  // k or v may be null.
  void Decode(size_t head, const RowCodec& codec, const Candidate& candidate, float* k,
              float* v) const;
  std::vector<StateSums> LoadStates(size_t head, const RowCodec& codec) const;
  // States that were held before, and did not change, keep their rows.
  static constexpr uint32_t kChanged = std::numeric_limits<uint32_t>::max();
  void StoreStates(size_t head, const RowCodec& codec, const std::vector<StateSums>& states,
                   std::span<const uint32_t> same_as);
  // The place that each of `states` had before, or kChanged. `went`: of the n_before states and
  // what they absorb.
  static std::vector<uint32_t> SameAs(std::span<const size_t> went, size_t n_before,
                                      const std::vector<StateSums>& states, double retention);
  std::span<const float> Stats(size_t head, const Candidate& candidate) const;

  KvCache::Impl& cache_;
  const CacheConfig& config_;
  uint64_t budget_;
  size_t n_new_ = 0;
  double room_ = 0;          // ScoreContext::room
  double text_share_ = 1.0;  // likewise
  bool pooled_ = false;
  // Where PolicyNeeds::all_tokens does not hold:
  bool samples_ = false;   // the lowest rung, on which all stay
  bool all_stay_ = false;  // some are sampled, so there is room for everybody
  bool orders_ = false;    // the lowest rung, so that those come last who are forgotten next
  bool rests_ = false;     // all but the last of the lowest rung, by that order
  // Rows per head that stay free on the incoming tier, so that steps to come need not compress.
  size_t spare_ = 0;
  size_t max_spare_ = 0;
  uint64_t rows_budget_ = 0;                     // without what belongs to no head
  std::vector<uint64_t> min_bytes_;              // [head] MustHoldBytes() and the spare rows
  size_t n_candidates_ = 0;                      // of all heads
  std::vector<std::vector<LadderRung>> shapes_;  // [layer]
};

}  // namespace rkv

#endif  // RETENTIVEKV_CACHE_COMPRESSOR_H_
