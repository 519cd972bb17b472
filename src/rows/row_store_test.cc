#include "rows/row_store.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "base/random.h"
#include "rows/page_pool.h"

namespace rkv {
namespace {

// The parts of a row are functions of its index, so contents can be checked anywhere.
struct RowData {
  RowData(const RowLayout& layout, uint32_t index)
      : k(layout.k_bytes()), v(layout.v_bytes()), stats(layout.n_stats) {
    Random random(index + 1);
    for (uint8_t& x : k) x = static_cast<uint8_t>(random.NextU64());
    for (uint8_t& x : v) x = static_cast<uint8_t>(random.NextU64());
    for (float& x : stats) x = static_cast<float>(random.NextDouble());
    view = {.k = k.data(), .v = v.data(), .index = index, .stats = stats.data()};
    if (!layout.is_state) return;
    view.log_mass = static_cast<float>(random.NextDouble());
    view.spread = static_cast<float>(random.NextDouble());
  }

  std::vector<uint8_t> k, v;
  std::vector<float> stats;
  RowView view;
};

void Append(RowStore& store, uint32_t first, size_t n, size_t spare = 0) {
  store.Reserve(n, spare);
  for (uint32_t i = 0; i < n; ++i) store.Append(RowData(store.layout(), first + i).view);
}

bool SameBytes(const void* a, const std::vector<uint8_t>& b) {
  return std::equal(b.begin(), b.end(), static_cast<const uint8_t*>(a));
}

// The indices in slot order, after checking that every slot holds its row's parts, by itself and as
// part of a span.
std::vector<uint32_t> CheckedIndices(const RowStore& store) {
  const RowLayout& layout = store.layout();
  std::vector<uint32_t> indices;
  for (size_t page = 0; page < store.n_spans(); ++page) {
    const KvSpan span = store.span(page);
    EXPECT_EQ(span.k_type, layout.k_type);
    EXPECT_EQ(span.v_type, layout.v_type);
    EXPECT_EQ(span.log_mass != nullptr, layout.is_state);
    EXPECT_EQ(span.spread != nullptr, layout.is_state);
    for (size_t t = 0; t < span.n; ++t) {
      const size_t slot = indices.size();
      const RowView row = store.row(slot);
      const RowData expected(layout, row.index);
      EXPECT_EQ(row.index, store.index(slot));
      EXPECT_EQ(row.k, static_cast<const uint8_t*>(span.k) + t * span.k_stride);
      EXPECT_EQ(row.v, static_cast<const uint8_t*>(span.v) + t * span.v_stride);
      EXPECT_TRUE(SameBytes(row.k, expected.k)) << "slot " << slot;
      EXPECT_TRUE(SameBytes(row.v, expected.v)) << "slot " << slot;
      EXPECT_TRUE(std::ranges::equal(store.stats(slot), expected.stats));
      EXPECT_TRUE(std::equal(expected.stats.begin(), expected.stats.end(), row.stats));
      if (layout.is_state) {
        EXPECT_EQ(row.log_mass, expected.view.log_mass);
        EXPECT_EQ(row.spread, expected.view.spread);
        EXPECT_EQ(span.log_mass[t], row.log_mass);
        EXPECT_EQ(span.spread[t], row.spread);
      }
      indices.push_back(row.index);
    }
  }
  EXPECT_EQ(indices.size(), store.size());
  return indices;
}

// Every element type for K with every other one for V, odd sizes, with and without floats.
std::vector<RowLayout> Layouts() {
  std::vector<RowLayout> layouts;
  for (size_t k_type = 0; k_type < kElementTypes; ++k_type) {
    for (size_t v_type = 0; v_type < kElementTypes; ++v_type) {
      const size_t which = k_type + v_type;
      layouts.push_back({.d_k = which % 2 == 0 ? 6u : 33u,
                         .d_v = which % 3 == 0 ? 5u : 64u,
                         .k_type = static_cast<ElementType>(k_type),
                         .v_type = static_cast<ElementType>(v_type),
                         .n_stats = which % 3,
                         .is_state = k_type % 2 == 1});
    }
  }
  return layouts;
}

// Allocated bytes, by definition.
size_t AllocatedBytes(const RowStore& store) {
  const RowLayout& layout = store.layout();
  const size_t row = RowBytes(layout.k_type, layout.d_k) + RowBytes(layout.v_type, layout.d_v) +
                     sizeof(uint32_t) +
                     (layout.n_stats + (layout.is_state ? 2 : 0)) * sizeof(float);
  const size_t pages = (store.capacity() + RowStore::kPageRows - 1) / RowStore::kPageRows;
  return store.capacity() * row + pages * sizeof(void*);
}

TEST(RowStoreTest, KeepsRowsInOrderAcrossPages) {
  for (const RowLayout& layout : Layouts()) {
    RowStore store(layout);
    EXPECT_EQ(store.n_spans(), 0u);
    EXPECT_EQ(store.held_bytes(), 0u);
    Append(store, 0, 1);
    Append(store, 1, 200);
    const std::vector<uint32_t> indices = CheckedIndices(store);
    ASSERT_EQ(indices.size(), 201u);
    for (uint32_t i = 0; i < indices.size(); ++i) EXPECT_EQ(indices[i], i);
    EXPECT_EQ(store.n_spans(), 4u);
    EXPECT_EQ(store.held_bytes(), AllocatedBytes(store));
    EXPECT_EQ(store.held_bytes(), RowStore::BytesFor(201, layout));
  }
}

TEST(RowStoreTest, ReserveMakesExactlyTheRoomThatIsAskedFor) {
  const RowLayout layout{.d_k = 6, .d_v = 5};
  RowStore store(layout);
  store.Reserve(9);
  EXPECT_EQ(store.capacity(), 9u);
  store.Reserve(9, 100);  // There is room already.
  EXPECT_EQ(store.capacity(), 9u);
  Append(store, 0, 9);
  store.Reserve(1, 4);
  EXPECT_EQ(store.capacity(), 14u);
  store.SetCapacity(9);
  EXPECT_EQ(store.capacity(), 9u);
  EXPECT_EQ(CheckedIndices(store).size(), 9u);
}

TEST(RowStoreTest, RandomSchedulesMatchASet) {
  const std::vector<RowLayout> layouts = Layouts();
  for (uint64_t seed = 0; seed < 60; ++seed) {
    Random random(seed);
    const RowLayout& layout = layouts[seed % layouts.size()];
    RowStore store(layout);
    std::vector<uint32_t> expected;
    uint32_t next = 0;
    for (int step = 0; step < 20; ++step) {
      switch (random.NextBelow(4)) {
        case 0:
        case 1: {
          const size_t n = 1 + random.NextBelow(90);
          Append(store, next, n, random.NextBelow(2) * random.NextBelow(100));
          for (size_t i = 0; i < n; ++i) expected.push_back(next++);
          break;
        }
        case 2: {
          std::vector<uint32_t> slots;
          const uint64_t one_in = 1 + random.NextBelow(4);
          for (uint32_t slot = 0; slot < store.size(); ++slot) {
            if (random.NextBelow(one_in) == 0) slots.push_back(slot);
          }
          for (const uint32_t slot : slots) std::erase(expected, store.index(slot));
          // In any order.
          for (size_t i = slots.size(); i > 1; --i) {
            std::swap(slots[i - 1], slots[random.NextBelow(i)]);
          }
          store.Remove(slots);
          break;
        }
        default:
          store.SetCapacity(store.size() + random.NextBelow(3) * random.NextBelow(70));
          break;
      }
      std::vector<uint32_t> indices = CheckedIndices(store);
      std::ranges::sort(indices);
      ASSERT_EQ(indices, expected) << "seed " << seed << " step " << step;
      ASSERT_EQ(store.held_bytes(), AllocatedBytes(store));
      ASSERT_GE(store.capacity(), store.size());
    }
  }
}

TEST(RowStoreTest, CopiesAreDeepAndMovesLeaveNothing) {
  for (const RowLayout& layout : Layouts()) {
    RowStore store(layout);
    Append(store, 0, 100, 7);
    RowStore copy = store;
    EXPECT_EQ(copy.capacity(), store.capacity());
    EXPECT_EQ(CheckedIndices(copy), CheckedIndices(store));
    Append(store, 100, 5);
    std::vector<uint32_t> slots = {0, 1, 2};
    store.Remove(slots);
    const std::vector<uint32_t> indices = CheckedIndices(copy);
    ASSERT_EQ(indices.size(), 100u);
    for (uint32_t i = 0; i < 100; ++i) EXPECT_EQ(indices[i], i);
    const std::vector<uint32_t> before = CheckedIndices(store);
    RowStore moved = std::move(store);
    EXPECT_EQ(CheckedIndices(moved), before);
    EXPECT_EQ(store.size(), 0u);  // NOLINT(bugprone-use-after-move)
    EXPECT_EQ(store.held_bytes(), 0u);
    copy = moved;
    EXPECT_EQ(CheckedIndices(copy), before);
  }
}

TEST(RowStoreTest, StatsAndRowsCanBeReplaced) {
  const RowLayout layout{.d_k = 33, .d_v = 5, .k_type = ElementType::kQ4_0, .n_stats = 2};
  RowStore store(layout);
  Append(store, 0, 70);
  store.stats(65)[1] = 7.0f;
  const RowData other(layout, 1000);
  store.SetKeyAndValue(65, other.k.data(), other.v.data());
  EXPECT_EQ(store.row(65).stats[1], 7.0f);
  EXPECT_TRUE(SameBytes(store.row(65).k, other.k));
  EXPECT_TRUE(SameBytes(store.row(65).v, other.v));
  EXPECT_EQ(store.index(65), 65u);
  // The last slot's row takes the place of a removed one, with its written contents.
  std::vector<uint32_t> slots = {66, 67, 68, 69, 3};
  store.Remove(slots);
  EXPECT_EQ(store.index(3), 65u);
  EXPECT_EQ(store.stats(3)[1], 7.0f);
  EXPECT_TRUE(SameBytes(store.row(3).k, other.k));
}

TEST(RowStoreTest, RowsDecodeInTheirTypes) {
  for (const RowLayout& layout : Layouts()) {
    RowStore store(layout);
    store.SetCapacity(1);
    std::vector<float> k(layout.d_k), v(layout.d_v), k_out(layout.d_k), v_out(layout.d_v);
    Random random(5);
    for (float& x : k) x = static_cast<float>(random.NextGaussian());
    for (float& x : v) x = static_cast<float>(random.NextGaussian());
    std::vector<uint8_t> k_row(layout.k_bytes()), v_row(layout.v_bytes());
    EncodeRow(layout.k_type, k.data(), layout.d_k, k_row.data());
    EncodeRow(layout.v_type, v.data(), layout.d_v, v_row.data());
    store.Append({.k = k_row.data(), .v = v_row.data()});
    store.DecodeKey(0, k_out.data());
    store.DecodeValue(0, v_out.data());
    for (size_t i = 0; i < layout.d_k; ++i) {
      EXPECT_NEAR(k_out[i], k[i], 4 * ElementErrorBound(layout.k_type));
    }
    for (size_t i = 0; i < layout.d_v; ++i) {
      EXPECT_NEAR(v_out[i], v[i], 4 * ElementErrorBound(layout.v_type));
    }
    for (const float stat : store.stats(0)) EXPECT_EQ(stat, 0.0f);
  }
}

TEST(RowStoreTest, SaveAndLoadKeepEverySlot) {
  for (const RowLayout& layout : Layouts()) {
    RowStore store(layout);
    Append(store, 0, 150, 20);
    std::vector<uint32_t> slots = {3, 77, 149};
    store.Remove(slots);
    ByteWriter writer;
    store.Save(writer);
    ByteReader reader(writer.buffer());
    RowStore loaded(layout);
    Append(loaded, 500, 3);  // Replaced.
    ASSERT_TRUE(loaded.Load(reader));
    EXPECT_EQ(reader.remaining(), 0u);
    EXPECT_EQ(CheckedIndices(loaded), CheckedIndices(store));
    const size_t step = 1 + writer.buffer().size() / 50;
    for (size_t cut = 0; cut < writer.buffer().size(); cut += step) {
      ByteReader truncated(std::string_view(writer.buffer()).substr(0, cut));
      RowStore untouched(layout);
      EXPECT_FALSE(untouched.Load(truncated));
      EXPECT_EQ(untouched.size(), 0u);
    }
  }
}

TEST(RowStoreTest, DamagedCountsAndFloatsAreRefused) {
  const RowLayout layout{.d_k = 4, .d_v = 4, .n_stats = 1, .is_state = true};
  ByteWriter huge;
  huge.Write<uint64_t>(std::numeric_limits<uint64_t>::max());
  huge.WriteRaw(std::string(100, 'x').data(), 100);
  ByteReader reader(huge.buffer());
  RowStore store(layout);
  EXPECT_FALSE(store.Load(reader));
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    for (int which = 0; which < 3; ++which) {
      RowStore damaged(layout);
      damaged.SetCapacity(1);
      RowData data(layout, 1);
      if (which == 0) data.stats[0] = bad;
      if (which == 1) data.view.log_mass = bad;
      if (which == 2) data.view.spread = bad;
      damaged.Append(data.view);
      ByteWriter writer;
      damaged.Save(writer);
      ByteReader bytes(writer.buffer());
      RowStore loaded(layout);
      EXPECT_FALSE(loaded.Load(bytes));
    }
  }
}

TEST(RowStoreTest, WholePagesComeFromThePoolAndGoBack) {
  if (!PagePool::kUsed) GTEST_SKIP() << "every page is an allocation here";
  const PagePool& pool = PagePool::Shared();
  const size_t before = pool.used_bytes();
  const RowLayout layout{.d_k = 32, .d_v = 64, .k_type = ElementType::kF16, .n_stats = 1};
  const size_t page = RowStore::kPageRows * layout.row_bytes();
  ASSERT_EQ(page % PagePool::kAlignment, 0u);
  {
    RowStore store(layout);
    Append(store, 0, 3 * RowStore::kPageRows + 10);
    EXPECT_EQ(pool.used_bytes(), before + 3 * page);
    const RowStore copy = store;
    EXPECT_EQ(pool.used_bytes(), before + 6 * page);
    std::vector<uint32_t> slots(RowStore::kPageRows + 10);
    std::iota(slots.begin(), slots.end(), 0u);
    store.Remove(slots);
    store.SetCapacity(store.size());
    EXPECT_EQ(pool.used_bytes(), before + 5 * page);
    const RowStore moved = std::move(store);
    EXPECT_EQ(CheckedIndices(moved).size(), 2 * RowStore::kPageRows);
    EXPECT_EQ(CheckedIndices(copy).size(), 3 * RowStore::kPageRows + 10);
    EXPECT_EQ(pool.used_bytes(), before + 5 * page);
  }
  EXPECT_EQ(pool.used_bytes(), before);
}

// As in compressions: stores of several types grow, then lose most of their rows.
TEST(RowStoreTest, PagesGatherInFewSlabs) {
  if (!PagePool::kUsed) GTEST_SKIP() << "every page is an allocation here";
  const PagePool& pool = PagePool::Shared();
  const RowLayout layouts[] = {
      {.d_k = 128, .d_v = 128},
      {.d_k = 128, .d_v = 128, .k_type = ElementType::kQ8_0, .v_type = ElementType::kQ8_0},
      {.d_k = 128, .d_v = 128, .k_type = ElementType::kQ4_0, .v_type = ElementType::kQ4_0},
      {.d_k = 128, .d_v = 128, .k_type = ElementType::kQ2, .v_type = ElementType::kQ2}};
  Random random(1);
  std::vector<RowStore> stores;
  for (size_t i = 0; i < 60; ++i) stores.emplace_back(layouts[i % 4]);
  for (int round = 0; round < 20; ++round) {
    for (RowStore& store : stores) {
      const size_t n = 100 + random.NextU64() % 200;
      store.Reserve(n);
      for (uint32_t i = 0; i < n; ++i) store.Append(RowData(store.layout(), i).view);
      std::vector<uint32_t> slots(store.size());
      std::iota(slots.begin(), slots.end(), 0u);
      slots.resize(n - n / 4);
      store.Remove(slots);
      store.SetCapacity(store.size());
    }
    const size_t used = pool.used_bytes();
    EXPECT_LE(pool.mapped_bytes(), used + used / 10 + 2 * PagePool::kSlabBytes) << round;
  }
  EXPECT_GE(pool.used_bytes(), 4 * PagePool::kSlabBytes);
}

}  // namespace
}  // namespace rkv
