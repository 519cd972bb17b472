#include "memory/page_pool.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <bit>
#include <cassert>
#include <new>

namespace rkv {

namespace {

constexpr uint32_t kUnits = PagePool::kSlabBytes / PagePool::kAlignment;

// Aligned to kSlabBytes. REQUIRES: whole slabs.
void* Map(size_t bytes) {
#if defined(__linux__)
  // Some more, to cut an aligned part out of.
  const size_t more = bytes + PagePool::kSlabBytes;
  void* mapped = mmap(nullptr, more, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  auto* begin = static_cast<uint8_t*>(mapped);
  const size_t before = -reinterpret_cast<uintptr_t>(begin) % PagePool::kSlabBytes;
  if (before > 0) munmap(begin, before);
  munmap(begin + before + bytes, PagePool::kSlabBytes - before);
  madvise(begin + before, bytes, MADV_HUGEPAGE);  // Without huge pages it is slower, no more.
  return begin + before;
#else
  return operator new (bytes, std::align_val_t{PagePool::kSlabBytes});
#endif
}

void Unmap(void* memory, [[maybe_unused]] size_t bytes) {
#if defined(__linux__)
  munmap(memory, bytes);
#else
  operator delete (memory, std::align_val_t{PagePool::kSlabBytes});
#endif
}

size_t RoundUp(size_t n, size_t to) { return (n + to - 1) / to * to; }

// A bit for each unit of a slab.
class UnitBits {
 public:
  // The first unit from `i` on whose bit is `value`, or kUnits.
  uint32_t Find(uint32_t i, bool value) const {
    const uint64_t flip = value ? 0 : ~uint64_t{0};
    if (i >= kUnits) return kUnits;
    uint64_t word = (words_[i / 64] ^ flip) & (~uint64_t{0} << (i % 64));
    for (i /= 64; word == 0;) {
      if (++i == kUnits / 64) return kUnits;
      word = words_[i] ^ flip;
    }
    return i * 64 + static_cast<uint32_t>(std::countr_zero(word));
  }

  void Set(uint32_t begin, uint32_t end, bool value) {
    while (begin < end) {
      const uint32_t n = std::min(end - begin, 64 - begin % 64);
      const uint64_t mask = (~uint64_t{0} >> (64 - n)) << (begin % 64);
      uint64_t& word = words_[begin / 64];
      word = value ? word | mask : word & ~mask;
      begin += n;
    }
  }

 private:
  uint64_t words_[kUnits / 64];
};

}  // namespace

struct PagePool::Slab {
  UnitBits used;    // units of blocks and of this
  UnitBits starts;  // first units of blocks

  uint8_t* at(uint32_t unit) { return reinterpret_cast<uint8_t*>(this) + unit * kAlignment; }
};

PagePool::~PagePool() {
  assert(used_bytes_ == 0);
  for (const Entry& entry : slabs_) Unmap(entry.slab, kSlabBytes);
}

PagePool& PagePool::Shared() {
  static auto* pool = new PagePool();
  return *pool;
}

uint8_t* PagePool::Allocate(size_t bytes) {
  const size_t rounded = std::max(RoundUp(bytes, kAlignment), kAlignment);
  const std::lock_guard lock(mutex_);
  uint8_t* block = nullptr;
  if (rounded <= kSlabBytes - sizeof(Slab)) {
    block = AllocateInSlab(static_cast<uint32_t>(rounded / kAlignment));
  } else {
    const size_t mapped = RoundUp(rounded, kSlabBytes);
    block = static_cast<uint8_t*>(Map(mapped));
    large_[block] = mapped;
    large_bytes_ += mapped;
    used_bytes_ += mapped;
  }
  return block;
}

uint8_t* PagePool::AllocateInSlab(uint32_t units) {
  const auto take = [&](Entry& entry, uint32_t first) {
    if (entry.used == 0) --n_empty_;
    entry.used += units;
    entry.slab->used.Set(first, first + units, true);
    entry.slab->starts.Set(first, first + 1, true);
    used_bytes_ += units * kAlignment;
    return entry.slab->at(first);
  };
  for (Entry& entry : slabs_) {
    if (entry.widest_gap < units) continue;
    uint32_t widest = 0;
    for (uint32_t end = 0;;) {
      const uint32_t begin = entry.slab->used.Find(end, false);
      if (begin == kUnits) break;
      end = entry.slab->used.Find(begin, true);
      if (end - begin >= units) return take(entry, begin);
      widest = std::max(widest, end - begin);
    }
    entry.widest_gap = widest;
  }
  auto* slab = static_cast<Slab*>(Map(kSlabBytes));
  constexpr uint32_t kFirst = sizeof(Slab) / kAlignment;
  static_assert(sizeof(Slab) % kAlignment == 0);
  slab->used.Set(0, kUnits, false);
  slab->used.Set(0, kFirst, true);
  slab->starts.Set(0, kUnits, false);
  auto entry = std::ranges::upper_bound(slabs_, slab, std::less<>(), &Entry::slab);
  entry = slabs_.insert(entry, {.slab = slab, .widest_gap = kUnits - kFirst});
  ++n_empty_;
  return take(*entry, kFirst);
}

void PagePool::Free(uint8_t* block) {
  const size_t offset = reinterpret_cast<uintptr_t>(block) % kSlabBytes;
  const std::lock_guard lock(mutex_);
  if (offset == 0) {  // A slab starts with maps of itself.
    const auto large = large_.find(block);
    Unmap(block, large->second);
    large_bytes_ -= large->second;
    used_bytes_ -= large->second;
    large_.erase(large);
    return;
  }
  auto* slab = reinterpret_cast<Slab*>(block - offset);
  const auto entry = std::ranges::lower_bound(slabs_, slab, std::less<>(), &Entry::slab);
  const auto first = static_cast<uint32_t>(offset / kAlignment);
  const uint32_t end = std::min(slab->used.Find(first, false), slab->starts.Find(first + 1, true));
  slab->used.Set(first, end, false);
  slab->starts.Set(first, first + 1, false);
  used_bytes_ -= (end - first) * kAlignment;
  entry->used -= end - first;
  entry->widest_gap = kUnits;  // How wide it is now, the next search finds out.
  if (entry->used > 0) return;
  if (n_empty_ == 0) {
    n_empty_ = 1;
    return;
  }
  Unmap(slab, kSlabBytes);
  slabs_.erase(entry);
}

size_t PagePool::mapped_bytes() const {
  const std::lock_guard lock(mutex_);
  return slabs_.size() * kSlabBytes + large_bytes_;
}

}  // namespace rkv
