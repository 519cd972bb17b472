// The attention of a ubatch's queries that a policy asks to observe, and the resulting statistics
// of rows.
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

// Observations of one KV head. Columns are the rows held before the ubatch, in Head::Attend()'s
// order, then the ubatch's tokens.
struct HeadObservation {
  size_t n_columns = 0;
  // Columns without a place in sums and statistics.
  Head::Columns unobserved;
  // Until the head's last token has been attended, either `rows` or the sums are set, in memory
  // that layers share. With Observations::by_query(): [observed tokens, observed columns] softmax
  // weights, mean over the query group.
  float* rows = nullptr;
  // Else: [observed columns] weights p summed over the observed tokens with PolicyNeeds::decay, and
  // p ln p. Threads add in any order; integers make the sums independent of it.
  int64_t* sum = nullptr;
  int64_t* sum_log = nullptr;
  // After the last token: [observed columns, n_stats] the new statistics of rows. Rows keep their
  // old statistics until the ubatch is appended, as the append may be aborted.
  PooledFloats stats;
  std::vector<float> queries;  // expected: [observed tokens * group, d_k]
  float scale = 0;             // of the layer's logits
  // [columns], all of them observed: weights of the last token, if traced.
  std::vector<float> traced;
  double state_share = 0;  // softmax share of states, mean over the group
  double observe_seconds = 0;
  uint32_t parts_done = 0;   // number of finished parts of the head; accessed as an atomic
  uint32_t tokens_done = 0;  // attended tokens; accessed as an atomic
  uint32_t reactivated = 0;  // states with more than kReactivationShare
  bool has_stats = false;

  // Place of an observed column in sums and statistics.
  size_t place(size_t column) const {
    return column < unobserved.begin ? column : column - unobserved.size();
  }
  size_t n_observed_columns() const { return place(n_columns); }
};

inline constexpr float kReactivationShare = 0.05f;

class Observations {
 public:
  // Above this many observed queries only sums are kept, even if each query has its own weight.
  static constexpr size_t kMaxQueries = 64;
  // HeadObservation::sum counts in units of 1 / kSumUnits, which leaves room for 2^19 queries.
  static constexpr double kSumUnits = 0x1p44;

  // Starts a ubatch of `n` tokens, none of them observed.
  void Begin(const CacheConfig& config, size_t n);
  // Makes token i an observed one. Call it in ascending order of i.
  void Observe(size_t i) { number_[i] = static_cast<int32_t>(n_queries_++); }
  // Traces the weights of the ubatch's last token, because the next token of the answer is chosen
  // with it.
  void StartTrace() { traces_ = true; }
  // Call it after the last Observe() and before Allocate(), for every head. The head has `n_held`
  // rows, some of them unobserved.
  void Prepare(size_t head, size_t n_held, const Head::Columns& unobserved);
  void Allocate();

  // Number of a token among the observed ones, in their order; -1: not observed.
  int32_t number(size_t token) const { return number_[token]; }
  size_t n_queries() const { return n_queries_; }
  bool traces() const { return traces_; }
  // True if weights are kept per query, false if only their sum. A row of weights for each of many
  // queries would exceed the cache of a long conversation.
  bool by_query() const { return n_queries_ <= (config_->needs().text_weighted ? kMaxQueries : 1); }
  HeadObservation& head(size_t head) { return heads_[head]; }
  const HeadObservation& head(size_t head) const { return heads_[head]; }

  // Bytes allocated in proportion to the rows, and the part of them for rows held before the
  // ubatch.
  size_t bytes() const;
  size_t HeldBytes() const;

  // The first statistics of a head's tokens of the ubatch: [n, n_stats]. They stay after Release().
  void KeepNewStats(size_t head);
  const float* new_stats(size_t head) const {
    return new_stats_.data() + head * n_ * config_->n_stats();
  }
  // Frees the memory that grows with the columns. A prompt's next ubatch needs more anyway, and
  // until then compressing needs memory.
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

// Entropy of a row's attention over the observed queries, 0 to 1, from its statistics; 0 without
// statistics.
double AttentionEntropy(std::span<const float> stats, double observed_queries);

// Sets x to n zeros. Its room grows ahead of need.
template <typename T>
void SetZeros(std::vector<T>& x, size_t n) {
  x.resize(n);
  std::fill(x.begin(), x.end(), T{});
}

}  // namespace rkv

#endif  // RETENTIVEKV_CACHE_OBSERVATIONS_H_
