// The pool of blocks in slabs of 2 MiB. A slab begins with its bit map, and one mutex guards the
// list of slabs.
#include "rows/page_pool.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <bit>
#include <cassert>
#include <functional>
#include <memory>
#include <new>
#include <utility>

#include "base/huge_pages.h"

namespace rkv {

#if defined(__SANITIZE_ADDRESS__)
#define RKV_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define RKV_ADDRESS_SANITIZER 1
#endif
#endif
#if defined(RKV_ADDRESS_SANITIZER)
const bool PagePool::kUsed = false;
#else
const bool PagePool::kUsed = true;
#endif

namespace {

constexpr uint32_t kUnits = PagePool::kSlabBytes / PagePool::kAlignment;

// Maps kSlabBytes, aligned to kSlabBytes.
void* Map() {
  constexpr size_t kBytes = PagePool::kSlabBytes;
#if defined(__linux__)
  // Twice the size, which contains an aligned slab.
  void* mapped =
      mmap(nullptr, 2 * kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  auto* begin = static_cast<uint8_t*>(mapped);
  const size_t before = -reinterpret_cast<uintptr_t>(begin) % kBytes;
  if (before > 0) munmap(begin, before);
  munmap(begin + before + kBytes, kBytes - before);
  UseHugePages(begin + before, kBytes);  // A failure only costs speed.
  return begin + before;
#else
  return operator new(kBytes, std::align_val_t{kBytes});
#endif
}

void Unmap(void* memory) {
#if defined(__linux__)
  munmap(memory, PagePool::kSlabBytes);
#else
  operator delete(memory, std::align_val_t{PagePool::kSlabBytes});
#endif
}

uint32_t UnitsFor(size_t bytes) {
  return static_cast<uint32_t>((std::max<size_t>(bytes, 1) + PagePool::kAlignment - 1) /
                               PagePool::kAlignment);
}

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
  uint64_t words_[kUnits / 64] = {};
};

}  // namespace

struct PagePool::Slab {
  UnitBits used;  // units of blocks, and of this header

  uint8_t* at(uint32_t unit) { return reinterpret_cast<uint8_t*>(this) + unit * kAlignment; }
};

PagePool::~PagePool() {
  assert(used_bytes_ == 0);
  for (const Entry& entry : slabs_) Unmap(entry.slab);
}

PagePool& PagePool::Shared() {
  static auto* pool = new PagePool();
  return *pool;
}

uint8_t* PagePool::Take(Entry& entry, uint32_t first, uint32_t units) {
  if (entry.used == 0) --n_empty_;
  entry.used += units;
  entry.slab->used.Set(first, first + units, true);
  used_bytes_ += units * kAlignment;
  return entry.slab->at(first);
}

uint8_t* PagePool::Allocate(size_t bytes) {
  assert(bytes <= kMaxBytes);
  const uint32_t units = UnitsFor(bytes);
  const std::lock_guard lock(mutex_);
  for (Entry& entry : slabs_) {
    if (entry.widest_gap < units) continue;
    uint32_t widest = 0;
    for (uint32_t end = 0;;) {
      const uint32_t begin = entry.slab->used.Find(end, false);
      if (begin == kUnits) break;
      end = entry.slab->used.Find(begin, true);
      if (end - begin >= units) return Take(entry, begin, units);
      widest = std::max(widest, end - begin);
    }
    entry.widest_gap = widest;
  }
  std::unique_ptr<void, void (*)(void*)> mapped(Map(), Unmap);
  auto* slab = new (mapped.get()) Slab;
  constexpr uint32_t kFirst = sizeof(Slab) / kAlignment;
  static_assert(sizeof(Slab) % kAlignment == 0 && kMaxBytes <= kSlabBytes - sizeof(Slab));
  slab->used.Set(0, kFirst, true);
  auto entry = std::ranges::upper_bound(slabs_, slab, std::less<>(), &Entry::slab);
  entry = slabs_.insert(entry, {.slab = slab, .widest_gap = kUnits - kFirst});
  mapped.release();
  ++n_empty_;
  return Take(*entry, kFirst, units);
}

void PagePool::Free(uint8_t* block, size_t bytes) {
  const size_t offset = reinterpret_cast<uintptr_t>(block) % kSlabBytes;
  auto* slab = reinterpret_cast<Slab*>(block - offset);
  const uint32_t units = UnitsFor(bytes);
  const auto first = static_cast<uint32_t>(offset / kAlignment);
  const std::lock_guard lock(mutex_);
  const auto entry = std::ranges::lower_bound(slabs_, slab, std::less<>(), &Entry::slab);
  assert(entry != slabs_.end() && entry->slab == slab);
  assert(slab->used.Find(first, false) >= first + units);
  slab->used.Set(first, first + units, false);
  used_bytes_ -= units * kAlignment;
  entry->used -= units;
  entry->widest_gap = kUnits;  // An upper bound; the next search lowers it.
  if (entry->used > 0) return;
  if (n_empty_ == 0) {
    n_empty_ = 1;
    return;
  }
  Unmap(slab);
  slabs_.erase(entry);
}

size_t PagePool::mapped_bytes() const {
  const std::lock_guard lock(mutex_);
  return slabs_.size() * kSlabBytes;
}

bool PooledFloats::pooled() const {
  return PagePool::kUsed && capacity_ * sizeof(float) <= PagePool::kMaxBytes;
}

PooledFloats::PooledFloats(PooledFloats&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), capacity_(std::exchange(other.capacity_, 0)) {}

PooledFloats& PooledFloats::operator=(PooledFloats&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(capacity_, other.capacity_);
  return *this;
}

void PooledFloats::Reserve(size_t n, size_t spare) {
  if (n <= capacity_) return;
  Release();
  capacity_ = n + spare;
  try {
    data_ = pooled()
                ? reinterpret_cast<float*>(PagePool::Shared().Allocate(capacity_ * sizeof(float)))
                : new float[capacity_];
  } catch (...) {
    capacity_ = 0;
    throw;
  }
}

void PooledFloats::Release() {
  if (data_ == nullptr) return;
  if (pooled()) {
    PagePool::Shared().Free(reinterpret_cast<uint8_t*>(data_), capacity_ * sizeof(float));
  } else {
    delete[] data_;
  }
  data_ = nullptr;
  capacity_ = 0;
}

}  // namespace rkv
