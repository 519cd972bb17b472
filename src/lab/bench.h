// What `rkv bench` measures: stock llama.cpp and this cache on the same model, in one process.
#ifndef RETENTIVEKV_LAB_BENCH_H_
#define RETENTIVEKV_LAB_BENCH_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "retentivekv/kv_cache.h"
#include "retentivekv/options.h"
#include "retentivekv/status.h"

namespace rkv {

struct BenchSessionOptions {
  int n_threads = 1;
  int n_batch = 2048;  // stock: tokens per llama_decode of a prompt
  int n_ubatch = 512;  // tokens that are computed at once
  int n_conversations = 1;
  size_t max_tokens = 512;  // of a conversation; stock's cache is made for so many
  uint64_t seed = 1;        // of the tokens, and of random keys and values
};

// What the caches of a session hold and did, over all its conversations.
struct BenchCacheUse {
  uint64_t held_bytes = 0;  // stock: K and V of the tokens that are in its cache
  uint64_t read_bytes = 0;  // K and V of tokens and states, which a step of decoding reads
  uint64_t full_bytes = 0;  // a full f16 cache of the same tokens
  // Stock: none. Ours: spent on moving tokens, and on observing attention.
  double compress_seconds = 0;
  double observe_seconds = 0;
};

// The most memory of the process, less that of other sessions and of Restore(); zeros where this
// cannot be measured.
struct BenchPeak {
  uint64_t process_bytes = 0;  // the model, the buffers of the compute graph, and the cache
  // The cache alone, with all that reading a ubatch and keeping within the budget took. Stock: the
  // cache's allocation.
  uint64_t kv_bytes = 0;
};

// Conversations of equal length on one cache: stock llama.cpp's, or ours. Their tokens are random,
// and the same for every session of the same seed. Not thread-safe.
class BenchSession {
 public:
  virtual ~BenchSession() = default;

  // Fills every conversation with `depth` tokens: read by the model, or, if `random`, with normally
  // distributed keys and values instead of the model's. Then takes a step of decoding, to warm up,
  // and back. REQUIRES: nothing was filled in or read before.
  Status Fill(size_t depth, bool random);

  // Goes back to where Fill() ended.
  virtual Status Restore() = 0;

  // Reads a prompt of n random tokens in every conversation.
  virtual Status Prefill(size_t n) = 0;
  // Decodes n tokens in every conversation, one of each at a time.
  virtual Status Decode(size_t n) = 0;

  virtual BenchCacheUse use() const = 0;

  // The peak of Fill(), and of what was done between StartPeak() and EndPeak(): the highest so far.
  void StartPeak();
  void EndPeak();
  const BenchPeak& peak() const { return peak_; }

 protected:
  virtual Status FillRandom(size_t n) = 0;
  virtual void TakeSnapshot() = 0;  // for Restore()

  uint64_t process_bytes_ = 0;  // of the model and this session, without a snapshot
  // Likewise of its cache; none: that is all allocated before, and in peak_.
  std::optional<uint64_t> kv_bytes_;
  BenchPeak peak_;

 private:
  uint64_t start_bytes_ = 0;  // of the process at StartPeak()
  bool measures_ = false;
};

// The weights that sessions share: those of this cache, in huge pages where the system has them,
// and those of stock llama.cpp, as it loads them.
class BenchModel {
 public:
  // Fails as Engine::Load().
  static Result<std::unique_ptr<BenchModel>> Load(const std::string& path);
  ~BenchModel();
  BenchModel(const BenchModel&) = delete;
  BenchModel& operator=(const BenchModel&) = delete;

  // Stock llama.cpp with flash attention and a cache of these types: f16, bf16, q8_0, q4_0. The
  // first loads the weights a second time, unless that makes no difference or there is no room for
  // it.
  Result<std::unique_ptr<BenchSession>> NewStockSession(ElementType type_k, ElementType type_v,
                                                        const BenchSessionOptions& options);
  Result<std::unique_ptr<BenchSession>> NewSession(const CacheOptions& cache,
                                                   const BenchSessionOptions& options);

  const CacheShape& shape() const;
  std::string description() const;  // e.g. "qwen2 1.5B Q4_0"
  uint64_t size() const;            // bytes of all tensors
  uint64_t n_params() const;
  // Bytes of the weights that one step of decoding reads: of experts those that are used, and of
  // embeddings that are not the output matrix, too, nothing.
  uint64_t read_bytes() const;
  // Whether stock's sessions have weights of their own.
  bool has_stock_weights() const;

 private:
  struct Impl;
  explicit BenchModel(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace rkv

#endif  // RETENTIVEKV_LAB_BENCH_H_
