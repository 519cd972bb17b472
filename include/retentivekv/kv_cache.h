// The KV cache of one sequence as a value type. It does not use llama.cpp: K, V and queries are
// plain pointers, so it can be used, tested and compared without a model.
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

// The elements of a key that RoPE turns together: pairs of the first n_rot elements, the fastest
// pair first.
enum class RopePairs : uint8_t {
  kNone,      // no rotary positions
  kAdjacent,  // elements 2 i and 2 i + 1
  kHalves,    // elements i and i + n_rot / 2
};
struct RopeLayout {
  RopePairs pairs = RopePairs::kNone;
  size_t n_rot = 0;

  bool operator==(const RopeLayout&) const = default;
};

struct CacheShape {
  std::vector<LayerShape> layers;
  RopeLayout rope = {};

  // Bytes that a full f16 cache takes for one token, over all layers and KV heads.
  size_t full_token_bytes() const;
  bool operator==(const CacheShape&) const = default;
};

// A picture or an audio clip among the tokens. Its cells are tokens first_token, first_token + 1,
// ... row by row. Audio, and pictures without a grid, are one row.
struct MediaSpan {
  uint64_t first_token = 0;
  Modality modality = Modality::kImage;
  uint32_t rows = 1;
  uint32_t columns = 1;

  uint64_t n_tokens() const { return uint64_t{rows} * columns; }
  bool operator==(const MediaSpan&) const = default;
};

// Contents of a KvCache, in bytes and tokens. A token is exact in a head that holds its own row, in
// any precision. Heads may hold different tokens.
struct CacheStats {
  uint64_t tokens_seen = 0;      // ever appended and not rolled back
  uint64_t tokens_exact = 0;     // exact in a KV head, mean over all heads, rounded up
  uint64_t tokens_evicted = 0;   // tokens_seen - tokens_exact
  uint64_t tokens_absorbed = 0;  // the largest mass of the states of any KV head
  uint64_t states = 0;           // over all heads
  uint64_t held_bytes = 0;       // everything allocated for this sequence
  uint64_t exact_bytes = 0;      // K and V of exact tokens
  uint64_t state_bytes = 0;      // states, with their masses and sums
  uint64_t metadata_bytes = 0;   // indices, scores, tables, unused room
  std::array<uint64_t, kElementTypes> bytes_by_type = {};   // of exact_bytes
  std::array<uint64_t, kElementTypes> tokens_by_type = {};  // over all heads, by the type of K
  uint64_t full_bytes = 0;                                  // of a full f16 cache for tokens_seen
  uint64_t budget_bytes = 0;                                // limit for held_bytes now; 0: no limit

  double state_share = 0;       // of states, in the softmax of decoding; mean over heads
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
  size_t n_threads = 1;         // threads for compressing after Commit(), the caller's included
};

// Tokens enter in ubatches: BeginAppend(), Append::Stage() for every row of every layer and KV
// head, then Append::Commit(). Commit() makes the tokens visible and compresses down to the budget.
// Until then they are in transit and not held. A copy is deep and independent, but lacks tokens in
// transit. Not thread-safe, except: Stage() for different (layer, KV head, i), and Attend(), may
// run concurrently with each other between BeginAppend() and Commit().
class KvCache {
 public:
  class Impl;  // for RetentiveKV's other modules; defined in src/cache/

  // kInvalidArgument for an unknown policy or option, a policy that cannot meet the budget, or a
  // budget below the smallest possible one. The message names the smallest budget.
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

  // Tokens in transit. Destroying an Append without Commit() restores the cache as it was before
  // BeginAppend(), without the media added for these tokens. The cache must not move meanwhile.
  class Append {
   public:
    Append(Append&& other) noexcept;
    Append& operator=(Append&&) = delete;
    ~Append();

    // Copies row i (0 <= i < n) of one KV head: k has d_k and v has d_v half floats.
    void Stage(size_t layer, size_t kv_head, size_t i, const uint16_t* k, const uint16_t* v);
    // Says how surprising token i was to the model: -ln p, in nats; NaN: not known. i == n: the
    // first token of the next append, which must follow. Without it, policies that use surprisal do
    // without. REQUIRES: 0 <= i <= n; the policy asks for it.
    void SetSurprisal(size_t i, float nats);
    // REQUIRES: every row was staged; at most once.
    void Commit();

   private:
    friend class Impl;
    explicit Append(Impl* impl) : impl_(impl) {}
    Impl* impl_;  // null once committed or moved from
  };
  // REQUIRES: no other append of this cache is going on.
  [[nodiscard]] Append BeginAppend(const AppendInfo& info);

  // softmax(scale * q K^T [softcapped]) V of `n_queries` queries of one KV head over all held rows
  // (not over staged tokens). q: [n_queries, d_k], out: [n_queries, d_v].
  void Attend(size_t layer, size_t kv_head, const float* q, size_t n_queries, float scale,
              float softcap, float* out) const;

  // From now on records, for Inspect(), the state that absorbs each token, and the softmax share of
  // every token in the last answer. Costs time, and memory that is not counted as held.
  void StartTracing();
  // The present place of every token. Roots, shares and the answer's tokens need StartTracing().
  Inspection Inspect() const;

  // Rolls back to the first `n_tokens` tokens. Tokens evicted since then stay evicted, and states
  // keep the tokens that they absorbed since then.
  // REQUIRES: n_tokens <= tokens_seen().
  void Truncate(uint64_t n_tokens);

  // Save() serialises everything, options included, except tokens in transit, traces and times.
  // Load() gives a KvCache that continues bit for bit as the saved one. kBadFile for bytes that are
  // damaged, contradict themselves or belong to another shape. Load() takes memory in proportion to
  // the bytes. Inspect() takes it in proportion to tokens_seen(), which Load() does not bound, so
  // check it first.
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
