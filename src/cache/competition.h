// The competition of tokens for the bytes of a cache, and the minimum bytes of each head.
#ifndef RETENTIVEKV_CACHE_COMPETITION_H_
#define RETENTIVEKV_CACHE_COMPETITION_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cache/candidates.h"
#include "cache/compression_task.h"

namespace rkv {

// Only a policy without PolicyNeeds::all_tokens gets anything but kEveryone.
enum class Competition {
  kEveryone,
  kSampled,         // all fit on the lowest rung: a sample stands for it, if it is long
  kSampledAllStay,  // kSampled, and a head is sampled, so no head may forget a token
  kOrdered,         // everyone; then the lowest rung is ordered, the next to be forgotten last
  kResting,         // only the last tokens of that order, and a sample of the others, which stay
};

class Contest {
 public:
  // `may_rest`: the order of the lowest rung is recent enough. `task` must outlive it.
  Contest(const CompressionTask& task, bool may_rest);

  Competition kind() const { return kind_; }
  // If the lowest rung is long enough, some of its rows stay without competing.
  bool samples() const {
    return kind_ == Competition::kSampled || kind_ == Competition::kSampledAllStay;
  }
  bool all_stay() const { return kind_ == Competition::kSampledAllStay; }
  bool rests() const { return kind_ == Competition::kResting; }
  bool orders() const { return kind_ == Competition::kOrdered || rests(); }

  double room() const { return room_; }  // ScoreContext::room
  // Rows per head that stay free on the incoming tier, so that the next steps need not compress.
  size_t n_spare() const { return n_spare_; }
  uint64_t SpareBytes(const Head& head) const;
  // The budget for all heads' rows, and the minimum bytes of each head, spare rows included.
  uint64_t rows_budget() const { return rows_budget_; }
  std::span<const uint64_t> min_bytes() const { return min_bytes_; }

  Sample SampleOf(const Head& head) const;               // of the lowest rung
  size_t n_candidates() const { return n_candidates_; }  // of all heads

 private:
  // Bytes for every token of the conversation on the lowest rung.
  uint64_t LowestRungBytes() const;
  // True if all tokens fit on the lowest rung, and the states into `room` bytes beside
  // LowestRungBytes().
  bool AllFit(uint64_t room) const;
  // Sets min_bytes_ and the spare rows for the present kind_. False if they exceed the budget.
  bool FitsMinimum();
  uint64_t MinBytes(const Head& head) const;

  const CompressionTask& task_;
  Competition kind_ = Competition::kEveryone;
  double room_ = 0;
  size_t n_spare_ = 0;
  size_t max_spare_ = 0;
  uint64_t rows_budget_ = 0;
  std::vector<uint64_t> min_bytes_;  // [head]
  size_t n_candidates_ = 0;
};

}  // namespace rkv

#endif  // RETENTIVEKV_CACHE_COMPETITION_H_
