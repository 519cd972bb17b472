// Memory in pages of 2 MiB, if Linux has them: reading it takes fewer look-ups of addresses
// (docs/decisions/011).
#ifndef RETENTIVEKV_BASE_HUGE_PAGES_H_
#define RETENTIVEKV_BASE_HUGE_PAGES_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace rkv {

// True if the system gives huge pages, always or on request.
bool HasHugePages();

// Asks for huge pages in [begin, begin + n), which must not have been written yet. Returns the
// bytes in whole pages of 2 MiB; 0 without HasHugePages().
size_t UseHugePages(void* begin, size_t n);

// Parts [begin, end) of the address space.
struct AddressRange {
  uintptr_t begin = 0;
  uintptr_t end = 0;
};

// The memory of this process without a file and a name: large allocations, and stacks of threads.
// Sorted. Empty if unknown.
std::vector<AddressRange> AnonymousMemory();

// UseHugePages() for pieces of at least `min_bytes` bytes that were allocated, by any code, since
// AnonymousMemory() returned `before`. None if `before` is empty.
size_t UseHugePagesSince(const std::vector<AddressRange>& before, size_t min_bytes);

}  // namespace rkv

#endif  // RETENTIVEKV_BASE_HUGE_PAGES_H_
