// What is in transit while a ubatch is decoded: its K and V, and the attention that a policy wants
// to see. Belongs to whoever decodes, and is reused for every ubatch, so it is no part of what a
// conversation holds.
#ifndef RETENTIVEKV_CACHE_TRANSIT_H_
#define RETENTIVEKV_CACHE_TRANSIT_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "cache/config.h"

namespace rkv {

// What one KV head of a ubatch showed. Columns are the rows held before the ubatch, in the order in
// which Memory::Impl::Attend() visits them, then the ubatch's tokens.
struct HeadObservation {
  size_t n_columns = 0;
  // Few observed tokens: [observed tokens, columns] softmax weights, mean over the query group.
  std::vector<float> rows;
  // Many: [columns] weights p summed over the observed tokens with PolicyNeeds::decay, and p ln p.
  std::vector<float> sum, sum_log;
  std::vector<float> queries;    // expected: [observed tokens * group, d_k]
  float scale = 0;               // of the layer's logits
  std::vector<float> traced;     // [columns] weights of the only token, if it is traced
  std::vector<float> new_stats;  // [n, n_stats] of the ubatch's tokens, when accounted for
  double state_share = 0;        // softmax share that states took, mean over the group
  uint32_t reactivated = 0;      // states that took more than kReactivationShare
};

inline constexpr float kReactivationShare = 0.05f;

class Transit {
 public:
  // Above this many observed queries only sums are kept.
  static constexpr size_t kMaxObservedRows = 64;

  // Zeros, with room that grows ahead of need.
  template <typename T>
  static void SetZeros(std::vector<T>& x, size_t n) {
    x.resize(n);
    std::fill(x.begin(), x.end(), T{});
  }

  // For `n` tokens; their K and V are written by Stage(). Allocates only for larger ubatches than
  // before.
  void Begin(const CacheConfig& config, size_t n) {
    config_ = &config;
    n_ = n;
    rows_.resize(n * config.elements());
    observations_.resize(config.n_heads());
    observed_.assign(n, -1);
    n_observed_ = 0;
    traces_ = false;
    for (HeadObservation& observation : observations_) {
      observation.state_share = 0;
      observation.reactivated = 0;
    }
  }

  size_t n() const { return n_; }
  uint16_t* key(size_t head, size_t i) {
    return rows_.data() + n_ * config_->elements_before(head) + i * config_->layer_shape(head).d_k;
  }
  uint16_t* value(size_t head, size_t i) {
    const LayerShape& shape = config_->layer_shape(head);
    return rows_.data() + n_ * (config_->elements_before(head) + shape.d_k) + i * shape.d_v;
  }
  void Stage(size_t head, size_t i, const uint16_t* k, const uint16_t* v) {
    const LayerShape& shape = config_->layer_shape(head);
    std::memcpy(key(head, i), k, shape.d_k * sizeof(uint16_t));
    std::memcpy(value(head, i), v, shape.d_v * sizeof(uint16_t));
  }

  // The tokens whose attention is observed, numbered in their order; -1: not observed.
  void Observe(size_t i) { observed_[i] = static_cast<int32_t>(n_observed_++); }
  int32_t observed(size_t i) const { return observed_[i]; }
  size_t n_observed() const { return n_observed_; }
  // The ubatch is a step of decoding whose weights are traced.
  void StartTrace() { traces_ = true; }
  bool traces() const { return traces_; }
  // Weights are kept by query, not only their sum.
  bool observes_rows() const { return n_observed_ <= kMaxObservedRows; }
  // After the last Observe(): room for what a head with `n_held` rows will show.
  void PrepareObservation(size_t head, size_t n_held) {
    HeadObservation& observation = observations_[head];
    observation.n_columns = n_held + n_;
    if (traces_) SetZeros(observation.traced, observation.n_columns);
    if (config_->needs().expected) {
      SetZeros(observation.queries,
               n_observed_ * config_->group(head) * config_->layer_shape(head).d_k);
    } else if (observes_rows()) {
      SetZeros(observation.rows, n_observed_ * observation.n_columns);
    } else {
      SetZeros(observation.sum, observation.n_columns);
      SetZeros(observation.sum_log, config_->needs().entropy ? observation.n_columns : 0);
    }
  }
  HeadObservation& observation(size_t head) { return observations_[head]; }
  // Scratch of whoever accounts for what was observed: p and p ln p of a head's columns, and a row.
  std::vector<double>& column_sums() { return column_sums_; }
  std::vector<double>& column_log_sums() { return column_log_sums_; }
  std::vector<float>& key_row() { return key_row_; }
  std::vector<float>& value_row() { return value_row_; }

 private:
  const CacheConfig* config_ = nullptr;
  size_t n_ = 0;
  size_t n_observed_ = 0;
  bool traces_ = false;
  std::vector<uint16_t> rows_;  // per head: keys [n, d_k], values [n, d_v]
  std::vector<int32_t> observed_;
  std::vector<HeadObservation> observations_;
  std::vector<double> column_sums_, column_log_sums_;
  std::vector<float> key_row_, value_row_;
};

}  // namespace rkv

#endif  // RETENTIVEKV_CACHE_TRANSIT_H_
