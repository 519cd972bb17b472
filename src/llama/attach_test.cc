// The C interface, against stock llama.cpp.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "llama/log.h"
#include "llama/model.h"
#include "retentivekv/retentivekv.h"
#include "support/broken_models.h"
#include "support/stock.h"
#include "support/test_models.h"

namespace rkv {
namespace {

using Logits = std::vector<float>;

// A llama.cpp program with the cache attached.
class Attached {
 public:
  explicit Attached(const std::string& model, const char* policy = "full",
                    const char* budget = nullptr, uint32_t n_ubatch = 64, uint32_t n_ctx = 0) {
    CaptureLlamaLogs();
    ggml_backend_load_all();
    model_.reset(
        llama_model_load_from_file(TestModelPath(model).c_str(), llama_model_default_params()));
    llama_context_params params = llama_context_default_params();
    params.n_ubatch = n_ubatch;
    params.n_ctx = n_ctx;
    params.n_seq_max = 4;
    params.n_threads = params.n_threads_batch = 2;
    cache_ = rkv_attach(&params, policy, budget);
    EXPECT_NE(cache_, nullptr) << rkv_last_error(nullptr);
    context_.reset(llama_init_from_model(model_.get(), params));
    EXPECT_NE(context_, nullptr);
  }
  ~Attached() {
    context_.reset();
    rkv_detach(cache_);
  }
  Attached(const Attached&) = delete;
  Attached& operator=(const Attached&) = delete;

  // Decodes entries with explicit fields, and with logits for all tokens.
  int Decode(const std::vector<BatchEntry>& entries) {
    return rkv_decode(cache_, context_.get(), TestBatch(entries).get());
  }

  // Decodes tokens of sequence 0 without any optional fields.
  int DecodePlain(std::vector<llama_token> tokens) {
    return rkv_decode(cache_, context_.get(),
                      llama_batch_get_one(tokens.data(), static_cast<int32_t>(tokens.size())));
  }

  Logits LogitsAt(int i) const {
    const float* logits = llama_get_logits_ith(context_.get(), i);
    return {logits, logits + llama_vocab_n_tokens(llama_model_get_vocab(model_.get()))};
  }
  rkv_cache* cache() const { return cache_; }
  llama_context* context() const { return context_.get(); }
  llama_model* model() const { return model_.get(); }
  std::string error() const { return rkv_last_error(cache_); }

