#include "base/process_memory.h"

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <algorithm>
#include <fstream>
#include <string>

namespace rkv {

namespace {

// Reads a field in kB from a file in /proc.
uint64_t FieldBytes(const char* path, const std::string& field) {
  std::ifstream file(path);
  for (std::string name; file >> name;) {
    uint64_t kib = 0;
    if (name == field + ":" && file >> kib) return kib * 1024;
    std::getline(file, name);
  }
  return 0;
}

}  // namespace

uint64_t ResidentBytes() {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
  return FieldBytes("/proc/self/status", "VmRSS");
}

uint64_t PeakResidentBytes() { return FieldBytes("/proc/self/status", "VmHWM"); }

bool ResetPeakResidentBytes() {
  std::ofstream file("/proc/self/clear_refs");
  file << 5 << std::flush;
  return file.good();
}

uint64_t AvailableBytes() {
  const uint64_t available = FieldBytes("/proc/meminfo", "MemAvailable");
  std::ifstream limit("/sys/fs/cgroup/memory.max"), use("/sys/fs/cgroup/memory.current");
  uint64_t max_bytes = 0, now = 0;
  if (!(limit >> max_bytes) || !(use >> now)) return available;  // "max": no limit
  return std::min(available, max_bytes - std::min(max_bytes, now));
}

}  // namespace rkv
