#include "base/process_memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

namespace rkv {
namespace {

TEST(ProcessMemoryTest, ThePeakIsSinceItsReset) {
  if (!ResetPeakResidentBytes()) GTEST_SKIP() << "this system cannot reset the peak";
  constexpr uint64_t kBytes = 64 << 20;
  const uint64_t before = ResidentBytes();
  ASSERT_GT(before, 0u);
  // Mapped, because an allocator (especially a sanitizer's) may keep freed memory.
  void* block = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(block, MAP_FAILED);
  std::memset(block, 1, kBytes);
  EXPECT_GE(ResidentBytes(), before + kBytes * 9 / 10);
  ASSERT_EQ(munmap(block, kBytes), 0);
  EXPECT_LT(ResidentBytes(), before + kBytes / 2);
  EXPECT_GE(PeakResidentBytes(), before + kBytes * 9 / 10);
  ASSERT_TRUE(ResetPeakResidentBytes());
  EXPECT_LT(PeakResidentBytes(), before + kBytes / 2);
}

TEST(ProcessMemoryTest, WhatIsAvailableIsLessThanTheMachineHas) {
  const uint64_t available = AvailableBytes();
  if (available == 0) GTEST_SKIP() << "this system does not tell";
  const auto pages = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES));
  EXPECT_LT(available, pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE)));
  EXPECT_GT(available, uint64_t{1} << 20);
}

}  // namespace
}  // namespace rkv
