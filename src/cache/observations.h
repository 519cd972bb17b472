// The attention of a ubatch's queries that a policy asks to observe, and the statistics of rows
// that follow from it.
#ifndef RETENTIVEKV_CACHE_OBSERVATIONS_H_
#define RETENTIVEKV_CACHE_OBSERVATIONS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cache/config.h"
#include "cache/head.h"
#include "rows/page_pool.h"

namespace rkv {

// Of one KV head. Columns are the rows held before the ubatch, in Head::Attend()'s order, then the
// ubatch's tokens.
struct HeadObservation {
  size_t n_columns = 0;
  // Columns without a place in sums and statistics.
  Head::Columns unobserved;
  // Until the head's last token has been attended to, one of these, in memory that layers share.
  // Observations::by_query(): [observed tokens, observed columns] softmax weights, mean over the
  // query group.
  float* rows = nullptr;
  // Else: [observed columns] weights p summed over the observed tokens with PolicyNeeds::decay, and
  // p ln p. Threads add to them in any order, so they are integers: their sums do not depend on it.
  int64_t* sum = nullptr;
  int64_t* sum_log = nullptr;
  // From then on: [observed columns, n_stats] the statistics that rows have once the ubatch is
  // appended. Until then theirs stay, as it may be aborted.
  PooledFloats stats;
  std::vector<float> queries;  // expected: [observed tokens * group, d_k]
  float scale = 0;             // of the layer's logits
  // [columns], all of them observed: weights of the last token, if it is traced.
  std::vector<float> traced;
  double state_share = 0;  // softmax share that states took, mean over the group
  double observe_seconds = 0;
  uint32_t parts_done = 0;   // of the head's parts; accessed as an atomic
  uint32_t tokens_done = 0;  // attended to; accessed as an atomic
  uint32_t reactivated = 0;  // states that took more than kReactivationShare
  bool has_stats = false;

  // Place in sums and statistics of a column that is observed.
  size_t place(size_t column) const {
    return column < unobserved.begin ? column : column - unobserved.size();
  }
  size_t n_observed_columns() const { return place(n_columns); }
};

inline constexpr float kReactivationShare = 0.05f;

class Observations {
 public:
  // Above this many observed queries only sums are kept also where each has a weight of its own.
  static constexpr size_t kMaxQueries = 64;
  // HeadObservation::sum counts in units of 1 / kSumUnits, which leaves room for 2^19 queries.
  static constexpr double kSumUnits = 0x1p44;

  // For `n` tokens, none of them observed.
  void Begin(const CacheConfig& config, size_t n);
  // Observes token i; in ascending order.
  void Observe(size_t i) { number_[i] = static_cast<int32_t>(n_queries_++); }
  // A token of the answer is chosen with the ubatch's last token, whose weights are traced.
  void StartTrace() { traces_ = true; }
  // After the last Observe(): a head has `n_held` rows, of which some are unobserved. Of all heads
  // before Allocate().
  void Prepare(size_t head, size_t n_held, const Head::Columns& unobserved);
  void Allocate();

  // Number of a token among the observed ones, in their order; -1: not observed.
  int32_t number(size_t token) const { return number_[token]; }
  size_t n_queries() const { return n_queries_; }
  bool traces() const { return traces_; }
  // Weights are kept by query, not only their sum: a row of them for every query would be more than
  // the cache of a long conversation.
  bool by_query() const { return n_queries_ <= (config_->needs().text_weighted ? kMaxQueries : 1); }
  HeadObservation& head(size_t head) { return heads_[head]; }
  const HeadObservation& head(size_t head) const { return heads_[head]; }

  // Allocated for what grows with the rows that are held, and of that, for rows held before the
  // ubatch.
  size_t bytes() const;
  size_t HeldBytes() const;

  // The statistics that a head's tokens of the ubatch come with: [n, n_stats]. They stay after
  // Release().
  void KeepNewStats(size_t head);
  const float* new_stats(size_t head) const {
    return new_stats_.data() + head * n_ * config_->n_stats();
  }
  // Gives back what grows with the columns. A prompt's next ubatch asks for more anyway, and
  // meanwhile compressing needs memory.
  void Release();

 private:
  const CacheConfig* config_ = nullptr;
  size_t n_ = 0;
  size_t n_queries_ = 0;
  bool traces_ = false;
  std::vector<int32_t> number_;  // [token]
  std::vector<HeadObservation> heads_;
  std::vector<float> weights_;  // of a layer: [KV heads, observed tokens, max observed columns]
  std::vector<int64_t> sums_;   // of a layer: [1 or 2, KV heads, max observed columns]
  std::vector<float> new_stats_;
};

// Of a row's attention over the observed queries, 0 to 1, from its statistics; 0 without any.
double AttentionEntropy(std::span<const float> stats, double observed_queries);

// Zeros, with room that grows ahead of need.
template <typename T>
void SetZeros(std::vector<T>& x, size_t n) {
  x.resize(n);
  std::fill(x.begin(), x.end(), T{});
}

}  // namespace rkv

#endif  // RETENTIVEKV_CACHE_OBSERVATIONS_H_
