// Keys and scopes of conversations, and their moves between memory and disk.
#include "serve/conversation_cache.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "serve/digest.h"
#include "support/changed_options.h"
#include "support/test_models.h"

namespace rkv::app {
namespace {

using std::chrono::seconds;
using std::chrono::steady_clock;

TEST(ConversationScopeTest, EveryOptionOfTheCacheHasAScopeOfItsOwn) {
  for (const CacheOptions& base : {CacheOptions{}, AllSet()}) {
    GenerationRequest request;
    request.cache = base;
    std::set<std::string> scopes = {ConversationScope(request, "model")};
    EXPECT_TRUE(scopes.insert(ConversationScope(request, "other")).second);
    for (const auto& [name, changed] : ChangedOnce(base)) {
      request.cache = changed;
      EXPECT_TRUE(scopes.insert(ConversationScope(request, "model")).second) << name;
    }
    request.cache = base;
    request.session = "session";
    EXPECT_TRUE(scopes.insert(ConversationScope(request, "model")).second);
  }
}

// The server must find conversations that an earlier one parked.
TEST(ConversationScopeTest, StaysAsItIs) {
  GenerationRequest request;
  request.session = "s";
  request.cache.policy.name = "full";
  EXPECT_EQ(ConversationScope(request, "m"), "s|m|full|100%|-|-|-|streaming|-|-");
  request.cache = AllSet();
  EXPECT_EQ(ConversationScope(request, "m"),
            "s|m|streaming:sinks=8,window=0.1|2.5%|clusters:share=0.25|f16,q4_0|auto|prompt|q8_0|"
            "q4_0");
}

class ConversationCacheTest : public testing::Test {
 protected:
  ConversationCacheTest() {
    EngineOptions options;
    options.model = SourcePath("models/reference/tiny-vlm-f16.gguf");
    options.n_threads = 1;
    options.max_conversations = 4;
    engine_ = *Engine::Load(options);
  }

  // `said`: the text behind its key. `age`: larger for longer idle times.
  HeldConversation Make(const std::string& said, seconds age) {
    HeldConversation held{.conversation = *engine_->NewConversation({}),
                          .id = RandomHex(16),
                          .key = Sha256(said),
                          .last_used = steady_clock::now() - age};
    EXPECT_TRUE(held.conversation->AddText(said).ok());
    return held;
  }

  std::unique_ptr<Engine> engine_;
};

TEST_F(ConversationCacheTest, KeepsTheLaterOfTwoThatSaidTheSame) {
  ConversationCache cache(nullptr);
  cache.Keep(Make("a", seconds(2)));
  HeldConversation later = Make("a", seconds(1));
  const std::string id = later.id;
  cache.Keep(std::move(later));
  EXPECT_EQ(cache.idle().size(), 1u);
  EXPECT_FALSE(cache.Take(Sha256("b")).has_value());
  const auto taken = cache.Take(Sha256("a"));
  ASSERT_TRUE(taken.has_value());
  EXPECT_EQ(taken->id, id);
  EXPECT_EQ(cache.idle_bytes(), 0u);
  EXPECT_FALSE(cache.Take(Sha256("a")).has_value());
}

TEST_F(ConversationCacheTest, TheLongestIdleLeavesFirst) {
  ConversationCache cache(nullptr);
  for (const int age : {1, 3, 2}) cache.Keep(Make(std::to_string(age), seconds(age)));
  const uint64_t bytes = cache.idle_bytes();
  cache.ParkOldest();
  EXPECT_FALSE(cache.idle().contains(Sha256("3")));
  EXPECT_EQ(cache.idle().size(), 2u);
  EXPECT_LT(cache.idle_bytes(), bytes);
  EXPECT_EQ(cache.counts().dropped, 1u);
  EXPECT_EQ(cache.counts().parked, 0u);
}

TEST_F(ConversationCacheTest, WhatIsParkedComesBack) {
  const std::string folder = testing::TempDir() + "conversation-cache";
  std::filesystem::remove_all(folder);
  ConversationCache cache(std::make_unique<ParkStore>(*ParkStore::Open(folder, 0)));
  HeldConversation held = Make("a", seconds(1));
  const std::string id = held.id;
  // Saving would lose waiting tokens; an answer leaves none.
  AnswerOptions options;
  options.max_tokens = 1;
  ASSERT_TRUE(engine_->Answer(*held.conversation, options).ok());
  cache.Keep(std::move(held));
  cache.ParkOldest();
  EXPECT_EQ(cache.counts().parked, 1u);
  EXPECT_EQ(cache.parked().size(), 1u);
  const auto parked = cache.FindParked(Sha256("a"));
  ASSERT_TRUE(parked.has_value());
  auto restored = cache.Restore(*engine_, *parked);
  ASSERT_TRUE(restored.has_value());
  EXPECT_EQ(restored->id, id);
  EXPECT_EQ(restored->key, Sha256("a"));
  EXPECT_EQ(cache.counts().restored, 1u);
  // A newer state replaces the one on disk.
  restored->key = Sha256("a b");
  restored->saved = false;
  cache.Save(*restored, Sha256("a"));
  EXPECT_FALSE(cache.FindParked(Sha256("a")).has_value());
  EXPECT_TRUE(cache.FindParked(Sha256("a b")).has_value());
}

}  // namespace
}  // namespace rkv::app
