#include "cache/observations.h"

#include <algorithm>

namespace rkv {

void Observations::Begin(const CacheConfig& config, size_t n) {
  config_ = &config;
  n_ = n;
  n_queries_ = 0;
  traces_ = false;
  number_.assign(n, -1);
  heads_.resize(config.n_heads());
  for (HeadObservation& head : heads_) {
    head.state_share = 0;
    head.reactivated = 0;
    head.parts_done = 0;
    head.tokens_done = 0;
    head.observe_seconds = 0;
    head.has_stats = false;
  }
}

void Observations::Prepare(size_t head, size_t n_held, const Head::Columns& unobserved) {
  heads_[head].n_columns = n_held + n_;
  heads_[head].unobserved = unobserved;
}

void Observations::Allocate() {
  const PolicyNeeds& needs = config_->needs();
  const bool sums = n_queries_ > 0 && !needs.expected;
  const size_t n_stats = n_queries_ > 0 ? config_->n_stats() : 0;
  size_t layer_heads = 0;
  for (const LayerShape& shape : config_->shape().layers) {
    layer_heads = std::max(layer_heads, shape.n_kv_head);
  }
  size_t max_observed = 0;
  for (const HeadObservation& head : heads_) {
    max_observed = std::max(max_observed, head.n_observed_columns());
  }
  const size_t row_floats = sums && by_query() ? n_queries_ * max_observed : 0;
  const size_t sum_words = sums && !by_query() ? max_observed : 0;
  SetZeros(weights_, layer_heads * row_floats);
  SetZeros(sums_, layer_heads * sum_words * (needs.entropy ? 2 : 1));
  for (size_t i = 0; i < heads_.size(); ++i) {
    HeadObservation& head = heads_[i];
    const size_t kv_head = config_->kv_head_of(i);
    head.rows = weights_.data() + kv_head * row_floats;
    head.sum = sums_.data() + kv_head * sum_words;
    head.sum_log = needs.entropy ? sums_.data() + (layer_heads + kv_head) * sum_words : nullptr;
    // While tokens come one by one, each ubatch needs little more than the last.
    const size_t n_floats = head.n_observed_columns() * n_stats;
    head.stats.Reserve(n_floats, n_ == 1 ? n_floats / 8 : 0);
    if (traces_) SetZeros(head.traced, head.n_columns);
    if (!needs.expected) continue;
    SetZeros(head.queries, n_queries_ * config_->group(i) * config_->layer_shape(i).d_k);
  }
}

size_t Observations::bytes() const {
  size_t bytes = weights_.capacity() * sizeof(float) + sums_.capacity() * sizeof(int64_t);
  for (const HeadObservation& head : heads_) {
    bytes +=
        (head.stats.capacity() + head.queries.capacity() + head.traced.capacity()) * sizeof(float);
  }
  return bytes;
}

size_t Observations::HeldBytes() const {
  if (n_queries_ == 0) return 0;
  size_t n = 0;
  for (const HeadObservation& head : heads_) n += head.n_observed_columns() - n_;
  return n * config_->n_stats() * sizeof(float);
}

void Observations::KeepNewStats(size_t head) {
  const HeadObservation& observation = heads_[head];
  const size_t n_floats = n_ * config_->n_stats();
  new_stats_.resize(config_->n_heads() * n_floats);
  std::copy_n(
      observation.stats.data() + observation.place(observation.n_columns - n_) * config_->n_stats(),
      n_floats, new_stats_.data() + head * n_floats);
}

void Observations::Release() {
  std::vector<float>().swap(weights_);
  std::vector<int64_t>().swap(sums_);
  for (HeadObservation& head : heads_) {
    head.stats.Release();
    std::vector<float>().swap(head.queries);
    std::vector<float>().swap(head.traced);
  }
}

}  // namespace rkv