 private:
  LlamaPtr<llama_model> model_;
  rkv_cache* cache_ = nullptr;
  LlamaPtr<llama_context> context_;
};

void ExpectNear(const Logits& ours, const Logits& stock) {
  ASSERT_EQ(ours.size(), stock.size());
  EXPECT_LE(RelativeError(ours, stock), 2e-2);
}

std::vector<llama_token> Tokens(int n, int salt = 0) {
  std::vector<llama_token> tokens;
  for (int i = 0; i < n; ++i) tokens.push_back(30 + (i * 37 + salt) % 220);
  return tokens;
}

std::vector<BatchEntry> Entries(int seq, int first, int n, int salt = 0) {
  std::vector<BatchEntry> entries;
  const std::vector<llama_token> tokens = Tokens(first + n, salt);
  for (int i = first; i < first + n; ++i) {
    entries.push_back({.seq = seq, .token = tokens[static_cast<size_t>(i)], .position = i});
  }
  return entries;
}

TEST(AttachTest, BatchesLongerThanTheContextMatchStock) {
  Attached ours("qwen2-d64");
  StockLlama stock(TestModelPath("qwen2-d64"));
  const std::vector<Logits> expected = stock.Decode(Entries(0, 0, 200));
  ASSERT_EQ(ours.DecodePlain(Tokens(200)), 0) << ours.error();
  ExpectNear(ours.LogitsAt(-1), expected.back());
  // Again with explicit outputs: the logits of the last n_ubatch tokens can be read.
  EXPECT_EQ(rkv_seq_keep(ours.cache(), 0, 0), 0);
  ASSERT_EQ(ours.Decode(Entries(0, 0, 200)), 0) << ours.error();
  for (int i = 1; i <= 64; ++i) {
    ExpectNear(ours.LogitsAt(-i), expected[expected.size() - static_cast<size_t>(i)]);
  }
}

TEST(AttachTest, SequencesAreIndependentAndRollBack) {
  Attached ours("qwen2-d64");
  StockLlama stock(TestModelPath("qwen2-d64"));
  std::vector<BatchEntry> mixed;
  for (int i = 0; i < 20; ++i) {  // interleaved, token by token
    mixed.push_back(Entries(0, i, 1)[0]);
    mixed.push_back(Entries(3, i, 1, 5)[0]);
  }
  const std::vector<Logits> expected = stock.Decode(mixed);
  ASSERT_EQ(ours.Decode(mixed), 0) << ours.error();
  for (size_t i = 0; i < mixed.size(); ++i) {
    ExpectNear(ours.LogitsAt(static_cast<int>(i)), expected[i]);
  }
  EXPECT_EQ(rkv_get_stats(ours.cache(), 3).tokens_seen, 20u);
  EXPECT_EQ(rkv_get_stats(ours.cache(), 1).tokens_seen, 0u);

  ASSERT_EQ(rkv_seq_keep(ours.cache(), 3, 12), 0);
  stock.RollBack(3, 12);
  ASSERT_EQ(ours.Decode(Entries(3, 12, 8, 9)), 0) << ours.error();
  ExpectNear(ours.LogitsAt(-1), stock.Decode(Entries(3, 12, 8, 9)).back());
  EXPECT_LT(rkv_seq_keep(ours.cache(), 3, 21), 0);
  EXPECT_NE(ours.error(), "");
}

TEST(AttachTest, PositionsMayBeLeftOutAgainOnceThoseOfOtherNumbersAreGone) {
  Attached ours("qwen2-d64");
  ASSERT_EQ(ours.DecodePlain(Tokens(10)), 0) << ours.error();
  std::vector<BatchEntry> far = Entries(0, 10, 5);
  for (BatchEntry& entry : far) entry.position += 100;
  ASSERT_EQ(ours.Decode(far), 0) << ours.error();
  EXPECT_LT(ours.DecodePlain({50}), 0);
  ASSERT_EQ(rkv_seq_keep(ours.cache(), 0, 11), 0);
  EXPECT_LT(ours.DecodePlain({50}), 0);
  ASSERT_EQ(rkv_seq_keep(ours.cache(), 0, 10), 0);
  EXPECT_EQ(ours.DecodePlain({50}), 0) << ours.error();
}

TEST(AttachTest, EmbeddingsWithMropePositionsMatchStock) {
  Attached ours("qwen2vl-d64");
  StockLlama stock(TestModelPath("qwen2vl-d64"));
  const int n = 12;
  const int width = llama_model_n_embd_inp(ours.model());
  std::vector<float> embeddings(static_cast<size_t>(n * width));
  for (size_t i = 0; i < embeddings.size(); ++i) {
    embeddings[i] = std::sin(static_cast<float>(i) * 0.37f);
  }
  std::vector<llama_pos> positions(static_cast<size_t>(4 * n), 0);
  for (int i = 0; i < n; ++i) {  // 3 rows of 4 cells, after 5 tokens of text
    positions[static_cast<size_t>(i)] = 5;
    positions[static_cast<size_t>(n + i)] = 5 + i / 4;
    positions[static_cast<size_t>(2 * n + i)] = 5 + i % 4;
  }
  llama_batch picture = {};
  picture.n_tokens = n;
  picture.embd = embeddings.data();
  picture.pos = positions.data();

  ASSERT_EQ(ours.DecodePlain(Tokens(5)), 0) << ours.error();
  ASSERT_EQ(rkv_decode(ours.cache(), ours.context(), picture), 0) << ours.error();
  const Logits after_picture = ours.LogitsAt(-1);
  // The picture moved the position by 4 instead of 12, so it cannot be inferred any more.
  EXPECT_LT(ours.DecodePlain({40}), 0);
  EXPECT_NE(ours.error().find("positions"), std::string::npos);
  ASSERT_EQ(ours.Decode({{.token = 40, .position = 9}}), 0) << ours.error();

  stock.Decode(Entries(0, 0, 5));
  ASSERT_EQ(llama_decode(stock.context(), picture), 0);
  ExpectNear(after_picture, stock.Logits(-1));
  ExpectNear(ours.LogitsAt(-1), stock.Decode({{.token = 40, .position = 9}})[0]);
}

TEST(AttachTest, BadBatchesAreRefusedAndLeaveNoTrace) {
  Attached ours("qwen2-d64");
  EXPECT_LT(ours.Decode({}), 0);
  EXPECT_LT(ours.DecodePlain({1 << 20}), 0);
  EXPECT_LT(ours.Decode({{.token = 40, .position = -1}}), 0);
  llama_batch nothing = {};
  nothing.n_tokens = 1;
  EXPECT_LT(rkv_decode(ours.cache(), ours.context(), nothing), 0);
  EXPECT_EQ(rkv_get_stats(ours.cache(), 0).tokens_seen, 0u);
  EXPECT_EQ(ours.DecodePlain(Tokens(10)), 0) << ours.error();
}

TEST(AttachTest, BudgetsHoldAlsoAfterAFailure) {
  Attached ours("qwen2-d64", "streaming", "40t");
  ASSERT_EQ(ours.DecodePlain(Tokens(300)), 0) << ours.error();
  std::vector<llama_token> bad = Tokens(60);
  bad.back() = 1 << 20;
  EXPECT_LT(ours.DecodePlain(bad), 0);
  for (int i = 0; i < 50; ++i) {
    const rkv_stats stats = rkv_get_stats(ours.cache(), 0);
    ASSERT_LE(stats.held_bytes, stats.budget_bytes);
    ASSERT_GT(stats.tokens_evicted, 200u);
    ASSERT_EQ(ours.DecodePlain({50}), 0) << ours.error();
  }
}

TEST(AttachTest, MistakesInOptionsAreNamed) {
  llama_context_params params = llama_context_default_params();
  EXPECT_EQ(rkv_attach(&params, "nonsense", nullptr), nullptr);
  EXPECT_NE(std::string(rkv_last_error(nullptr)).find("full, retentive"), std::string::npos);
  EXPECT_EQ(rkv_attach(&params, "streaming", "0.2"), nullptr);
  EXPECT_EQ(rkv_attach(&params, "streaming:sinks=x", nullptr), nullptr);
  EXPECT_EQ(params.cb_eval, nullptr);  // unchanged after a refusal
}

// llama.cpp would cast such a cache for each layer, and discard the result after the decode.
TEST(AttachTest, ACacheOfAnotherTypeIsRefused) {
  CaptureLlamaLogs();
  ggml_backend_load_all();
  const LlamaPtr<llama_model> model(
      llama_model_load_from_file(TestModelPath("qwen2-d64").c_str(), llama_model_default_params()));
  for (const bool keys : {true, false}) {
    llama_context_params params = llama_context_default_params();
    rkv_cache* cache = rkv_attach(&params, "full", nullptr);
    ASSERT_NE(cache, nullptr);
    (keys ? params.type_k : params.type_v) = GGML_TYPE_F32;
    LlamaPtr<llama_context> context(llama_init_from_model(model.get(), params));
    ASSERT_NE(context, nullptr);
    std::vector<llama_token> tokens = Tokens(5);
    EXPECT_LT(rkv_decode(cache, context.get(), llama_batch_get_one(tokens.data(), 5)), 0);
    EXPECT_NE(std::string(rkv_last_error(cache)).find("not f16"), std::string::npos)
        << rkv_last_error(cache);
    context.reset();
    rkv_detach(cache);
  }
}

// The inspected graph, which was not computed, runs again if the next batch is similar.
TEST(AttachTest, AModelWhoseRopeDoesNotFitIsRefusedEachTime) {
  CaptureLlamaLogs();
  ggml_backend_load_all();
  const std::string path = WriteModelWithRopeSection(testing::TempDir() + "attach-rope.gguf", 64);
  const LlamaPtr<llama_model> model(
      llama_model_load_from_file(path.c_str(), llama_model_default_params()));
  ASSERT_NE(model, nullptr);
  llama_context_params params = llama_context_default_params();
  rkv_cache* cache = rkv_attach(&params, "full", nullptr);
  LlamaPtr<llama_context> context(llama_init_from_model(model.get(), params));
  ASSERT_NE(context, nullptr);
  llama_token token = 50;
  for (int i = 0; i < 3; ++i) {
    EXPECT_LT(rkv_decode(cache, context.get(), llama_batch_get_one(&token, 1)), 0);
    EXPECT_NE(std::string(rkv_last_error(cache)).find("RoPE"), std::string::npos);
  }
  context.reset();
  rkv_detach(cache);
}

TEST(AttachTest, NothingIsAnErrorAndNoCrash) {
  EXPECT_EQ(rkv_attach(nullptr, "full", nullptr), nullptr);
  EXPECT_NE(std::string(rkv_last_error(nullptr)), "");
  EXPECT_LT(rkv_decode(nullptr, nullptr, {}), 0);
  EXPECT_LT(rkv_seq_keep(nullptr, 0, 0), 0);
  EXPECT_EQ(rkv_get_stats(nullptr, 0).tokens_seen, 0u);
  Attached ours("qwen2-d64");
  EXPECT_LT(rkv_decode(ours.cache(), nullptr, {}), 0);
  EXPECT_NE(ours.error(), "");
}

TEST(AttachTest, UnsetThreadsAreLlamasDefault) {
  llama_context_params params = llama_context_default_params();
  params.n_threads = params.n_threads_batch = 0;
  rkv_cache* cache = rkv_attach(&params, "full", nullptr);
  EXPECT_EQ(params.n_threads, GGML_DEFAULT_N_THREADS);
  EXPECT_EQ(params.n_threads_batch, GGML_DEFAULT_N_THREADS);
  rkv_detach(cache);
  // Set after the attachment.
  Attached ours("qwen2-d64");
  StockLlama stock(TestModelPath("qwen2-d64"));
  llama_set_n_threads(ours.context(), 0, 0);
  ASSERT_EQ(ours.DecodePlain(Tokens(20)), 0) << ours.error();
  ExpectNear(ours.LogitsAt(-1), stock.Decode(Entries(0, 0, 20)).back());
}

TEST(AttachTest, SequencesKeepTheirNumbers) {
  CaptureLlamaLogs();
  ggml_backend_load_all();
  const LlamaPtr<llama_model> model(
      llama_model_load_from_file(TestModelPath("qwen2-d64").c_str(), llama_model_default_params()));
  llama_context_params params = llama_context_default_params();
  params.n_seq_max = 4;
  params.embeddings = true;
  params.pooling_type = LLAMA_POOLING_TYPE_LAST;
  rkv_cache* cache = rkv_attach(&params, "full", nullptr);
  LlamaPtr<llama_context> context(llama_init_from_model(model.get(), params));
  ASSERT_NE(context, nullptr);
  ASSERT_EQ(rkv_decode(cache, context.get(), TestBatch(Entries(3, 0, 5)).get()), 0)
      << rkv_last_error(cache);
  EXPECT_NE(llama_get_embeddings_seq(context.get(), 3), nullptr);
  EXPECT_EQ(llama_get_embeddings_seq(context.get(), 0), nullptr);
  for (const int none : {-1, static_cast<int>(llama_max_parallel_sequences())}) {
    EXPECT_LT(rkv_decode(cache, context.get(), TestBatch(Entries(none, 0, 5)).get()), 0);
    EXPECT_NE(std::string(rkv_last_error(cache)).find("sequence"), std::string::npos);
  }
  context.reset();
  rkv_detach(cache);
}

TEST(AttachTest, AnUnsetUbatchIsTheBatch) {
  llama_context_params params = llama_context_default_params();
  params.n_batch = 96;
  params.n_ubatch = 0;
  rkv_cache* cache = rkv_attach(&params, "full", nullptr);
  EXPECT_EQ(params.n_ubatch, 96u);
  EXPECT_EQ(params.n_ctx, 96u);
  rkv_detach(cache);
}

TEST(AttachTest, SlidingWindowsAreServedUntilTheyWouldClose) {
  Attached too_long("gemma2-swa");
  EXPECT_LT(too_long.DecodePlain(Tokens(3)), 0);
  EXPECT_NE(too_long.error().find("sliding-window"), std::string::npos);
  Attached fits("gemma2-swa", "full", nullptr, 64, 512);
  EXPECT_EQ(fits.DecodePlain(Tokens(500)), 0) << fits.error();
  EXPECT_LT(fits.DecodePlain(Tokens(20)), 0);
}

}  // namespace
}  // namespace rkv
