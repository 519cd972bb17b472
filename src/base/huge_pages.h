// KvCache in pages of 2 MiB, where Linux has them: reading much of it takes fewer look-ups of
// addresses (docs/decisions/011).
#ifndef RETENTIVEKV_BASE_HUGE_PAGES_H_
#define RETENTIVEKV_BASE_HUGE_PAGES_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace rkv {

// Whether the system gives huge pages, to all or to those who ask.
bool HasHugePages();

// Asks for huge pages in [begin, begin + n), which nobody has written to yet. Returns the bytes
// that this concerns: whole pages of 2 MiB; 0 without HasHugePages().
size_t UseHugePages(void* begin, size_t n);

// Parts [begin, end) of the address space.
struct AddressRange {
  uintptr_t begin = 0;
  uintptr_t end = 0;
};

// The memory of this process that is of no file and has no name: what was allocated in large
// pieces, and stacks of threads. Sorted. Empty where this is not known.
std::vector<AddressRange> AnonymousMemory();

// UseHugePages() for pieces of at least `least` bytes that have come since AnonymousMemory() was
// `before`, whoever allocated them. None if `before` is empty.
size_t UseHugePagesSince(const std::vector<AddressRange>& before, size_t least);

}  // namespace rkv

#endif  // RETENTIVEKV_BASE_HUGE_PAGES_H_
