// Memory in pages of 2 MiB, where Linux has them: reading much of it takes fewer look-ups of
// addresses (docs/decisions/011).
#ifndef RETENTIVEKV_BASE_HUGE_PAGES_H_
#define RETENTIVEKV_BASE_HUGE_PAGES_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace rkv {

// Asks for huge pages in [begin, begin + n), which nobody has written to yet. Returns the bytes
// that this can be had for: whole pages of 2 MiB; 0 where the system has no huge pages or is told
// to use none.
size_t UseHugePages(void* begin, size_t n);

// Parts [begin, end) of the address space.
struct AddressRange {
  uintptr_t begin = 0;
  uintptr_t end = 0;
};

// The memory of this process that was allocated, and is not of files, stacks or the heap's small
// blocks; sorted. Empty where this is not known.
std::vector<AddressRange> AllocatedMemory();

// UseHugePages() for what has been allocated since AllocatedMemory() returned `before`, by
// whomever.
size_t UseHugePagesSince(const std::vector<AddressRange>& before);

}  // namespace rkv

#endif  // RETENTIVEKV_BASE_HUGE_PAGES_H_
