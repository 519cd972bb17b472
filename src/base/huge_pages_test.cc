#include "base/huge_pages.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>

#include "support/advised_memory.h"

namespace rkv {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

// Memory directly from the system, without an allocator.
class Mapping {
 public:
  explicit Mapping(size_t n)
      : n_(n),
        memory_(mmap(nullptr, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
    EXPECT_NE(memory_, MAP_FAILED);
  }
  ~Mapping() { munmap(memory_, n_); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  char* begin() const { return static_cast<char*>(memory_); }

 private:
  size_t n_;
  void* memory_;
};

bool IsAdvised(const void* at) {
  const auto address = reinterpret_cast<uintptr_t>(at);
  return std::ranges::any_of(AdvisedMemory(), [address](const AddressRange& range) {
    return range.begin <= address && address < range.end;
  });
}

TEST(HugePagesTest, WholePagesAreAskedFor) {
  if (!HasHugePages()) GTEST_SKIP() << "this system has no huge pages";
  const Mapping mapping(16 * kMiB);
  const size_t bytes = UseHugePages(mapping.begin() + 1, 8 * kMiB);
  EXPECT_EQ(bytes % (2 * kMiB), 0u);
  EXPECT_GE(bytes, 4 * kMiB);
  EXPECT_TRUE(IsAdvised(mapping.begin() + 4 * kMiB));
  EXPECT_FALSE(IsAdvised(mapping.begin() + 15 * kMiB));
  EXPECT_EQ(UseHugePages(mapping.begin(), kMiB), 0u);
}

TEST(HugePagesTest, WhatWasThereBeforeStaysAsItIs) {
  if (!HasHugePages()) GTEST_SKIP() << "this system has no huge pages";
  // Linux joins neighbouring ranges, so the old range is in the middle of the later one.
  const Mapping all(48 * kMiB);
  char* const old = all.begin() + 16 * kMiB;
  ASSERT_EQ(munmap(all.begin(), 16 * kMiB), 0);
  ASSERT_EQ(munmap(old + 16 * kMiB, 16 * kMiB), 0);
  const std::vector<AddressRange> before = AnonymousMemory();
  const auto begin = reinterpret_cast<uintptr_t>(old);
  ASSERT_TRUE(std::ranges::any_of(before, [&](const AddressRange& range) {
    return range.begin <= begin && begin < range.end;
  }));
  for (char* part : {all.begin(), old + 16 * kMiB}) {
    ASSERT_EQ(mmap(part, 16 * kMiB, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0),
              part);
  }
  EXPECT_EQ(UseHugePagesSince({}, kMiB), 0u);
  EXPECT_EQ(UseHugePagesSince(before, 17 * kMiB), 0u);
  EXPECT_GE(UseHugePagesSince(before, 16 * kMiB), 28 * kMiB);
  EXPECT_TRUE(IsAdvised(all.begin() + 8 * kMiB));
  EXPECT_FALSE(IsAdvised(old + 8 * kMiB));
  EXPECT_TRUE(IsAdvised(old + 24 * kMiB));
}

}  // namespace
}  // namespace rkv
