// KvCache for the pages that rows are stored in, and for what is observed of them.
#ifndef RETENTIVEKV_ROWS_PAGE_POOL_H_
#define RETENTIVEKV_ROWS_PAGE_POOL_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

namespace rkv {

// Blocks cut from slabs of 2 MiB for which the system is asked to use huge pages: looking up
// addresses of pages of 4 KiB takes up to a third of the time in which attention reads the cache. A
// slab belongs to no conversation and no type of row: the first gap that is wide enough is taken,
// so what is held gathers in few slabs, and a slab without blocks goes back to the system, but for
// one. All methods may be called by several threads at once.
class PagePool {
 public:
  static constexpr size_t kSlabBytes = size_t{2} << 20;
  // Of every block, in bytes. Sizes are rounded up to it.
  static constexpr size_t kAlignment = 64;
  static constexpr size_t kMaxBytes = kSlabBytes / 2;

  // Whether rows and what comes and goes with them are in Shared(). Not with AddressSanitizer: it
  // sees what reads past the end of an allocation.
  static const bool kUsed;

  PagePool() = default;
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;
  // REQUIRES: all blocks were freed.
  ~PagePool();

  // That of the process. It is never destroyed.
  static PagePool& Shared();

  // Throws std::bad_alloc where the system has no memory left. REQUIRES: bytes <= kMaxBytes.
  uint8_t* Allocate(size_t bytes);
  // REQUIRES: Allocate(bytes) of this pool returned it.
  void Free(uint8_t* block, size_t bytes);

  // Of the blocks.
  size_t used_bytes() const { return used_bytes_; }
  // Taken from the system: slabs, with their gaps and maps of what is used (4 KiB each).
  size_t mapped_bytes() const;

 private:
  struct Slab;  // what it starts with
  struct Entry {
    Slab* slab = nullptr;
    uint32_t used = 0;        // units of blocks
    uint32_t widest_gap = 0;  // at most so many units
  };

  uint8_t* Take(Entry& entry, uint32_t first, uint32_t units);

  mutable std::mutex mutex_;
  std::vector<Entry> slabs_;  // by address
  std::atomic<size_t> used_bytes_ = 0;
  size_t n_empty_ = 0;  // slabs: at most one, so that a page that comes and goes costs nothing
};

// Floats in a block of the process's pool while there are no more than fit in one: they come and go
// with every ubatch of a prompt, and holes that they leave in the heap fit nothing else.
class PooledFloats {
 public:
  PooledFloats() = default;
  PooledFloats(const PooledFloats&) = delete;
  PooledFloats& operator=(const PooledFloats&) = delete;
  PooledFloats(PooledFloats&& other) noexcept;
  PooledFloats& operator=(PooledFloats&& other) noexcept;
  ~PooledFloats() { Release(); }

  // Room for `n`, and if there was less, for `spare` more. What was there is lost.
  void Reserve(size_t n, size_t spare);
  void Release();
  float* data() { return data_; }
  const float* data() const { return data_; }
  size_t capacity() const { return capacity_; }

 private:
  bool pooled() const;

  float* data_ = nullptr;
  size_t capacity_ = 0;
};

}  // namespace rkv

#endif  // RETENTIVEKV_ROWS_PAGE_POOL_H_
