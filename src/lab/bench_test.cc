// Sessions of `rkv bench`: random and read depths, restoring, and the shapes of released models.
#include "lab/bench.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "lab/model_maker.h"
#include "support/test_models.h"

namespace rkv {
namespace {

constexpr size_t kDepth = 300;

BenchSessionOptions Options(int n_conversations = 1) {
  return {.n_threads = 1,
          .n_batch = 128,
          .n_ubatch = 64,
          .n_conversations = n_conversations,
          .max_tokens = kDepth + 40,
          .seed = 3};
}

class BenchSessionTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    auto model = BenchModel::Load(TestModelPath(GetParam()));
    ASSERT_TRUE(model.ok()) << model.status().message();
    model_ = *std::move(model);
  }

  std::unique_ptr<BenchSession> Stock(ElementType type, int n_conversations = 1) {
    auto session = model_->NewStockSession(type, type, Options(n_conversations));
    EXPECT_TRUE(session.ok()) << session.status().message();
    return *std::move(session);
  }
  std::unique_ptr<BenchSession> Ours(const std::string& policy, const std::string& budget,
                                     int n_conversations = 1) {
    CacheOptions options{.policy = *ParsePolicySpec(policy), .budget = *ParseBudget(budget)};
    auto session = model_->NewSession(options, Options(n_conversations));
    EXPECT_TRUE(session.ok()) << session.status().message();
    return *std::move(session);
  }

  std::unique_ptr<BenchModel> model_;
};

void ExpectOk(const Status& status) { EXPECT_TRUE(status.ok()) << status.message(); }

TEST_P(BenchSessionTest, RandomDepthHoldsWhatReadingHolds) {
  for (const ElementType type : {ElementType::kF16, ElementType::kQ8_0, ElementType::kQ4_0}) {
    const auto read = Stock(type);
    const auto random = Stock(type);
    ExpectOk(read->Fill(kDepth, false));
    ExpectOk(random->Fill(kDepth, true));
    EXPECT_GT(read->use().held_bytes, 0u);
    EXPECT_EQ(read->use().held_bytes, random->use().held_bytes);
    EXPECT_EQ(read->use().full_bytes, kDepth * model_->shape().full_token_bytes());
    if (type == ElementType::kF16) {
      EXPECT_EQ(read->use().held_bytes, read->use().full_bytes);
    }
    ExpectOk(random->Decode(5));
    ExpectOk(random->Prefill(20));
    EXPECT_EQ(random->use().full_bytes, (kDepth + 25) * model_->shape().full_token_bytes());
  }
  for (const char* policy : {"full", "streaming", "retentive", "h2o"}) {
    const bool evicts = std::string(policy) != "full";
    const auto read = Ours(policy, evicts ? "20%" : "100%");
    const auto random = Ours(policy, evicts ? "20%" : "100%");
    ExpectOk(read->Fill(kDepth, false));
    ExpectOk(random->Fill(kDepth, true));
    EXPECT_EQ(read->use().full_bytes, random->use().full_bytes);
    const uint64_t budget = read->use().full_bytes / 5;
    for (const auto* session : {read.get(), random.get()}) {
      EXPECT_GT(session->use().read_bytes, 0u);
      EXPECT_LT(session->use().read_bytes, session->use().held_bytes);
      if (!evicts) continue;
      EXPECT_LE(session->use().held_bytes, budget) << policy;
      EXPECT_GT(session->use().held_bytes, budget * 9 / 10) << policy;
    }
    if (!evicts) {
      EXPECT_EQ(read->use().held_bytes, random->use().held_bytes);
    }
    ExpectOk(random->Decode(5));
  }
}

