// Inside of KvCache, for this room and the bridge above it.
#ifndef RETENTIVEKV_CACHE_KV_CACHE_IMPL_H_
#define RETENTIVEKV_CACHE_KV_CACHE_IMPL_H_

#include <deque>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "cache/config.h"
#include "cache/transit.h"
#include "kernels/attention.h"
#include "retentivekv/inspect.h"
#include "retentivekv/kv_cache.h"
#include "rows/row_store.h"

namespace rkv {

// Pages that are handed to the kernel at once.
inline constexpr size_t kSpansPerCall = 64;

// Scratch of one thread that attends.
class AttentionScratch {
 public:
  void Resize(const CacheShape& shape);  // for the largest layer

  SoftmaxState state() { return {.acc = acc_.data(), .max = max_.data(), .sum = sum_.data()}; }
  float* kernel() { return kernel_.data(); }

  // For KvCache::Impl::Attend().
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

// What StartTracing() keeps: per head and token, and of the answer's tokens.
struct Trace {
  struct Head {
    // Forgets about tokens from the n-th on. Roots there become the last token before.
    void Truncate(size_t n);

    std::vector<int64_t> root;       // of absorbed tokens; -1: not absorbed
    std::vector<float> share;        // of tokens, summed over the answer's tokens
    std::vector<float> state_share;  // likewise, by the root of a state
  };
  // Forgets about tokens from the n-th on, and what they read. `n_cells`: of pictures and clips
  // that are left.
  void Truncate(size_t n, size_t n_cells);

  std::vector<Head> heads;
  uint64_t answer_tokens = 0;
  std::deque<AnswerTokenInspection> answer;
};

class KvCache::Impl {
 public:
  explicit Impl(std::shared_ptr<const CacheConfig> config);
  Impl(const Impl& other);

  const CacheConfig& config() const { return *config_; }
  const CacheShape& shape() const { return config_->shape(); }
  uint64_t tokens_seen() const { return tokens_seen_; }
  CacheStats stats() const;

  // The least that can be asked for, in bytes: sinks, the window, a state per head and the tables.
  uint64_t min_budget_bytes() const;

  // The most bytes that can be held until `n_tokens` have been seen, with `n_media` more pictures
  // or clips than now. REQUIRES: n_tokens >= tokens_seen().
  uint64_t MaxHeldBytes(uint64_t n_tokens, size_t n_media) const;

  void AddMedia(const MediaSpan& span);
  std::span<const MediaSpan> media() const { return media_; }
  TokenInfo token_info(uint32_t index) const;

  // `transit`, and what attention reads a ubatch from, must stay until CommitAppend() or
  // AbortAppend(). Null: one of our own, to which rows are copied by Stage().
  void BeginAppend(size_t n, Transit* transit);
  Transit& transit() { return *transit_; }
  // More of the prompt follows after this ubatch.
  void set_prompt_follows(bool follows) { prompt_follows_ = follows; }
  void CommitAppend();
  void AbortAppend();
  void Truncate(uint64_t n_tokens);

  void StartTracing();
  bool tracing() const { return trace_ != nullptr; }
  void BeginAnswer();  // shares count from here
  Inspection Inspect() const;

  // The paper's additive readout (method section 4), if the states are not part of the softmax:
  // out += q S / (sum_c n_c |q.k_c| + epsilon), q S = sum_c n_c (q.k_c) v_c over the states, plus
  // what the head's matrix adds to it. The paper's normaliser |q z| passes through zero, where
  // q.k_c of both signs cancel; this one bounds it.
  void AddReadout(size_t head, const QueryBlock& queries, AttentionScratch& scratch,
                  float* const* out) const;

  // Rows that Attend() visits for a head, states included.
  size_t n_rows(size_t head) const;
  // Calls visit(tier, slot) for each of them, in Attend()'s order.
  template <typename Visit>
  void VisitRows(size_t head, const Visit& visit) const {
    for (size_t tier = config_->n_attended_tiers(); tier-- > 0;) {
      for (size_t slot = 0; slot < store(head, tier).size(); ++slot) visit(tier, slot);
    }
  }

  // Rows as Attend() visits them.
  struct Columns {
    size_t begin = 0;
    size_t end = 0;
  };
  // Those whose attention nobody asks for: of the lowest rung, where it is not kept.
  Columns unobserved_columns(size_t head) const;
  // The other rows.
  size_t n_observed_rows(size_t head) const;

  // Pages of a head, in Attend()'s order.
  struct Pages {
    size_t begin = 0;
    size_t end = std::numeric_limits<size_t>::max();
  };
  size_t n_pages(size_t head) const;

