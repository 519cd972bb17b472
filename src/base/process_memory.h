// The memory of this process, as the operating system counts it.
#ifndef RETENTIVEKV_BASE_PROCESS_MEMORY_H_
#define RETENTIVEKV_BASE_PROCESS_MEMORY_H_

#include <cstdint>

namespace rkv {

// Resident bytes now, after the allocator gave freed memory back; 0 if unknown.
uint64_t ResidentBytes();

// Maximum resident bytes since ResetPeakResidentBytes(), or of all time if that failed.
uint64_t PeakResidentBytes();
bool ResetPeakResidentBytes();

// Bytes that can be allocated without swapping, within the limit of the control group (as in a
// container); 0 if unknown.
uint64_t AvailableBytes();

}  // namespace rkv

#endif  // RETENTIVEKV_BASE_PROCESS_MEMORY_H_
