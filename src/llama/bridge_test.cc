// The bridge on generated models: probing, refusals, and equal bits for equal tokens.
#include "llama/bridge.h"

#include <gtest/gtest.h>
#include <llama.h>

#include "llama/model.h"
#include "support/test_models.h"

namespace rkv {
namespace {

std::unique_ptr<Model> Load(int n_ubatch = 64) {
  auto model =
      Model::Load({.model = TestModelPath("qwen2-d64"), .n_ubatch = n_ubatch, .n_threads = 2}, {});
  EXPECT_TRUE(model.ok()) << model.status().message();
  return *std::move(model);
}

Ubatch Tokens(KvCache& cache, size_t n) {
  Ubatch ubatch;
  ubatch.caches.push_back({.cache = &cache});
  const auto first = static_cast<llama_pos>(cache.tokens_seen());
  for (size_t i = 0; i < n; ++i) {
    const auto position = first + static_cast<llama_pos>(i);
    ubatch.tokens.push_back({.token = static_cast<llama_token>(40 + (position * 7) % 200),
                             .position = {position},
                             .output = i + 1 == n});
  }
  return ubatch;
}

std::vector<float> LastLogits(Model& model) {
  const float* logits = llama_get_logits_ith(model.context(), -1);
  return {logits, logits + llama_vocab_n_tokens(model.vocab())};
}

TEST(BridgeTest, ProbeFindsEveryLayer) {
  const auto model = Load();
  const LayerShape layer{.n_head = 6, .n_kv_head = 2, .d_k = 64, .d_v = 64};
  const RopeLayout rope{.pairs = RopePairs::kHalves, .n_rot = 64};
  EXPECT_EQ(model->shape(), (CacheShape{.layers = {layer, layer, layer}, .rope = rope}));
}

TEST(BridgeTest, BadUbatchesAreRefusedAndLeaveNoTrace) {
  const auto model = Load();
  KvCache cache = *KvCache::Create(model->shape(), {});
  Bridge& bridge = model->bridge();
  EXPECT_FALSE(bridge.Decode(model->context(), {}).ok());
  EXPECT_FALSE(bridge.Decode(model->context(), Tokens(cache, 65)).ok());
  Ubatch bad_token = Tokens(cache, 3);
  bad_token.tokens[1].token = 1 << 20;
  EXPECT_EQ(bridge.Decode(model->context(), bad_token).code(), StatusCode::kInternal);
  KvCache foreign = *KvCache::Create({.layers = {{2, 1, 64, 64}}}, {});
  EXPECT_EQ(bridge.Decode(model->context(), Tokens(foreign, 3)).code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(cache.tokens_seen(), 0u);
  EXPECT_TRUE(bridge.Decode(model->context(), Tokens(cache, 64)).ok());
  EXPECT_EQ(cache.tokens_seen(), 64u);
}

TEST(BridgeTest, TheSameTokensGiveTheSameBits) {
  const auto model = Load();
  KvCache first = *KvCache::Create(model->shape(), {});
  KvCache second = *KvCache::Create(model->shape(), {});
  for (const size_t n : {50, 1, 1, 20, 1}) {
    ASSERT_TRUE(model->bridge().Decode(model->context(), Tokens(first, n)).ok());
    const std::vector<float> logits = LastLogits(*model);
    ASSERT_TRUE(model->bridge().Decode(model->context(), Tokens(second, n)).ok());
    EXPECT_EQ(LastLogits(*model), logits);
  }
}

TEST(BridgeTest, ACopiedCacheIsAForkOfTheConversation) {
  const auto model = Load();
  KvCache trunk = *KvCache::Create(model->shape(), {});
  ASSERT_TRUE(model->bridge().Decode(model->context(), Tokens(trunk, 40)).ok());
  KvCache fork = trunk;
  ASSERT_TRUE(model->bridge().Decode(model->context(), Tokens(trunk, 10)).ok());
  const std::vector<float> logits = LastLogits(*model);
  ASSERT_TRUE(model->bridge().Decode(model->context(), Tokens(fork, 10)).ok());
  EXPECT_EQ(LastLogits(*model), logits);
}

// Between our decodes the context is stock llama.cpp's, even if it kept rewritten graphs.
TEST(BridgeTest, LlamaDecodeOfItsOwnIsUntouched) {
  const auto model = Load();
  const auto plain_decode = [&](llama_token token) {
    llama_memory_clear(llama_get_memory(model->context()), true);
    EXPECT_EQ(llama_decode(model->context(), llama_batch_get_one(&token, 1)), 0);
    return LastLogits(*model);
  };
  const std::vector<float> before = plain_decode(65);
  KvCache cache = *KvCache::Create(model->shape(), {});
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(model->bridge().Decode(model->context(), Tokens(cache, 1)).ok());
  }
  EXPECT_EQ(plain_decode(65), before);
  ASSERT_TRUE(model->bridge().Decode(model->context(), Tokens(cache, 1)).ok());
  EXPECT_EQ(cache.tokens_seen(), 6u);
}

// A change of the thread count between decodes must not lose work.
TEST(BridgeTest, ThreadsCanChange) {
  const auto model = Load();
  KvCache cache = *KvCache::Create(model->shape(), {});
  KvCache other = *KvCache::Create(model->shape(), {});
  ASSERT_TRUE(model->bridge().Decode(model->context(), Tokens(cache, 30)).ok());
  ASSERT_TRUE(model->bridge().Decode(model->context(), Tokens(cache, 1)).ok());
  const std::vector<float> logits = LastLogits(*model);
  llama_set_n_threads(model->context(), 1, 3);
  ASSERT_TRUE(model->bridge().Decode(model->context(), Tokens(other, 30)).ok());
  ASSERT_TRUE(model->bridge().Decode(model->context(), Tokens(other, 1)).ok());
  EXPECT_EQ(LastLogits(*model), logits);
}

}  // namespace
}  // namespace rkv
