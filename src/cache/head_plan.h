// The plan for one head's tokens: their scores, then, for a share of the budget, the rung of each
// and the number of states.
#ifndef RETENTIVEKV_CACHE_HEAD_PLAN_H_
#define RETENTIVEKV_CACHE_HEAD_PLAN_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cache/candidates.h"
#include "cache/competition.h"
#include "cache/ladder_solver.h"
#include "cache/state_rows.h"

namespace rkv {

// The common input of all plans of one compression.
struct PlanContext {
  const CompressionTask& task;
  const Contest& contest;
  std::span<const std::vector<LadderRung>> rungs;  // [layer]
  double text_share = 1.0;                         // ScoreContext::text_share
  bool pooled = false;                             // over heads
};

// Replaces scores by errors that depend only on their ranks, for policies of which only the order
// counts.
void RanksToErrors(std::span<LadderItem> items);

class HeadPlan {
 public:
  HeadPlan() = default;
  // Scores the head's candidates. The head must not change until the plan has been applied.
  HeadPlan(const PlanContext& context, const Head& head);

  std::span<const Candidate> candidates() const { return candidates_; }  // ascending by index
  // Of the candidates: errors, then rungs.
  std::span<LadderItem> items() { return items_; }
  std::span<const LadderItem> items() const { return items_; }
  const CandidateReader& reader() const { return reader_; }
  const StateMetric& metric() const { return metric_; }
  size_t n_states() const { return n_states_; }    // that may be held
  size_t n_staying() const { return n_staying_; }  // tokens for which a candidate stands

  // Sinks and the window get errors above the others'; tokens that must stay are marked.
  void WeighKept();
  // Sets every item's rung and the number of states. All of the head must fit into `share` bytes.
  void Solve(uint64_t share);
  // Of the tokens that stay without competing.
  uint64_t StayingBytes() const;
  // Bytes held once the items are on their new rungs.
  uint64_t PlannedBytes(std::span<const LadderItem> items) const;
  // For states that were not foreseen before solving.
  void EnsureMetric() {
    if (!NeedsMetric()) MeasureMetric(Rows());
  }

 private:
  // Reader of the candidates. It keeps rows decoded; while most tokens rest, all that are likely to
  // be read again.
  CandidateRows Rows() const;
  void Score();
  // True if states will certainly be made or changed, as far as known before solving.
  bool NeedsMetric() const;
  void MeasureMetric(const CandidateRows& rows);
  // `budget` is for rows of candidates and states.
  void SolveRows(const LadderSolver& solver, uint64_t budget);
  // REQUIRES: n_states is at most MaxStates(budget).
  void SolveWithStates(const LadderSolver& solver, uint64_t budget, size_t n_states);
  bool IsForgotten(const LadderItem& item) const;
  size_t CountAbsorbed() const;
  double StateError(size_t n_states) const;
  // States for which `budget` has room beside the items that may not be forgotten; at least 1.
  size_t MaxStates(uint64_t budget) const;
  uint64_t LowestRowBytes() const { return context_->rungs[head_->layer()].back().bytes; }

  const PlanContext* context_ = nullptr;
  const Head* head_ = nullptr;
  std::vector<Candidate> candidates_;
  std::vector<LadderItem> items_;
  CandidateReader reader_;
  StateMetric metric_;
  size_t n_staying_ = 0;
  size_t n_states_ = 0;
};

}  // namespace rkv

#endif  // RETENTIVEKV_CACHE_HEAD_PLAN_H_
