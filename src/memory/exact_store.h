// The exact tokens of one KV head in one layer: K and V as half floats, in pages.
#ifndef RETENTIVEKV_MEMORY_EXACT_STORE_H_
#define RETENTIVEKV_MEMORY_EXACT_STORE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "kernels/attention.h"

namespace rkv {

// Attention does not care about the order of its tokens (positions are inside the rotated keys), so
// a removed token's slot is filled with the last one: removal costs O(1) per token, whatever the
// size. Every slot knows its token by its index in the conversation.
//
// A value type: copies are deep. Not thread-safe, except that Stage() may be called concurrently
// for different slots, and readers may run beside it.
class ExactStore {
 public:
  // Tokens per page; the last page may be smaller. Equal to the attention block, so that blocks
  // start at page starts and results do not depend on how the store came to be.
  static constexpr size_t kPageTokens = kAttentionBlock;
  static constexpr size_t kUnlimited = std::numeric_limits<size_t>::max();

  ExactStore(size_t d_k, size_t d_v) : d_k_(d_k), d_v_(d_v) {}
  ExactStore(const ExactStore& other);
  ExactStore& operator=(const ExactStore& other);
  ExactStore(ExactStore&&) noexcept = default;
  ExactStore& operator=(ExactStore&&) noexcept = default;

  // Bytes of one token: K, V and its index.
  static size_t TokenBytes(size_t d_k, size_t d_v) {
    return (d_k + d_v) * sizeof(uint16_t) + sizeof(uint32_t);
  }

  size_t size() const { return size_; }
  size_t capacity() const { return capacity_; }

  // Makes room for `extra` tokens, allocating at most until capacity() is `max_capacity` where
  // that suffices, and some slack below it so that decoding allocates rarely.
  void Reserve(size_t extra, size_t max_capacity = kUnlimited);

  // Frees what is not needed for size() + `spare` tokens.
  void Shrink(size_t spare);

  // Room that a store of `n` tokens may have on top: a sixteenth bounds both the waste and how
  // often decoding allocates.
  static size_t Slack(size_t n) { return std::clamp<size_t>(n / 16, 4, kPageTokens); }

  // Writes token `token_index` to slot size() + i without counting it yet.
  // REQUIRES: Reserve() made room for it. Copies d_k and d_v elements.
  void Stage(size_t i, const uint16_t* k, const uint16_t* v, uint32_t token_index);

  // Counts the first `n` staged tokens.
  void Commit(size_t n);

  // Removes the tokens in the given slots; sorts `slots`. REQUIRES: distinct slots < size().
  void Remove(std::span<uint32_t> slots);

  uint32_t token_index(size_t slot) const;
  const uint16_t* key(size_t slot) const;    // [d_k]
  const uint16_t* value(size_t slot) const;  // [d_v]

  // Pages as attention spans, oldest page first; together they hold size() tokens.
  size_t n_spans() const { return (size_ + kPageTokens - 1) / kPageTokens; }
  KvSpan span(size_t page) const;

  // What is allocated: pages with their slack, and the page table.
  size_t held_bytes() const;

  // held_bytes() of a store with exactly room for `n` tokens.
  static size_t BytesFor(size_t n, size_t d_k, size_t d_v) {
    return n * TokenBytes(d_k, d_v) + (n + kPageTokens - 1) / kPageTokens * sizeof(Page);
  }

  // Writes or replaces the contents. Load() gives the same slots in the same order, and false for
  // bytes that no store with these dimensions wrote.
  void Save(ByteWriter& writer) const;
  bool Load(ByteReader& reader);

 private:
  struct Page {
    std::unique_ptr<uint16_t[]> k;      // [capacity, d_k]
    std::unique_ptr<uint16_t[]> v;      // [capacity, d_v]
    std::unique_ptr<uint32_t[]> index;  // [capacity]
    size_t capacity = 0;
  };

  Page NewPage(size_t capacity) const;
  void ResizePage(Page& page, size_t capacity, size_t used);
  void MoveSlot(size_t from, size_t to);
  uint16_t* mutable_key(size_t slot);
  uint16_t* mutable_value(size_t slot);

  size_t d_k_;
  size_t d_v_;
  size_t size_ = 0;
  size_t capacity_ = 0;
  std::vector<Page> pages_;
};

}  // namespace rkv

#endif  // RETENTIVEKV_MEMORY_EXACT_STORE_H_
