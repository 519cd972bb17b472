// The measurements of `rkv bench`: stock llama.cpp and this cache on the same model, in one
// process.
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
  size_t max_tokens = 512;  // maximum of a conversation; stock's cache has this size
  uint64_t seed = 1;        // of the tokens, and of random keys and values
};

// Memory and work of a session's caches, over all its conversations.
struct BenchCacheUse {
  uint64_t held_bytes = 0;  // stock: K and V of the tokens in its cache
  uint64_t read_bytes = 0;  // K and V of tokens and states, which a step of decoding reads
  uint64_t full_bytes = 0;  // a full f16 cache of the same tokens
  // Stock: none. Ours: time for moving tokens, and for observing attention.
  double compress_seconds = 0;
  double observe_seconds = 0;
};

// The peak memory of the process, without other sessions and Restore(). Zeros if it cannot be
// measured.
struct BenchPeak {
  uint64_t process_bytes = 0;  // the model, the buffers of the compute graph, and the cache
  // Ours: the cache alone, with the memory for reading a ubatch and keeping within the budget.
  // Stock: the cache's allocation.
  uint64_t kv_bytes = 0;
};

// Conversations of equal length on one cache: stock llama.cpp's, or ours. Their tokens are random,
// and the same for every session of the same seed. Not thread-safe.
class BenchSession {
 public:
  virtual ~BenchSession() = default;

  // Fills every conversation with `depth` tokens. The model reads them, or, if `random`, normally
  // distributed keys and values replace the model's. Then takes one decoding step to warm up, and
  // goes back. REQUIRES: nothing was filled in or read before.
  Status Fill(size_t depth, bool random);

  // Goes back to where Fill() ended.
  virtual Status Restore() = 0;

  // Reads a prompt of n random tokens in every conversation.
  virtual Status Prefill(size_t n) = 0;
  // Decodes n tokens in every conversation; each step takes one token of each conversation.
  virtual Status Decode(size_t n) = 0;

  virtual BenchCacheUse use() const = 0;

  // The highest peak so far of Fill() and of the steps between StartPeak() and EndPeak().
  void StartPeak();
  void EndPeak();
  const BenchPeak& peak() const { return peak_; }

 protected:
  virtual Status FillRandom(size_t n) = 0;
  virtual void TakeSnapshot() = 0;  // for Restore()

  uint64_t process_bytes_ = 0;  // of the model and this session, without a snapshot
  // Likewise of its cache. Unset for stock: peak_ has its cache, which is allocated whole.
  std::optional<uint64_t> kv_bytes_;
  BenchPeak peak_;

 private:
  uint64_t start_bytes_ = 0;  // of the process at StartPeak()
  bool measures_ = false;
};

// The weights that sessions share. Ours are in huge pages if the system has them; stock's are as
// llama.cpp loads them.
class BenchModel {
 public:
  // Fails as Engine::Load().
  static Result<std::unique_ptr<BenchModel>> Load(const std::string& path);
  ~BenchModel();
  BenchModel(const BenchModel&) = delete;
  BenchModel& operator=(const BenchModel&) = delete;

  // Stock llama.cpp with flash attention and a cache of these types: f16, bf16, q8_0, q4_0. The
  // first call loads the weights a second time, unless that changes nothing or memory is short.
  Result<std::unique_ptr<BenchSession>> NewStockSession(ElementType type_k, ElementType type_v,
                                                        const BenchSessionOptions& options);
  Result<std::unique_ptr<BenchSession>> NewSession(const CacheOptions& cache,
                                                   const BenchSessionOptions& options);

  const CacheShape& shape() const;
  std::string description() const;  // e.g. "qwen2 1.5B Q4_0"
  uint64_t size() const;            // bytes of all tensors
  uint64_t n_params() const;
  // Bytes of the weights that one decoding step reads: only the used experts, and no embeddings
  // unless they are also the output matrix.
  uint64_t read_bytes() const;
  // Whether stock's sessions have their own weights.
  bool has_stock_weights() const;

 private:
  struct Impl;
  explicit BenchModel(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace rkv

#endif  // RETENTIVEKV_LAB_BENCH_H_
