// One KV head of a cache: its tokens by rung of the ladder, its states, and the centre and matrix
// for coding them. A Head owns all memory of a head and counts its bytes.
#ifndef RETENTIVEKV_CACHE_HEAD_H_
#define RETENTIVEKV_CACHE_HEAD_H_

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "cache/byte_count.h"
#include "cache/config.h"
#include "kernels/attention.h"
#include "rows/row_store.h"

namespace rkv {

// Scratch of one thread that attends.
class AttentionScratch {
 public:
  void Resize(const CacheShape& shape);  // for the largest layer

  SoftmaxState state() { return {.acc = acc_.data(), .max = max_.data(), .sum = sum_.data()}; }
  float* kernel() { return kernel_.data(); }

  // For Head::Attend().
  struct Rotated {
    std::vector<float> q;       // [kMaxQueryRows, d_k]
    std::vector<float> centre;  // [max(d_k, d_v)]
    std::vector<float> row;     // [max(d_k, d_v)]
    float bias[kMaxQueryRows];
    float half_norm[kMaxQueryRows];
  };
  Rotated& rotated() { return rotated_; }
  std::vector<float>& logits() { return logits_; }

 private:
  std::vector<float> acc_, max_, sum_, kernel_, logits_;
  Rotated rotated_;
};

// A value type: copies are deep. Not thread-safe; readers may run concurrently.
class Head {
 public:
  // Rows as Attend() visits them.
  struct Columns {
    size_t begin = 0;
    size_t end = 0;

    size_t size() const { return end - begin; }
  };
  // Pages, in Attend()'s order.
  struct Pages {
    size_t begin = 0;
    size_t end = std::numeric_limits<size_t>::max();
  };

  // Without rows. `number`: among the heads of all layers. `config` must outlive it.
  Head(const CacheConfig& config, size_t number);
  Head(const Head& other);
  Head& operator=(const Head&) = delete;
  Head(Head&&) noexcept = default;
  Head& operator=(Head&&) noexcept = default;

  const CacheConfig& config() const { return *id_->config; }
  size_t number() const { return id_->number; }
  size_t layer() const { return config().layer_of(number()); }
  const LayerShape& shape() const { return config().layer_shape(number()); }
  const RowLayout& layout(size_t tier) const { return config().layout(number(), tier); }
  // Of the lowest rung.
  const RowLayout& lowest_layout() const { return layout(config().n_rungs() - 1); }

  // Tiers are the rungs, from the most precise down, then the states.
  const RowStore& store(size_t tier) const {
    return stores_[tier] != nullptr ? *stores_[tier] : config().empty_store(number(), tier);
  }
  RowStore& mutable_store(size_t tier);
  // REQUIRES: the absorber has states.
  const RowStore& states() const { return store(config().state_tier()); }
  size_t n_states() const { return config().absorb().has_states() ? states().size() : 0; }
  size_t n_tokens() const;  // held as themselves
  // Sets the room of a store. A store without room is freed.
  void SetCapacity(size_t tier, size_t rows);

  // K and V of the mean token, as q8_0: tokens on quantised rungs are coded relative to it. Null
  // until the head has such tokens.
  const uint8_t* centre() const { return centre_.get(); }
  void SetCentre(const float* k, const float* v);

  // Mean of (v - v_c)(k - k_c)^T over all absorbed tokens, each token against its state c. Together
  // with the states, this is the paper's matrix S = sum_j v_j k_j^T. f16 [d_v, d_k], in the states'
  // basis; null: none.
  const uint16_t* matrix() const { return matrix_.get(); }
  uint16_t* matrix() { return matrix_.get(); }
  void MakeMatrix();  // of zeros

  uint64_t table_bytes() const;  // centre, matrix and the table of stores
  uint64_t held_bytes() const;   // those, and all rows; without sizeof(Head)

  // Drops tokens from the n-th on. States cannot be split: their roots there become the last token
  // before, or the states are dropped if no token is left.
  void Truncate(uint64_t n_tokens);

  // Rows that Attend() visits, states included.
  size_t n_rows() const;
  size_t n_pages() const;
  // Calls visit(tier, slot) for each of them, in Attend()'s order.
  template <typename Visit>
  void VisitRows(const Visit& visit) const {
    for (size_t tier = config().n_attended_tiers(); tier-- > 0;) {
      for (size_t slot = 0; slot < store(tier).size(); ++slot) visit(tier, slot);
    }
  }
  // Columns whose attention no policy uses: the lowest rung, unless PolicyNeeds::lowest_rung.
  Columns unobserved_columns() const;

  // Adds all rows, or some pages of them, to the softmax of the queries, states first. `logits`, if
  // not null, gets each query's logits of all columns except `unobserved`, one after the other.
  void Attend(const HeadShape& shape, const QueryBlock& queries, const Columns& unobserved,
              float* const* logits, Pages pages, AttentionScratch& scratch) const;

  // The paper's additive readout (method section 4), if the states are not part of the softmax:
  // out += q S / (sum_c n_c |q.k_c| + epsilon), q S = sum_c n_c (q.k_c) v_c over the states, plus
  // the matrix's term. The paper's normaliser |q z| is zero if q.k_c of both signs cancel; this one
  // bounds it.
  void AddReadout(const QueryBlock& queries, AttentionScratch& scratch, float* const* out) const;

  void SaveRows(ByteWriter& writer) const;
  // False for rows that no head of a conversation of `tokens_seen` tokens can have. Roots of states
  // must be below `end_of_roots`. `with_room`: spare rows were saved, too.
  bool LoadRows(uint64_t tokens_seen, uint64_t end_of_roots, bool with_room, ByteReader& reader);
  void SaveCentre(ByteWriter& writer) const;
  bool LoadCentre(ByteReader& reader);
  void SaveMatrix(ByteWriter& writer) const;
  bool LoadMatrix(ByteReader& reader);

 private:
  class RowReader;

  void AddMatrix(const HeadShape& shape, const QueryBlock& queries, const SoftmaxState& state,
                 std::vector<float>& row) const;

  const HeadId* id_;
  std::unique_ptr<std::unique_ptr<RowStore>[]> stores_;  // [tier]; null: without rows
  std::unique_ptr<uint8_t[]> centre_;
  std::unique_ptr<uint16_t[]> matrix_;
};

inline uint64_t TableBytes(std::span<const Head> heads) {
  uint64_t bytes = 0;
  for (const Head& head : heads) bytes += head.table_bytes();
  return bytes;
}

}  // namespace rkv

#endif  // RETENTIVEKV_CACHE_HEAD_H_
