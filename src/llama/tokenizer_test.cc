// The tokenizer against llama.cpp's, on vocabularies of each kind, and its limits.
#include "llama/tokenizer.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <random>

#include "support/changed_model.h"
#include "support/test_models.h"
#include "support/vocabulary.h"

namespace rkv {
namespace {

std::vector<llama_token> Stock(const llama_vocab* vocab, const std::string& text, bool add_special,
                               bool parse_special) {
  std::vector<llama_token> tokens(text.size() + 8);
  const int32_t n =
      llama_tokenize(vocab, text.data(), static_cast<int32_t>(text.size()), tokens.data(),
                     static_cast<int32_t>(tokens.size()), add_special, parse_special);
  EXPECT_GE(n, 0);
  tokens.resize(static_cast<size_t>(std::max(n, 0)));
  return tokens;
}

std::string Repeat(std::string_view text, size_t n) {
  std::string all;
  for (size_t i = 0; i < n; ++i) all += text;
  return all;
}

// The available vocabularies of each kind.
std::vector<std::string> Vocabularies() {
  std::vector<std::string> paths = {TestModelPath("qwen2-d64"), TestModelPath("llama-d64"),
                                    SourcePath("models/reference/reference-f16.gguf")};
  if (!SmolLm2Path().empty()) paths.push_back(SmolLm2Path());
  return paths;
}

std::vector<std::string> SpecialTexts(const llama_vocab* vocab) {
  std::vector<std::string> texts;
  for (llama_token token = 0; token < llama_vocab_n_tokens(vocab); ++token) {
    const int attributes = llama_vocab_get_attr(vocab, token);
    if ((attributes & (LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_USER_DEFINED)) != 0) {
      texts.emplace_back(llama_vocab_get_text(vocab, token));
    }
  }
  return texts;
}

// Words, white space, special tokens and pieces of these.
std::string RandomText(std::mt19937& random, const std::vector<std::string>& specials) {
  const std::vector<std::string> words = {"Hello", " world", "\n", "  ", "ö",  "日本",   "<", "|",
                                          ">",     "<|",     "42", ".",  " a", "im_end", "\t"};
  std::string text;
  for (size_t n = random() % 40; n > 0; --n) {
    const std::string& special = specials[random() % specials.size()];
    switch (random() % 4) {
      case 0:
        text += special;
        break;
      case 1:
        text += special.substr(0, random() % (special.size() + 1));
        break;
      default:
        text += words[random() % words.size()];
    }
  }
  return text;
}

TEST(TokenizerTest, MakesTheTokensThatLlamaMakes) {
  for (const std::string& path : Vocabularies()) {
    const auto model = LoadVocabulary(path);
    const llama_vocab* vocab = llama_model_get_vocab(model.get());
    const Tokenizer tokenizer(vocab);
    const std::vector<std::string> specials = SpecialTexts(vocab);
    ASSERT_FALSE(specials.empty()) << path;
    std::mt19937 random(1);
    for (int i = 0; i < 300; ++i) {
      const std::string text = RandomText(random, specials);
      const bool add_special = random() % 2 == 0;
      EXPECT_EQ(*tokenizer.Tokenize(text, add_special, 100000),
                Stock(vocab, text, add_special, true))
          << path << ": " << text;
      // Users' texts contain no control tokens, and keep their text.
      EXPECT_EQ(*tokenizer.Tokenize(tokenizer.BreakControlTokens(text, {}), false, 100000),
                Stock(vocab, text, false, false))
          << path << ": " << text;
    }
  }
}

TEST(TokenizerTest, TextsThatAreKeptStayTokens) {
  const auto model = LoadVocabulary(TestModelPath("qwen2-d64"));
  const Tokenizer tokenizer(llama_model_get_vocab(model.get()));
  const std::string end = "<|im_end|>";
  EXPECT_EQ(tokenizer.BreakControlTokens("a" + end, {end}), "a" + end);
  const std::string broken = tokenizer.BreakControlTokens("a" + end + end, {});
  const std::string cut = fmt::format("<{}|im_end|>", kTextBreak);
  EXPECT_EQ(broken, fmt::format("a{}{}", cut, cut));
}

TEST(TokenizerTest, ManySpecialTokensTakeLinearTime) {
  // In quadratic time this would take minutes.
  const auto model = LoadVocabulary(TestModelPath("qwen2-d64"));
  const Tokenizer tokenizer(llama_model_get_vocab(model.get()));
  constexpr size_t kTimes = 100000;
  const auto tokens = tokenizer.Tokenize(Repeat("<|im_end|>a", kTimes), false, 10 * kTimes);
  ASSERT_TRUE(tokens.ok());
  EXPECT_EQ(tokens->size(), 2 * kTimes);
}

TEST(TokenizerTest, TextsThatAreTooLongAreRefused) {
  for (const std::string& path : Vocabularies()) {
    const auto model = LoadVocabulary(path);
    const Tokenizer tokenizer(llama_model_get_vocab(model.get()));
    const std::string special = SpecialTexts(llama_model_get_vocab(model.get())).front();
    for (const std::string& text :
         {Repeat("one two three\n", 100000), Repeat(special, 300), Repeat("a", 1 << 20)}) {
      const auto tokens = tokenizer.Tokenize(text, false, 256);
      EXPECT_EQ(tokens.status().code(), StatusCode::kResourceExhausted) << path;
    }
    const auto line = tokenizer.Tokenize(std::string((1 << 20) + 1, 'a'), false, 1 << 24);
    EXPECT_EQ(line.status().code(), StatusCode::kResourceExhausted);
    EXPECT_NE(line.status().message().find("break it up"), std::string::npos);
  }
}

TEST(TokenizerTest, WhatJustFitsIsNotRefused) {
  for (const std::string& path : Vocabularies()) {
    const auto model = LoadVocabulary(path);
    const Tokenizer tokenizer(llama_model_get_vocab(model.get()));
    for (const std::string& text : {Repeat("one two three\n", 20000), Repeat(" ", 50000)}) {
      const auto tokens = tokenizer.Tokenize(text, false, 1 << 20);
      ASSERT_TRUE(tokens.ok()) << path;
      EXPECT_TRUE(tokenizer.Tokenize(text, false, tokens->size()).ok()) << path;
    }
  }
}

// llama.cpp has these pre-tokenizers as regular expressions; their library recurses for each
// character of a match.
TEST(TokenizerTest, LongRunsOfOneKindOfCharacter) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  constexpr size_t kBytes = 4000;  // Instrumented expressions take minutes for more.
#else
  constexpr size_t kBytes = 40000;  // The usual stack of 8 MiB ends at some 26,000.
#endif
  const std::string source =
      SmolLm2Path().empty() ? SourcePath("models/reference/reference-f16.gguf") : SmolLm2Path();
  for (const std::string pre : {"tekken", "gpt-4o", "deepseek-v3", "qwen35", "chatglm-bpe"}) {
    const auto model = LoadVocabulary(
        WriteChangedModel(source, "pre-" + pre + ".gguf", {{"tokenizer.ggml.pre", pre}}, false));
    ASSERT_NE(model, nullptr) << pre;
    const Tokenizer tokenizer(llama_model_get_vocab(model.get()));
    for (const std::string run : {"a", "A", " ", "\n", "=", "7", "ö", "語", "\n ", "a1"}) {
      const std::string text = Repeat(run, kBytes / run.size());
      EXPECT_TRUE(tokenizer.Tokenize(text, false, 1 << 20).ok()) << pre << ": " << run;
    }
  }
}

}  // namespace
}  // namespace rkv
