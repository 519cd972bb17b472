#include "rows/page_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "base/random.h"

namespace rkv {
namespace {

size_t Rounded(size_t bytes) {
  const size_t units = (bytes + PagePool::kAlignment - 1) / PagePool::kAlignment;
  return std::max<size_t>(units, 1) * PagePool::kAlignment;
}

// A block that is filled with its own number.
struct Block {
  uint8_t* data = nullptr;
  size_t bytes = 0;
  uint8_t number = 0;

  bool intact() const {
    return std::all_of(data, data + bytes, [this](uint8_t x) { return x == number; });
  }
};

Block Allocate(PagePool& pool, size_t bytes, uint8_t number) {
  const Block block{.data = pool.Allocate(bytes), .bytes = bytes, .number = number};
  EXPECT_EQ(reinterpret_cast<uintptr_t>(block.data) % PagePool::kAlignment, 0u);
  std::memset(block.data, number, bytes);
  return block;
}

void Free(PagePool& pool, const Block& block) {
  EXPECT_TRUE(block.intact());
  pool.Free(block.data, block.bytes);
}

TEST(PagePoolTest, BlocksComeAndGoWithoutTouchingEachOther) {
  PagePool pool;
  Random random(1);
  std::vector<Block> blocks;
  size_t used = 0;
  for (int i = 0; i < 20000; ++i) {
    // The number of blocks grows, then shrinks.
    const bool grow = random.NextDouble() < (i < 10000 ? 0.55 : 0.45);
    if (grow || blocks.empty()) {
      const size_t bytes = random.NextU64() % (i % 100 == 0 ? 200000 : 5000);
      blocks.push_back(Allocate(pool, bytes, static_cast<uint8_t>(i)));
      used += Rounded(bytes);
    } else {
      std::swap(blocks[random.NextU64() % blocks.size()], blocks.back());
      Free(pool, blocks.back());
      used -= Rounded(blocks.back().bytes);
      blocks.pop_back();
    }
    ASSERT_EQ(pool.used_bytes(), used);
    ASSERT_GE(pool.mapped_bytes(), used);
  }
  for (const Block& block : blocks) Free(pool, block);
  EXPECT_EQ(pool.used_bytes(), 0u);
  EXPECT_EQ(pool.mapped_bytes(), PagePool::kSlabBytes);  // One empty slab is kept.
}

TEST(PagePoolTest, SlabsHoldAsMuchAsFits) {
  PagePool pool;
  constexpr size_t kBytes = 33024;  // a page of f16
  constexpr size_t kPerSlab = (PagePool::kSlabBytes - 4096) / kBytes;
  std::vector<uint8_t*> blocks;
  for (size_t i = 0; i < 5 * kPerSlab; ++i) blocks.push_back(pool.Allocate(kBytes));
  EXPECT_EQ(pool.mapped_bytes(), 5 * PagePool::kSlabBytes);
  // Adjacent gaps are joined, so a larger block fits; smaller blocks share a gap.
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (i % 4 < 2) pool.Free(blocks[i], kBytes);
  }
  const size_t sizes[] = {kBytes + kBytes / 2, kBytes / 4, kBytes / 5};
  std::vector<uint8_t*> others[3];
  for (size_t i = 0; i < blocks.size() / 4; ++i) {
    for (size_t kind = 0; kind < 3; ++kind) others[kind].push_back(pool.Allocate(sizes[kind]));
  }
  EXPECT_EQ(pool.mapped_bytes(), 5 * PagePool::kSlabBytes);
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (i % 4 >= 2) pool.Free(blocks[i], kBytes);
  }
  for (size_t kind = 0; kind < 3; ++kind) {
    for (uint8_t* block : others[kind]) pool.Free(block, sizes[kind]);
  }
  EXPECT_EQ(pool.used_bytes(), 0u);
}

TEST(PagePoolTest, TheLargestBlocks) {
  PagePool pool;
  const Block first = Allocate(pool, PagePool::kMaxBytes, 1);
  const Block second = Allocate(pool, PagePool::kMaxBytes, 2);  // A slab has a map of itself.
  EXPECT_EQ(pool.mapped_bytes(), 2 * PagePool::kSlabBytes);
  Free(pool, first);
  Free(pool, second);
  EXPECT_EQ(pool.used_bytes(), 0u);
  EXPECT_EQ(pool.mapped_bytes(), PagePool::kSlabBytes);
}

TEST(PagePoolTest, ThreadsShareIt) {
  PagePool pool;
  std::vector<std::thread> threads;
  for (uint8_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&pool, thread] {
      Random random(thread);
      std::vector<Block> blocks;
      for (int i = 0; i < 2000; ++i) {
        blocks.push_back(Allocate(pool, random.NextU64() % 20000, thread));
        if (i % 3 != 0) continue;
        std::swap(blocks[random.NextU64() % blocks.size()], blocks.back());
        Free(pool, blocks.back());
        blocks.pop_back();
      }
      for (const Block& block : blocks) Free(pool, block);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(pool.used_bytes(), 0u);
}

}  // namespace
}  // namespace rkv
