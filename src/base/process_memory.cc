#include "base/process_memory.h"

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <fstream>
#include <string>

namespace rkv {

namespace {

// A field of /proc/self/status that is in kB.
uint64_t StatusBytes(const std::string& field) {
  std::ifstream file("/proc/self/status");
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
  return StatusBytes("VmRSS");
}

uint64_t PeakResidentBytes() { return StatusBytes("VmHWM"); }

bool ResetPeakResidentBytes() {
  std::ofstream file("/proc/self/clear_refs");
  file << 5 << std::flush;
  return file.good();
}

}  // namespace rkv