TEST_P(BenchSessionTest, RestoringGoesBackToTheDepth) {
  for (const int n_conversations : {1, 3}) {
    for (const bool random : {false, true}) {
      const auto sessions = {Stock(ElementType::kF16, n_conversations),
                             Ours("full", "100%", n_conversations),
                             Ours("retentive", "20%", n_conversations)};
      for (const auto& session : sessions) {
        ExpectOk(session->Fill(kDepth, random));
        const BenchCacheUse filled = session->use();
        EXPECT_EQ(filled.full_bytes, static_cast<size_t>(n_conversations) * kDepth *
                                         model_->shape().full_token_bytes());
        for (int repetition = 0; repetition < 2; ++repetition) {
          ExpectOk(session->Decode(4));
          ExpectOk(session->Prefill(30));
          EXPECT_GT(session->use().full_bytes, filled.full_bytes);
          ExpectOk(session->Restore());
          EXPECT_EQ(session->use().full_bytes, filled.full_bytes);
          EXPECT_EQ(session->use().read_bytes, filled.read_bytes);
        }
      }
    }
  }
}

// With grouped queries, with M-RoPE, which adds words to the saved state, and with interleaved
// M-RoPE.
INSTANTIATE_TEST_SUITE_P(Models, BenchSessionTest,
                         testing::Values("qwen2-d64", "qwen2vl-d64", "qwen3vl-d128"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

TEST(BenchTest, WhatCannotBeMeasuredIsRefused) {
  EXPECT_EQ(BenchModel::Load("/no/such.gguf").status().code(), StatusCode::kBadFile);
  const auto model = BenchModel::Load(TestModelPath("qwen2-d64"));
  ASSERT_TRUE(model.ok());
  const auto session = [&](ElementType type, int n) {
    return (*model)->NewStockSession(type, type, Options(n)).status();
  };
  EXPECT_EQ(session(ElementType::kQ3, 1).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(session(ElementType::kQ2, 1).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(session(ElementType::kF16, 0).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(session(ElementType::kF16, 65).code(), StatusCode::kInvalidArgument);
}

// The shapes at a small width, which is fast to make; vocabulary, layers and kinds of heads are
// unchanged.
TEST(BenchTest, ReleasedShapesLoadAndDecode) {
  for (const ReleasedShape& shape : ReleasedShapes()) {
    ModelSpec spec = shape.spec;
    spec.n_head /= spec.n_head_kv;
    spec.n_head_kv = 1;
    spec.head_dim = 32;
    spec.n_embd = spec.n_head * spec.head_dim;
    spec.n_ff = 64;
    const std::string path = testing::TempDir() + "bench-" + shape.name + ".gguf";
    ASSERT_TRUE(MakeModel(spec, path).ok());
    const auto model = BenchModel::Load(path);
    ASSERT_TRUE(model.ok()) << model.status().message();
    ASSERT_EQ((*model)->shape().layers.size(), static_cast<size_t>(spec.n_layer));
    EXPECT_EQ((*model)->shape().layers[0],
              (LayerShape{static_cast<size_t>(spec.n_head), 1, 32, 32}));
    const auto embeddings =
        static_cast<uint64_t>(spec.n_vocab) * static_cast<uint64_t>(spec.n_embd);
    EXPECT_GT((*model)->n_params(), embeddings * (spec.tied_output ? 1 : 2));
    EXPECT_LT((*model)->n_params(), embeddings * (spec.tied_output ? 2 : 3));
    // A step reads the output matrix, but not separate embeddings. 32 values take 18 bytes.
    EXPECT_EQ((*model)->read_bytes(),
              (*model)->size() - (spec.tied_output ? 0 : embeddings / 32 * 18));
    auto stock = (*model)->NewStockSession(ElementType::kF16, ElementType::kF16, Options());
    ASSERT_TRUE(stock.ok());
    ExpectOk((*stock)->Fill(20, false));
    auto ours = (*model)->NewSession({}, Options());
    ASSERT_TRUE(ours.ok());
    ExpectOk((*ours)->Fill(20, false));
  }
}

}  // namespace
}  // namespace rkv
