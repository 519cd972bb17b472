#include "base/huge_pages.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <string>

namespace rkv {

namespace {

constexpr uintptr_t kPageBytes = uintptr_t{2} << 20;

}  // namespace

bool HasHugePages() {
  static const bool has = [] {
    std::ifstream setting("/sys/kernel/mm/transparent_hugepage/enabled");
    std::string choices;  // "always [madvise] never"
    std::getline(setting, choices);
    return !choices.empty() && choices.find("[never]") == std::string::npos;
  }();
  return has;
}

size_t UseHugePages([[maybe_unused]] void* begin, [[maybe_unused]] size_t n) {
#if defined(__linux__)
  const auto address = reinterpret_cast<uintptr_t>(begin);
  const uintptr_t first = (address + kPageBytes - 1) / kPageBytes * kPageBytes;
  const uintptr_t end = (address + n) / kPageBytes * kPageBytes;
  if (first >= end || !HasHugePages()) return 0;
  const int rc = madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
  return rc == 0 ? end - first : 0;
#else
  return 0;
#endif
}

std::vector<AddressRange> AnonymousMemory() {
  std::vector<AddressRange> ranges;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    // begin-end permissions offset device inode [name]
    AddressRange range;
    char permissions[5] = {};
    unsigned long inode = 0;
    int at = 0;
    const int n = std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR " %4s %*x %*s %lu%n",
                              &range.begin, &range.end, permissions, &inode, &at);
    const bool named = line.find_first_not_of(' ', static_cast<size_t>(at)) != std::string::npos;
    if (n == 4 && std::string(permissions) == "rw-p" && inode == 0 && !named) {
      ranges.push_back(range);
    }
  }
  return ranges;
}

size_t UseHugePagesSince(const std::vector<AddressRange>& before, size_t min_bytes) {
  if (before.empty()) return 0;
  size_t bytes = 0;
  const auto use = [&](uintptr_t begin, uintptr_t end) {
    const bool large = begin < end && end - begin >= min_bytes;
    if (large) bytes += UseHugePages(reinterpret_cast<void*>(begin), end - begin);
  };
  for (AddressRange now : AnonymousMemory()) {
    // Old ranges cut the present range into parts.
    for (const AddressRange& old : before) {
      if (old.end <= now.begin || old.begin >= now.end) continue;
      use(now.begin, old.begin);
      now.begin = std::min(old.end, now.end);
    }
    use(now.begin, now.end);
  }
  return bytes;
}

}  // namespace rkv
