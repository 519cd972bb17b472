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

namespace rkv {

// What one KV head of a ubatch showed. Columns are the rows held before the ubatch, in the order in
// which Memory::Impl::Attend() visits them, then the ubatch's tokens.
struct HeadObservation {
  size_t n_columns = 0;
  size_t silent_begin = 0;  // columns that nobody watches: they have no place in the sums
  size_t silent_end = 0;
  // Transit::observes_rows(): [observed tokens, columns] softmax weights, mean over the query
  // group.
  std::vector<float> rows;
  // Else: [watched columns] weights p summed over the observed tokens with PolicyNeeds::decay, and
  // p ln p. Threads add to them in any order, so they are integers, whose sums do not depend on
  // it.
  std::vector<int64_t> sum, sum_log;
  std::vector<float> queries;    // expected: [observed tokens * group, d_k]
  float scale = 0;               // of the layer's logits
  std::vector<float> traced;     // [columns] weights of the last token, if it is traced
  std::vector<float> new_stats;  // [n, n_stats] of the ubatch's tokens, when accounted for
  double state_share = 0;        // softmax share that states took, mean over the group
  uint32_t parts_done = 0;       // of the head's parts; accessed as an atomic
  uint32_t reactivated = 0;      // states that took more than kReactivationShare

  // Place in the sums of a column that is watched.
  size_t watched(size_t column) const {
    return column < silent_begin ? column : column - (silent_end - silent_begin);
  }
  // Allocated for what grows with the columns.
  size_t bytes() const {
    return (rows.capacity() + queries.capacity() + traced.capacity()) * sizeof(float) +
           (sum.capacity() + sum_log.capacity()) * sizeof(int64_t);
  }
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
    }
  }

  // A single token's softmax over the parts of a head's rows. Layers take turns with the memory.
  static constexpr size_t kMaxParts = 32;
  static size_t PartFloats(const LayerShape& shape) {
    return shape.n_head / shape.n_kv_head * (shape.d_v + 2);
  }
  // `n_columns` is what any head has at most.
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
  // After the last Observe(): room for what a head with `n_held` rows will show, of which nobody
  // watches [silent_begin, silent_end).
  void PrepareObservation(size_t head, size_t n_held, size_t silent_begin, size_t silent_end) {
    HeadObservation& observation = observations_[head];
    observation.n_columns = n_held + n_;
    observation.silent_begin = silent_begin;
    observation.silent_end = silent_end;
    if (traces_) SetZeros(observation.traced, observation.n_columns);
    if (config_->needs().expected) {
      SetZeros(observation.queries,
               n_observed_ * config_->group(head) * config_->layer_shape(head).d_k);
    } else if (observes_rows()) {
      SetZeros(observation.rows, n_observed_ * observation.n_columns);
    } else {
      const size_t n_watched = observation.n_columns - (silent_end - silent_begin);
      SetZeros(observation.sum, n_watched);
      SetZeros(observation.sum_log, config_->needs().entropy ? n_watched : 0);
    }
  }
  HeadObservation& observation(size_t head) { return observations_[head]; }
  // Gives back what grows with the columns. A prompt's next ubatch asks for more anyway, and
  // meanwhile compressing needs memory.
  void ReleaseObservations() {
    const auto release = [](auto& x) { std::remove_reference_t<decltype(x)>().swap(x); };
    for (HeadObservation& observation : observations_) {
      release(observation.rows);
      release(observation.sum);
      release(observation.sum_log);
      release(observation.queries);
      release(observation.traced);
    }
  }
  // Scratch of whoever accounts for what was observed: p of a head's columns, and a row.
  std::vector<double>& column_sums() { return column_sums_; }
  std::vector<double>& query_factors() { return query_factors_; }
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
  std::vector<double> column_sums_, query_factors_;
  std::vector<float> key_row_, value_row_;
  RowCodec codec_;
  std::vector<uint8_t> encoded_row_;
  std::vector<float> parts_;        // [KV heads, kMaxParts, PartFloats()]
  std::vector<float> part_logits_;  // [query heads, columns]
  size_t part_columns_ = 0;
};

}  // namespace rkv

#endif  // RETENTIVEKV_CACHE_TRANSIT_H_
