// Inside of Memory, for this room and the bridge above it.
#ifndef RETENTIVEKV_CACHE_MEMORY_IMPL_H_
#define RETENTIVEKV_CACHE_MEMORY_IMPL_H_

#include <memory>
#include <vector>

#include "kernels/attention.h"
#include "memory/exact_store.h"
#include "policies/policy.h"
#include "retentivekv/memory.h"

namespace rkv {

class Memory::Impl {
 public:
  Impl(const MemoryShape& shape, const MemoryOptions& options,
       PolicyChoice policy);

  const MemoryShape& shape() const { return shape_; }
  const MemoryOptions& options() const { return options_; }
  uint64_t tokens_seen() const { return tokens_seen_; }
  MemoryStats stats() const;

  // The least that this policy can be asked to hold, in bytes.
  uint64_t smallest_budget_bytes() const;

  void BeginAppend(size_t n);
  void Stage(size_t layer, size_t kv_head, size_t i, const uint16_t* k, const uint16_t* v) {
    mutable_store(layer, kv_head).Stage(i, k, v, static_cast<uint32_t>(tokens_seen_ + i));
  }
  void CommitAppend();
  void AbortAppend();
  void Truncate(uint64_t n_tokens);

  // Adds everything held by one KV head to the softmax of the queries.
  void Attend(size_t layer, size_t kv_head, const HeadShape& head, const QueryBlock& queries,
              const SoftmaxState& state, float* scratch) const;

  const ExactStore& store(size_t layer, size_t kv_head) const {
    return stores_[first_store_[layer] + kv_head];
  }

  void Save(ByteWriter& writer) const;
  void set_tokens_seen(uint64_t n) { tokens_seen_ = n; }
  bool LoadTokens(ByteReader& reader);

 private:
  ExactStore& mutable_store(size_t layer, size_t kv_head) {
    return stores_[first_store_[layer] + kv_head];
  }

  uint64_t BudgetBytes(uint64_t tokens_seen) const;  // kNoLimit without a budget
  uint64_t BytesFor(size_t tokens_per_head) const;
  size_t TokensThatFit(uint64_t bytes) const;
  void EnforceBudget();
  void EvictDownTo(size_t tokens_per_head);
  uint64_t FixedBytes() const;

  MemoryShape shape_;
  MemoryOptions options_;
  PolicyChoice policy_;  // Stateless, so copies share it.
  std::vector<size_t> first_store_;       // [layer]
  std::vector<ExactStore> stores_;        // [layer, kv_head]
  uint64_t tokens_seen_ = 0;
  size_t n_staged_ = 0;
};

}  // namespace rkv

#endif  // RETENTIVEKV_CACHE_MEMORY_IMPL_H_
