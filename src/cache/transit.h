// What is in transit while a ubatch is decoded: where its K and V are, and the attention that a
// policy wants to see. Belongs to whoever decodes, and is reused for every ubatch, so it is no part
// of what a conversation holds.
#ifndef RETENTIVEKV_CACHE_TRANSIT_H_
#define RETENTIVEKV_CACHE_TRANSIT_H_

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "cache/config.h"
#include "cache/row_codec.h"
#include "rows/page_pool.h"

namespace rkv {

// What one KV head of a ubatch showed. Columns are the rows held before the ubatch, in the order in
// which KvCache::Impl::Attend() visits them, then the ubatch's tokens.
struct HeadObservation {
  size_t n_columns = 0;
  // Columns that nobody observes: they have no place in sums and statistics.
  size_t unobserved_begin = 0;
  size_t unobserved_end = 0;
  // Until the head's last token has been attended to, one of these, in memory that layers share.
  // Transit::observes_rows(): [observed tokens, observed columns] softmax weights, mean over the
  // query group.
  float* rows = nullptr;
  // Else: [observed columns] weights p summed over the observed tokens with PolicyNeeds::decay, and
  // p ln p. Threads add to them in any order, so they are integers, whose sums do not depend on
  // it.
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
  bool has_stats = false;    // `stats` are there

  // Place in sums and statistics of a column that is observed.
  size_t place(size_t column) const {
    return column < unobserved_begin ? column : column - (unobserved_end - unobserved_begin);
  }
  size_t n_observed_columns() const { return place(n_columns); }
};

inline constexpr float kReactivationShare = 0.05f;

class Transit {
 public:
  // Above this many observed queries only sums are kept also where each has a weight of its own.
  static constexpr size_t kMaxObservedRows = 64;
  // HeadObservation::sum counts in units of 1 / kSumUnits, which leaves room for 2^19 queries.
  static constexpr double kSumUnits = 0x1p44;

  // Zeros, with room that grows ahead of need.
  template <typename T>
  static void SetZeros(std::vector<T>& x, size_t n) {
    x.resize(n);
    std::fill(x.begin(), x.end(), T{});
  }

  // K and V of a head's tokens in a ubatch. Strides are in elements.
  struct Rows {
    const uint16_t* k = nullptr;
    const uint16_t* v = nullptr;
    size_t k_stride = 0;
    size_t v_stride = 0;
    const uint32_t* places = nullptr;  // [tokens] the row of each; null: in their order
  };

  // For `n` tokens. `stages`: their K and V are copied by Stage(); else ReadFrom() tells where they
  // are. Allocates only for larger ubatches than before.
  void Begin(const CacheConfig& config, size_t n, bool stages) {
    config_ = &config;
    n_ = n;
    rows_.assign(config.n_heads(), Rows());
    staged_.resize(stages ? n * config.elements() : 0);
    for (size_t head = 0; head < config.n_heads() && stages; ++head) {
      const LayerShape& shape = config.layer_shape(head);
      rows_[head] = {.k = StagedKey(head, 0),
                     .v = StagedValue(head, 0),
                     .k_stride = shape.d_k,
                     .v_stride = shape.d_v};
    }
    observations_.resize(config.n_heads());
    observed_.assign(n, -1);
    n_observed_ = 0;
    traces_ = false;
    for (HeadObservation& observation : observations_) {
      observation.state_share = 0;
      observation.reactivated = 0;
      observation.parts_done = 0;
      observation.tokens_done = 0;
      observation.observe_seconds = 0;
      observation.has_stats = false;
    }
  }

  // A single token's softmax over the parts of a head's rows. Layers take turns with the memory.
  static constexpr size_t kMaxParts = 32;
  static size_t PartFloats(const LayerShape& shape) {
    return shape.n_head / shape.n_kv_head * (shape.d_v + 2);
  }
  // `n_columns` is what any head has at most that are observed.
  void PrepareParts(size_t n_columns) {
    size_t floats = 0;
    size_t heads = 0;
    for (const LayerShape& shape : config_->shape().layers) {
      floats = std::max(floats, shape.n_kv_head * kMaxParts * PartFloats(shape));
      heads = std::max(heads, shape.n_head);
    }
    parts_.resize(std::max(parts_.size(), floats));
    part_columns_ = n_columns;
    const size_t n = heads * n_columns;
    if (part_logits_.size() < n) part_logits_.resize(n + n / 8);
  }
  float* part(const LayerShape& shape, size_t kv_head, size_t part) {
    return parts_.data() + (kv_head * kMaxParts + part) * PartFloats(shape);
  }
  // Of query head `g` of a KV head's group.
  float* part_logits(const LayerShape& shape, size_t kv_head, size_t g) {
    return part_logits_.data() + (kv_head * (shape.n_head / shape.n_kv_head) + g) * part_columns_;
  }

