// The implementation of KvCache, visible to cache/ and the bridge in llama/.
#ifndef RETENTIVEKV_CACHE_KV_CACHE_IMPL_H_
#define RETENTIVEKV_CACHE_KV_CACHE_IMPL_H_

#include <memory>
#include <span>
#include <vector>

#include "cache/compression_task.h"
#include "cache/config.h"
#include "cache/head.h"
#include "cache/media_table.h"
#include "cache/surprisal_table.h"
#include "cache/trace.h"
#include "cache/ubatch_buffers.h"
#include "retentivekv/inspect.h"
#include "retentivekv/kv_cache.h"

namespace rkv {

class KvCache::Impl {
 public:
  explicit Impl(std::shared_ptr<const CacheConfig> config);
  Impl(const Impl& other);
  Impl& operator=(const Impl&) = delete;

  const CacheConfig& config() const { return *config_; }
  const CacheShape& shape() const { return config_->shape(); }
  uint64_t tokens_seen() const { return tokens_seen_; }
  CacheStats stats() const;

  // Heads of all layers, numbered through.
  const Head& head(size_t number) const { return heads_[number]; }
  std::span<const Head> heads() const { return heads_; }

  // Minimum budget in bytes: sinks, the window, a state per head and the tables.
  uint64_t min_budget_bytes() const;

  // Maximum held bytes until `n_tokens` have been seen, with `n_media` more pictures or clips than
  // now. REQUIRES: n_tokens >= tokens_seen().
  uint64_t MaxHeldBytes(uint64_t n_tokens, size_t n_media) const;

  void AddMedia(const MediaSpan& span) { media_.Add(span); }
  const MediaTable& media() const { return media_; }
  const SurprisalTable& surprisals() const { return surprisals_; }

  // `buffers`, and the rows of the ubatch that attention reads, must live until the append ends.
  // Null: the cache uses its own buffers, and Append::Stage() copies rows to them.
  Append BeginAppend(const AppendInfo& info, UbatchBuffers* buffers);
  // The buffers of the current append.
  UbatchBuffers& buffers() const { return *buffers_; }
  void Stage(size_t layer, size_t kv_head, size_t i, const uint16_t* k, const uint16_t* v) {
    buffers_->rows.Stage(config_->head(layer, kv_head), i, k, v);
  }
  // See KvCache::Append.
  void SetSurprisal(size_t i, float nats) { buffers_->surprisals.at(i) = nats; }
  void CommitAppend();
  void AbortAppend();
  void Truncate(uint64_t n_tokens);

  void StartTracing();
  bool tracing() const { return trace_ != nullptr; }
  void BeginAnswer();  // shares count from here
  Inspection Inspect() const;

  // Columns of a head whose attention is not observed, and the number of the others.
  Head::Columns unobserved_columns(size_t head) const {
    return tracing() ? Head::Columns() : heads_[head].unobserved_columns();
  }
  size_t n_observed_rows(size_t head) const {
    return heads_[head].n_rows() - unobserved_columns(head).size();
  }
  // Reports that a head has attended and observed `n` more tokens of the ubatch. Threads may call
  // it concurrently, each for its own tokens. The call that completes the head computes its
  // statistics.
  void CountAttended(size_t head, size_t n) const;

  void Save(ByteWriter& writer) const;
  // Loads the saved part after options and shape. False if no KvCache can be so.
  bool LoadTokens(ByteReader& reader, uint32_t version);

 private:
  bool LoadProgress(ByteReader& reader);

  uint64_t BudgetBytes(uint64_t tokens_seen) const;  // kNoLimit without a budget
  uint64_t FixedBytes() const;                       // outside of heads
  uint64_t held_bytes() const;
  // Bytes of all heads after `n` more tokens on the first rung, without a compression.
  uint64_t UncompressedBytes(size_t n) const;
  // Below `budget` while a prompt of several ubatches is read.
  uint64_t ReadingBudget(uint64_t budget) const;

  void PrepareObservations(size_t n);
  void KeepSurprisals();
  bool AppendExact(size_t n, uint64_t budget);
  void AppendStaged(Head& head, size_t tier, size_t n) const;
  void Compress(uint64_t budget, size_t n_new);
  void EnforceBudget();

  void ObserveAttention();
  // Writes a head's new statistics, from the ubatch's queries, to its RowStores.
  void StoreStats(size_t head);
  // Computes the new statistics of a head's rows from its observed queries.
  void ObserveHead(size_t head) const;
  // Writes to UbatchBuffers::column_sums, and consumes the observed queries of the head.
  void ExpectedWeights(size_t head);
  void TraceShares();

  std::shared_ptr<const CacheConfig> config_;
  std::vector<Head> heads_;
  MediaTable media_;
  SurprisalTable surprisals_;
  uint64_t tokens_seen_ = 0;
  double observed_queries_ = 0;  // with decay
  RowOrder order_;
  bool prompt_precedes_ = false;  // the last ubatch belonged to a prompt that continues

  // Valid from BeginAppend() until the append ends.
  AppendInfo append_;
  UbatchBuffers* buffers_ = nullptr;
  std::unique_ptr<UbatchBuffers> own_buffers_;  // if the caller passes none

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
