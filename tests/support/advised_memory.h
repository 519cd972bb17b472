// The memory of this process that huge pages have been asked for.
#ifndef RETENTIVEKV_TESTS_SUPPORT_ADVISED_MEMORY_H_
#define RETENTIVEKV_TESTS_SUPPORT_ADVISED_MEMORY_H_

#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "base/huge_pages.h"

namespace rkv {

inline std::vector<AddressRange> AdvisedMemory() {
  std::vector<AddressRange> advised;
  std::ifstream maps("/proc/self/smaps");
  AddressRange range, next;
  for (std::string line; std::getline(maps, line);) {
    if (std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR " ", &next.begin, &next.end) == 2) {
      range = next;
    }
    if (line.starts_with("VmFlags:") && line.find(" hg") != std::string::npos) {
      advised.push_back(range);
    }
  }
  return advised;
}

}  // namespace rkv

#endif  // RETENTIVEKV_TESTS_SUPPORT_ADVISED_MEMORY_H_
