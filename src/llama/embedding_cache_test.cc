#include "llama/embedding_cache.h"

#include <gtest/gtest.h>

namespace rkv {
namespace {

TEST(EmbeddingCacheTest, TheLastUsedStay) {
  const std::vector<float> embeddings(1000, 1.0f);
  EmbeddingCache cache(3 * 4100);
  for (const char* key : {"a", "b", "c"}) cache.Add(key, embeddings);
  ASSERT_NE(cache.Find("b"), nullptr);
  EXPECT_EQ(*cache.Find("a"), embeddings);  // "c" is the oldest now.
  cache.Add("d", embeddings);
  EXPECT_EQ(cache.Find("c"), nullptr);
  EXPECT_NE(cache.Find("a"), nullptr);
  EXPECT_NE(cache.Find("d"), nullptr);
  EXPECT_LE(cache.held_bytes(), 3u * 4100);
}

TEST(EmbeddingCacheTest, WithoutRoomOrKeyNothingIsHeld) {
  EmbeddingCache none(0);
  none.Add("a", {1.0f});
  EXPECT_EQ(none.Find("a"), nullptr);
  EmbeddingCache cache(4096);
  cache.Add("", {1.0f});
  EXPECT_EQ(cache.Find(""), nullptr);
  cache.Add("large", std::vector<float>(2000));
  EXPECT_EQ(cache.held_bytes(), 0u);
}

}  // namespace
}  // namespace rkv
