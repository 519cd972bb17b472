// Memory for pages of rows, and for the attention that is observed of rows.
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
// slab belongs to no conversation and no type of row. A block goes into the first gap that is wide
// enough, so blocks gather in few slabs. Slabs without blocks go back to the system, except one.
// All methods are thread-safe.
class PagePool {
 public:
  static constexpr size_t kSlabBytes = size_t{2} << 20;
  // Of every block, in bytes. Sizes are rounded up to it.
  static constexpr size_t kAlignment = 64;
  static constexpr size_t kMaxBytes = kSlabBytes / 2;

  // True if rows and their observations are in Shared(). False with AddressSanitizer, which finds
  // reads past the end of an allocation only outside of a pool.
  static const bool kUsed;

  PagePool() = default;
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;
  // REQUIRES: all blocks were freed.
  ~PagePool();

  // The pool of the process. It is never destroyed.
  static PagePool& Shared();

  // Throws std::bad_alloc if the system has no memory left. REQUIRES: bytes <= kMaxBytes.
  uint8_t* Allocate(size_t bytes);
  // REQUIRES: Allocate(bytes) of this pool returned it.
  void Free(uint8_t* block, size_t bytes);

  // Of the blocks.
  size_t used_bytes() const { return used_bytes_; }
  // Taken from the system: slabs, with their gaps and maps of used units (4 KiB each).
  size_t mapped_bytes() const;

 private:
  struct Slab;  // the header at the start of a slab
  struct Entry {
    Slab* slab = nullptr;
    uint32_t used = 0;        // units of blocks
    uint32_t widest_gap = 0;  // upper bound, in units
  };

  uint8_t* Take(Entry& entry, uint32_t first, uint32_t units);

  mutable std::mutex mutex_;
  std::vector<Entry> slabs_;  // by address
  std::atomic<size_t> used_bytes_ = 0;
  // Slabs without blocks: at most one, so that freeing and allocating a page in turn costs nothing.
  size_t n_empty_ = 0;
};

// Floats in a block of the process's pool, or in the heap if they do not fit into a block. They
// come and go with every ubatch of a prompt, and in the heap they would leave holes that fit
// nothing else.
class PooledFloats {
 public:
  PooledFloats() = default;
  PooledFloats(const PooledFloats&) = delete;
  PooledFloats& operator=(const PooledFloats&) = delete;
  PooledFloats(PooledFloats&& other) noexcept;
  PooledFloats& operator=(PooledFloats&& other) noexcept;
  ~PooledFloats() { Release(); }

  // Makes room for `n`, and for `spare` more if it has to allocate. The old contents are lost.
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