  // That may be used when the ubatch has been decoded, the caller's among them.
  void set_n_threads(size_t n) { n_threads_ = n; }
  size_t n_threads() const { return n_threads_; }

  size_t n() const { return n_; }
  const uint16_t* key(size_t head, size_t i) const {
    const Rows& rows = rows_[head];
    assert(rows.k != nullptr);
    return rows.k + Place(rows, i) * rows.k_stride;
  }
  const uint16_t* value(size_t head, size_t i) const {
    const Rows& rows = rows_[head];
    assert(rows.v != nullptr);
    return rows.v + Place(rows, i) * rows.v_stride;
  }
  // They must stay where they are until the append has ended.
  void ReadFrom(size_t head, const Rows& rows) { rows_[head] = rows; }
  // REQUIRES: Begin() with `stages`.
  void Stage(size_t head, size_t i, const uint16_t* k, const uint16_t* v) {
    assert(!staged_.empty());
    const LayerShape& shape = config_->layer_shape(head);
    std::copy_n(k, shape.d_k, StagedKey(head, i));
    std::copy_n(v, shape.d_v, StagedValue(head, i));
  }

  // The tokens whose attention is observed, numbered in their order; -1: not observed.
  void Observe(size_t i) { observed_[i] = static_cast<int32_t>(n_observed_++); }
  int32_t observed(size_t i) const { return observed_[i]; }
  size_t n_observed() const { return n_observed_; }
  // A token of the answer is chosen with the ubatch's last token, whose weights are traced.
  void StartTrace() { traces_ = true; }
  bool traces() const { return traces_; }
  // Weights are kept by query, not only their sum: a row of them for every query would be more than
  // the cache of a long conversation.
  bool observes_rows() const {
    return n_observed_ <= (config_->needs().text_weighted ? kMaxObservedRows : 1);
  }
  // After the last Observe(): says that a head has `n_held` rows, of which nobody observes
  // [unobserved_begin, unobserved_end). Of all heads before AllocateObservations().
  void PrepareObservation(size_t head, size_t n_held, size_t unobserved_begin,
                          size_t unobserved_end) {
    HeadObservation& observation = observations_[head];
    observation.n_columns = n_held + n_;
    observation.unobserved_begin = unobserved_begin;
    observation.unobserved_end = unobserved_end;
  }
  // Makes room for what heads will show.
  void AllocateObservations() {
    const PolicyNeeds& needs = config_->needs();
    const bool sums = n_observed_ > 0 && !needs.expected;
    const size_t n_stats = n_observed_ > 0 ? config_->n_stats() : 0;
    size_t layer_heads = 0;
    for (const LayerShape& shape : config_->shape().layers) {
      layer_heads = std::max(layer_heads, shape.n_kv_head);
    }
    size_t max_observed = 0;
    for (const HeadObservation& observation : observations_) {
      max_observed = std::max(max_observed, observation.n_observed_columns());
    }
    const size_t row_floats = sums && observes_rows() ? n_observed_ * max_observed : 0;
    const size_t sum_words = sums && !observes_rows() ? max_observed : 0;
    SetZeros(weights_, layer_heads * row_floats);
    SetZeros(sums_, layer_heads * sum_words * (needs.entropy ? 2 : 1));
    size_t head = 0;
    for (const LayerShape& shape : config_->shape().layers) {
      for (size_t kv_head = 0; kv_head < shape.n_kv_head; ++kv_head, ++head) {
        HeadObservation& observation = observations_[head];
        observation.rows = weights_.data() + kv_head * row_floats;
        observation.sum = sums_.data() + kv_head * sum_words;
        observation.sum_log =
            needs.entropy ? sums_.data() + (layer_heads + kv_head) * sum_words : nullptr;
        // Tokens that come one by one need little more each time.
        const size_t n_floats = observation.n_observed_columns() * n_stats;
        observation.stats.Reserve(n_floats, n_ == 1 ? n_floats / 8 : 0);
        if (traces_) SetZeros(observation.traced, observation.n_columns);
        if (!needs.expected) continue;
        SetZeros(observation.queries, n_observed_ * config_->group(head) * shape.d_k);
      }
    }
  }
  // Allocated for what grows with the rows that are held.
  size_t observation_bytes() const {
    size_t bytes = weights_.capacity() * sizeof(float) + sums_.capacity() * sizeof(int64_t);
    for (const HeadObservation& observation : observations_) {
      bytes += (observation.stats.capacity() + observation.queries.capacity() +
                observation.traced.capacity()) *
               sizeof(float);
    }
    return bytes;
  }
  // Of them, those for rows that were held before the ubatch.
  size_t HeldObservationBytes() const {
    if (n_observed_ == 0) return 0;
    size_t n = 0;
    for (const HeadObservation& observation : observations_)
      n += observation.n_observed_columns() - n_;
    return n * config_->n_stats() * sizeof(float);
  }
  HeadObservation& observation(size_t head) { return observations_[head]; }
  const HeadObservation& observation(size_t head) const { return observations_[head]; }
  // The statistics that a head's tokens of the ubatch come with: [n, n_stats]. They stay when
  // observations are released.
  void KeepNewStats(size_t head) {
    const HeadObservation& observation = observations_[head];
    const size_t n_floats = n_ * config_->n_stats();
    new_stats_.resize(config_->n_heads() * n_floats);
    std::copy_n(observation.stats.data() +
                    observation.place(observation.n_columns - n_) * config_->n_stats(),
                n_floats, new_stats_.data() + head * n_floats);
  }
  const float* new_stats(size_t head) const {
    return new_stats_.data() + head * n_ * config_->n_stats();
  }
  // Gives back what grows with the columns. A prompt's next ubatch asks for more anyway, and
  // meanwhile compressing needs memory.
  void ReleaseObservations() {
    const auto release = [](auto& x) { std::remove_reference_t<decltype(x)>().swap(x); };
    release(weights_);
    release(sums_);
    for (HeadObservation& observation : observations_) {
      observation.stats.Release();
      release(observation.queries);
      release(observation.traced);
    }
  }
  // Scratch of whoever turns observed queries into statistics: p of a head's columns, and a row.
  std::vector<double>& column_sums() { return column_sums_; }
  std::vector<float>& key_row() { return key_row_; }
  std::vector<float>& value_row() { return value_row_; }
  // Of whoever stores rows in other types than they came in.
  RowCodec& codec() { return codec_; }
  std::vector<uint8_t>& encoded_row() { return encoded_row_; }

