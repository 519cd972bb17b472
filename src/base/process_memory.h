// The memory of this process, as the operating system counts it.
#ifndef RETENTIVEKV_BASE_PROCESS_MEMORY_H_
#define RETENTIVEKV_BASE_PROCESS_MEMORY_H_

#include <cstdint>

namespace rkv {

// Resident bytes now, after giving back what was freed; 0 where this is not known.
uint64_t ResidentBytes();

// The most resident bytes since ResetPeakResidentBytes(), or of all time if that failed.
uint64_t PeakResidentBytes();
bool ResetPeakResidentBytes();

// What could be allocated without swapping, and within the limit of the control group (as in a
// container); 0 where this is not known.
uint64_t AvailableBytes();

}  // namespace rkv

#endif  // RETENTIVEKV_BASE_PROCESS_MEMORY_H_
