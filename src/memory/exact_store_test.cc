#include "memory/exact_store.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "base/random.h"

namespace rkv {
namespace {

constexpr size_t kDk = 6;
constexpr size_t kDv = 5;

// The K and V rows of a token are functions of its index, so contents can be checked anywhere.
std::vector<uint16_t> Row(uint32_t token, size_t n, uint16_t salt) {
  std::vector<uint16_t> row(n);
  for (size_t i = 0; i < n; ++i) row[i] = static_cast<uint16_t>(token * 31 + i * 7 + salt);
  return row;
}

void Append(ExactStore& store, uint32_t first_token, size_t n) {
  store.Reserve(n);
  for (uint32_t i = 0; i < n; ++i) {
    store.Stage(i, Row(first_token + i, kDk, 1).data(), Row(first_token + i, kDv, 2).data(),
                first_token + i);
  }
  store.Commit(n);
}

// Every slot holds its token's own rows, through slots and through spans.
std::vector<uint32_t> CheckedTokens(const ExactStore& store) {
  std::vector<uint32_t> tokens;
  for (size_t page = 0; page < store.n_spans(); ++page) {
    const KvSpan span = store.span(page);
    for (size_t t = 0; t < span.n; ++t) {
      const size_t slot = tokens.size();
      const uint32_t token = store.token_index(slot);
      EXPECT_EQ(span.k + t * span.k_stride, store.key(slot));
      EXPECT_EQ(span.v + t * span.v_stride, store.value(slot));
      EXPECT_TRUE(std::ranges::equal(Row(token, kDk, 1), std::span(store.key(slot), kDk)));
      EXPECT_TRUE(std::ranges::equal(Row(token, kDv, 2), std::span(store.value(slot), kDv)));
      tokens.push_back(token);
    }
  }
  EXPECT_EQ(tokens.size(), store.size());
  return tokens;
}

TEST(ExactStoreTest, KeepsTokensInOrderAcrossPages) {
  ExactStore store(kDk, kDv);
  EXPECT_EQ(store.n_spans(), 0u);
  Append(store, 0, 1);
  Append(store, 1, 200);
  const std::vector<uint32_t> tokens = CheckedTokens(store);
  ASSERT_EQ(tokens.size(), 201u);
  for (uint32_t i = 0; i < tokens.size(); ++i) EXPECT_EQ(tokens[i], i);
}

TEST(ExactStoreTest, StagedTokensCountOnlyWhenCommitted) {
  ExactStore store(kDk, kDv);
  store.Reserve(3);
  for (uint32_t i = 0; i < 3; ++i) {
    store.Stage(i, Row(i, kDk, 1).data(), Row(i, kDv, 2).data(), i);
  }
  EXPECT_EQ(store.size(), 0u);
  store.Commit(2);
  EXPECT_EQ(CheckedTokens(store), (std::vector<uint32_t>{0, 1}));
}

TEST(ExactStoreTest, SlackIsBoundedAndCapacityLimitsHold) {
  ExactStore store(kDk, kDv);
  for (uint32_t i = 0; i < 1000; ++i) {
    Append(store, i, 1);
    ASSERT_LE(store.capacity(), store.size() + std::max<size_t>(4, store.size() / 16) + 1);
  }
  ExactStore limited(kDk, kDv);
  limited.Reserve(9, 10);
  EXPECT_LE(limited.capacity(), 10u);
  limited.Reserve(20, 10);  // The need comes first.
  EXPECT_EQ(limited.capacity(), 20u);
}

TEST(ExactStoreTest, RandomSchedulesMatchASet) {
  Random random(17);
  for (int round = 0; round < 50; ++round) {
    ExactStore store(kDk, kDv);
    std::vector<uint32_t> expected;
    uint32_t next = 0;
    for (int step = 0; step < 30; ++step) {
      if (random.NextBelow(2) == 0 || store.size() == 0) {
        const size_t n = 1 + random.NextBelow(90);
        Append(store, next, n);
        for (size_t i = 0; i < n; ++i) expected.push_back(next++);
      } else {
        std::vector<uint32_t> slots;
        for (uint32_t slot = 0; slot < store.size(); ++slot) {
          if (random.NextBelow(3) == 0) slots.push_back(slot);
        }
        for (const uint32_t slot : slots) std::erase(expected, store.token_index(slot));
        store.Remove(slots);
        if (random.NextBelow(2) == 0) store.Shrink(random.NextBelow(5));
      }
      std::vector<uint32_t> tokens = CheckedTokens(store);
      std::sort(tokens.begin(), tokens.end());
      ASSERT_EQ(tokens, expected);
    }
  }
}

TEST(ExactStoreTest, ShrinkFreesBytes) {
  ExactStore store(kDk, kDv);
  Append(store, 0, 300);
  std::vector<uint32_t> slots;
  for (uint32_t slot = 10; slot < 300; ++slot) slots.push_back(slot);
  store.Remove(slots);
  store.Shrink(1);
  EXPECT_EQ(store.capacity(), 11u);
  EXPECT_LT(store.held_bytes(), 11 * ExactStore::TokenBytes(kDk, kDv) + 64);
  EXPECT_EQ(CheckedTokens(store).size(), 10u);
}

TEST(ExactStoreTest, CopiesAreDeep) {
  ExactStore store(kDk, kDv);
  Append(store, 0, 100);
  ExactStore copy = store;
  Append(store, 100, 5);
  uint32_t slots[] = {0, 1, 2};
  store.Remove(slots);
  const std::vector<uint32_t> tokens = CheckedTokens(copy);
  ASSERT_EQ(tokens.size(), 100u);
  for (uint32_t i = 0; i < 100; ++i) EXPECT_EQ(tokens[i], i);
}

TEST(ExactStoreTest, SaveAndLoadKeepEverySlot) {
  ExactStore store(kDk, kDv);
  Append(store, 0, 150);
  uint32_t slots[] = {3, 77, 149};
  store.Remove(slots);
  ByteWriter writer;
  store.Save(writer);
  ByteReader reader(writer.buffer());
  ExactStore loaded(kDk, kDv);
  ASSERT_TRUE(loaded.Load(reader));
  EXPECT_EQ(CheckedTokens(loaded), CheckedTokens(store));
  for (size_t cut = 0; cut < writer.buffer().size(); cut += 13) {
    ByteReader truncated(std::string_view(writer.buffer()).substr(0, cut));
    ExactStore untouched(kDk, kDv);
    EXPECT_FALSE(untouched.Load(truncated));
    EXPECT_EQ(untouched.size(), 0u);
  }
}

}  // namespace
}  // namespace rkv
