// Texts that stock llama.cpp reads in one piece or in two.
#include "lab/stock_reader.h"

#include <gtest/gtest.h>

#include <cmath>

#include "support/test_models.h"

namespace rkv {
namespace {

std::vector<int32_t> Tokens(size_t n) {
  std::vector<int32_t> tokens;
  for (size_t i = 0; i < n; ++i) tokens.push_back(static_cast<int32_t>(5 + i * 7 % 50));
  return tokens;
}

double LargestDifference(const std::vector<float>& a, const std::vector<float>& b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) largest = std::max<double>(largest, std::abs(a[i] - b[i]));
  return largest;
}

TEST(StockReaderTest, GoesOnFromWhereItWasReadTo) {
  const auto reader = *StockReader::Load(TestModelPath("qwen2-d64"), 1024, 1);
  const std::vector<int32_t> tokens = Tokens(700);  // more than a ubatch
  const std::span<const int32_t> all(tokens);
  ASSERT_TRUE(reader->Read(all.first(600), true).ok());
  const auto logits = *reader->Continue(all.subspan(600), 20);
  ASSERT_EQ(logits.size(), 80u);
  // Again from the same place, bit for bit.
  EXPECT_EQ(*reader->Continue(all.subspan(600), 20), logits);
  // The same text, divided elsewhere, and without flash attention.
  for (const bool flash_attention : {true, false}) {
    ASSERT_TRUE(reader->Read(all.first(10), flash_attention).ok());
    const auto others = *reader->Continue(all.subspan(10), 610);
    ASSERT_EQ(others.size(), 80u);
    for (size_t i = 0; i < 80; ++i) EXPECT_LT(LargestDifference(logits[i], others[i]), 0.05);
  }
  EXPECT_GT(LargestDifference(logits[0], logits[1]), 0.5);
}

TEST(StockReaderTest, FailuresAreTold) {
  const auto missing = StockReader::Load("/no/such.gguf", 64, 1);
  EXPECT_EQ(missing.status().code(), StatusCode::kBadFile);
  EXPECT_NE(missing.status().message().find("/no/such.gguf"), std::string::npos);
  const auto reader = *StockReader::Load(TestModelPath("qwen2-d64"), 256, 1);
  EXPECT_EQ(reader->Read(Tokens(400), true).code(), StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace rkv