  // Adds what one KV head holds, or some pages of it, to the softmax of the queries, states first.
  // `logits`, if not null, is where each query's logits go, of all columns but those of
  // unobserved_columns(), one after the other.
  void Attend(size_t head, const HeadShape& shape, const QueryBlock& queries,
              AttentionScratch& scratch, float* const* logits, Pages pages) const;

  // Says that `n` tokens of the ubatch have been attended to by a head and are observed. Threads
  // may call it at once, with tokens of their own; whoever completes the head computes its
  // statistics.
  void CountAttended(size_t head, size_t n) const;

  const RowStore& store(size_t head, size_t tier) const {
    const auto& rows = stores_[head * config_->n_tiers() + tier];
    return rows != nullptr ? *rows : config_->empty_store(head, tier);
  }

  const uint8_t* centre(size_t head) const {
    return centres_.empty() ? nullptr : centres_[head].get();
  }

  // Mean of (v - v_c)(k - k_c)^T over all that the head's states absorbed, each token against its
  // state c: with the states, this is the paper's matrix S = sum_j v_j k_j^T. f16 [d_v, d_k], in
  // the states' basis; null: none.
  const uint16_t* matrix(size_t head) const {
    return matrices_.empty() ? nullptr : matrices_[head].get();
  }

  void Save(ByteWriter& writer) const;
  // Of what was saved: all that follows options and shape. False if no KvCache can be so.
  bool LoadTokens(ByteReader& reader, uint32_t version);

 private:
  friend class Compressor;

  RowStore& mutable_store(size_t head, size_t tier) {
    auto& rows = stores_[head * config_->n_tiers() + tier];
    if (rows == nullptr) rows = std::make_unique<RowStore>(config_->layout(head, tier));
    return *rows;
  }
  bool LoadProgress(ByteReader& reader);
  bool LoadMedia(ByteReader& reader);
  bool LoadRows(size_t head, uint64_t end_of_roots, bool with_room, ByteReader& reader);
  // Gives the table of pictures and clips the room that as many have, wherever they came from.
  void FitMedia();
  // Sets the room of a store, which is gone when it has none.
  void SetCapacity(size_t head, size_t tier, size_t rows);
  uint64_t BudgetBytes(uint64_t tokens_seen) const;  // kNoLimit without a budget
  uint64_t FixedBytes() const;
  uint64_t held_bytes() const;
  bool AppendExact(size_t n, uint64_t budget);
  void AppendStaged(size_t head, size_t tier, size_t n);
  void ObserveAttention();
  // From what a head's queries showed to the statistics that its rows will have.
  void ObserveHead(size_t head) const;
  // Of a row over the observed queries, 0 to 1, from its stats.
  double Entropy(std::span<const float> stats) const;
  void TraceShares();
  size_t n_cells() const;  // of all pictures and clips
  // Consumes the observed queries of the head. Into Transit::column_sums().
  void ExpectedWeights(size_t head);
  void AddMatrix(size_t head, const HeadShape& shape, const QueryBlock& queries,
                 const SoftmaxState& state, std::vector<float>& row) const;
  void EnforceBudget();

  std::shared_ptr<const CacheConfig> config_;
  std::vector<std::unique_ptr<RowStore>> stores_;  // [head, tier]; null: without rows
  // What tokens on quantised rungs are coded relative to, per head: K and V as q8_0, or null.
  std::vector<std::unique_ptr<uint8_t[]>> centres_;
  std::vector<std::unique_ptr<uint16_t[]>> matrices_;
  std::vector<MediaSpan> media_;
  uint64_t tokens_seen_ = 0;
  double observed_queries_ = 0;  // with decay

  // When all rows of the lowest rung were put in the order of what they are worth, by Compressor.
  struct Order {
    uint64_t tokens_seen = 0;  // 0: they are in no such order
    bool pooled = false;       // the budget, over heads
  };
  Order order_;

  bool prompt_follows_ = false;
  bool prompt_precedes_ = false;          // the ubatch before was of the same prompt
  Transit* transit_ = nullptr;            // between BeginAppend() and its end
  std::unique_ptr<Transit> own_transit_;  // if the caller has none

  std::unique_ptr<Trace> trace_;  // if tracing

  // Counters.
  double state_share_ = 0;
  uint64_t state_steps_ = 0;
  uint64_t reactivations_ = 0;
  uint64_t compressions_ = 0;
  double compress_seconds_ = 0;
  double observe_seconds_ = 0;
};

}  // namespace rkv

#endif  // RETENTIVEKV_CACHE_KV_CACHE_IMPL_H_