 private:
  static size_t Place(const Rows& rows, size_t i) {
    return rows.places != nullptr ? rows.places[i] : i;
  }
  uint16_t* StagedKey(size_t head, size_t i) {
    return staged_.data() + n_ * config_->elements_before(head) +
           i * config_->layer_shape(head).d_k;
  }
  uint16_t* StagedValue(size_t head, size_t i) {
    const LayerShape& shape = config_->layer_shape(head);
    return staged_.data() + n_ * (config_->elements_before(head) + shape.d_k) + i * shape.d_v;
  }

  const CacheConfig* config_ = nullptr;
  size_t n_threads_ = 1;
  size_t n_ = 0;
  size_t n_observed_ = 0;
  bool traces_ = false;
  std::vector<Rows> rows_;        // [head]
  std::vector<uint16_t> staged_;  // per head: keys [n, d_k], values [n, d_v]
  std::vector<int32_t> observed_;
  std::vector<HeadObservation> observations_;
  std::vector<float> weights_;  // of a layer: [KV heads, observed tokens, most observed columns]
  std::vector<int64_t> sums_;   // of a layer: [1 or 2, KV heads, most observed columns]
  std::vector<float> new_stats_;
  std::vector<double> column_sums_;
  std::vector<float> key_row_, value_row_;
  RowCodec codec_;
  std::vector<uint8_t> encoded_row_;
  std::vector<float> parts_;        // [KV heads, kMaxParts, PartFloats()]
  std::vector<float> part_logits_;  // [query heads, columns]
  size_t part_columns_ = 0;
};

}  // namespace rkv

#endif  // RETENTIVEKV_CACHE_TRANSIT_H_
