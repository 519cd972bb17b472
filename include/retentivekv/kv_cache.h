// The KV cache of one sequence as a value type. No llama.cpp in it: K, V and queries come as plain
// pointers, so it can be used, tested and compared without a model.
#ifndef RETENTIVEKV_KV_CACHE_H_
#define RETENTIVEKV_KV_CACHE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "retentivekv/options.h"
#include "retentivekv/status.h"

namespace rkv {

// Attention dimensions of one layer.
struct LayerShape {
  size_t n_head = 0;     // query heads
  size_t n_kv_head = 0;  // KV heads; n_head / n_kv_head query heads share one (a query group)
  size_t d_k = 0;        // elements of a key
  size_t d_v = 0;        // elements of a value

  bool operator==(const LayerShape&) const = default;
};

struct CacheShape {
  std::vector<LayerShape> layers;

  // Bytes that a full f16 cache takes for one token, over all layers and KV heads.
  size_t full_token_bytes() const;
  bool operator==(const CacheShape&) const = default;
};

// A picture or an audio clip among the tokens: its cells are tokens first_token, first_token + 1,
// ... row by row. Audio, and pictures without a grid, are one row.
struct MediaSpan {
  uint64_t first_token = 0;
  Modality modality = Modality::kImage;
  uint32_t rows = 1;
  uint32_t columns = 1;

  uint64_t n_tokens() const { return uint64_t{rows} * columns; }
  bool operator==(const MediaSpan&) const = default;
};

// What a KvCache holds, in bytes and tokens. A token that a head holds as itself, in whatever
// precision, is exact there; heads may hold different ones.
struct CacheStats {
  uint64_t tokens_seen = 0;      // ever appended and not rolled back
  uint64_t tokens_exact = 0;     // that a KV head holds, mean over all, rounded up
  uint64_t tokens_evicted = 0;   // tokens_seen - tokens_exact
  uint64_t tokens_absorbed = 0;  // the largest mass of the states of any KV head
  uint64_t states = 0;           // over all heads
  uint64_t held_bytes = 0;       // everything allocated for this sequence
  uint64_t exact_bytes = 0;      // K and V of exact tokens
  uint64_t state_bytes = 0;      // states, with their masses and sums
  uint64_t metadata_bytes = 0;   // indices, scores, tables, unused room
  std::array<uint64_t, kElementTypes> bytes_by_type = {};   // of exact_bytes
  std::array<uint64_t, kElementTypes> tokens_by_type = {};  // over all heads, by the type of K
  uint64_t full_bytes = 0;    // what a full f16 cache would hold for tokens_seen
  uint64_t budget_bytes = 0;  // what may be held now; 0 without a limit

  double state_share = 0;       // of the softmax, taken by states in decoding; mean over heads
  uint64_t reactivations = 0;   // times that a state took over 5 % of a head's softmax in a step
  uint64_t compressions = 0;    // times that the budget was enforced by moving tokens
  double compress_seconds = 0;  // spent on that, in this process
  double observe_seconds = 0;   // likewise, by all threads on observing attention

  double kept() const {  // share of the full cache that is held
    return full_bytes == 0 ? 1.0
                           : static_cast<double>(held_bytes) / static_cast<double>(full_bytes);
  }
};

struct Inspection;  // retentivekv/inspect.h

// The next tokens of a sequence.
struct AppendInfo {
  size_t n = 0;                 // tokens
  bool prompt_follows = false;  // more of the prompt comes with the next ubatch
  size_t n_threads = 1;  // that may compress once the tokens have come, the caller's included
};

// Tokens enter in ubatches: BeginAppend(), Append::Stage() for every row of every layer and KV
// head, then Append::Commit(), which makes them visible and compresses down to the budget. Until
// then they are in transit and not held. A copy is deep and independent, but lacks tokens in
// transit. Not thread-safe, except: Stage() for different (layer, KV head, i), and Attend(), may
// run concurrently with each other between BeginAppend() and Commit().
class KvCache {
 public:
  class Impl;  // for the rooms above; defined in src/cache/

  // Fails with kInvalidArgument for an unknown policy or option, a policy that cannot meet the
  // budget, and a budget below the smallest possible, which the message names.
  static Result<KvCache> Create(const CacheShape& shape, const CacheOptions& options);

  KvCache(const KvCache& other);
  KvCache& operator=(const KvCache& other);
  KvCache(KvCache&&) noexcept;
  KvCache& operator=(KvCache&&) noexcept;
  ~KvCache();

  const CacheShape& shape() const;
  const CacheOptions& options() const;
  uint64_t tokens_seen() const;
  CacheStats stats() const;

  // Says that the tokens from span.first_token on are cells of a picture or clip. Call it before
  // the BeginAppend() of the first of them. REQUIRES: first_token >= tokens_seen().
  void AddMedia(const MediaSpan& span);

  // Tokens that are in transit. Destroying it without Commit() leaves the cache as it was before
  // BeginAppend(), without the media added for them. The cache must stay where it is.
  class Append {
   public:
    Append(Append&& other) noexcept;
    Append& operator=(Append&&) = delete;
    ~Append();

    // Copies row i (0 <= i < n) of one KV head: k has d_k and v has d_v half floats.
    void Stage(size_t layer, size_t kv_head, size_t i, const uint16_t* k, const uint16_t* v);
    // REQUIRES: every row was staged; at most once.
    void Commit();

   private:
    friend class Impl;
    explicit Append(Impl* impl) : impl_(impl) {}
    Impl* impl_;  // null once committed or moved from
  };
  // REQUIRES: no other append of this cache is going on.
  [[nodiscard]] Append BeginAppend(const AppendInfo& info);

  // softmax(scale * q K^T [softcapped]) V of `n_queries` queries of one KV head over everything
  // held (not over staged tokens). q: [n_queries, d_k], out: [n_queries, d_v].
  void Attend(size_t layer, size_t kv_head, const float* q, size_t n_queries, float scale,
              float softcap, float* out) const;

  // Keeps track from now on of where absorbed tokens go and of the softmax share of every token in
  // the last answer, for Inspect(). Costs memory that is not counted as held, and time.
  void StartTracing();
  // What is remembered of every token. Roots, shares and the answer's
  // tokens need StartTracing().
  Inspection Inspect() const;

  // Rolls back to when `n_tokens` had been seen. Tokens that were evicted since stay evicted, and
  // states keep what they absorbed since.
  // REQUIRES: n_tokens <= tokens_seen().
  void Truncate(uint64_t n_tokens);

  // Serialises everything, options included, but what is in transit, traced or time. Load() gives a
  // KvCache that goes on bit for bit as the saved one; kBadFile for bytes that are damaged,
  // contradict themselves or belong to another shape. It takes memory in proportion to the bytes,
  // but Inspect() does so to tokens_seen(), which nothing bounds here: compare it with what can be.
  std::string Save() const;
  static Result<KvCache> Load(const CacheShape& shape, std::string_view bytes);

  Impl& impl() { return *impl_; }
  const Impl& impl() const { return *impl_; }

 private:
  explicit KvCache(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace rkv

#endif  // RETENTIVEKV_KV_CACHE_H_
