// Chat templates: the models' own, llama.cpp's, and templates that fail.
#include "llama/chat_template.h"

#include <gtest/gtest.h>

#include <ctime>

#include "base/file.h"
#include "support/changed_model.h"
#include "support/test_models.h"
#include "support/vocabulary.h"

namespace rkv {
namespace {

const std::vector<ChatMessage> kMessages = {
    {"system", "Be brief."}, {"user", "Hello"}, {"assistant", "Hi"}, {"user", "Bye"}};

// A vocabulary with another template, or with none.
LlamaPtr<llama_model> WithTemplate(const std::string& jinja) {
  return LoadVocabulary(WriteChangedModel(TestModelPath("qwen2-d64"), "template.gguf",
                                          {{"tokenizer.chat_template", jinja}}, false));
}

std::string Named(const std::string& name) {
  return *ReadFile(SourcePath("tests/data/templates/" + name + ".jinja"), "template");
}

std::string Render(const llama_model* model, ChatTemplateOptions options,
                   const std::vector<ChatMessage>& messages = kMessages) {
  const auto chat = ChatTemplate::Create(model, options);
  EXPECT_TRUE(chat.ok()) << chat.status().message();
  if (!chat.ok()) return "";
  const auto text = chat->Render(messages, true);
  EXPECT_TRUE(text.ok()) << text.status().message();
  return text.ok() ? *text : "";
}

TEST(ChatTemplateTest, RunsTheModelsOwnTemplate) {
  const auto model = LoadVocabulary(TestModelPath("qwen2-d64"));
  EXPECT_EQ(Render(model.get(), {}),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
            "<|im_start|>assistant\nHi<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
            "<|im_start|>assistant\n");
}

TEST(ChatTemplateTest, TemplatesThatOnlyMarkTheEndOfAnswers) {
  const auto model = LoadVocabulary(SourcePath("models/reference/tiny-vlm-f16.gguf"));
  EXPECT_EQ(Render(model.get(), {}), "Be brief.HelloHi<|im_end|>Bye");
}

TEST(ChatTemplateTest, WhatTheProgramOfATemplateAdds) {
  const auto model = LoadVocabulary(TestModelPath("qwen2-d64"));
  const std::vector<ChatMessage> user = {{"user", " Hello "}};
  EXPECT_EQ(Render(model.get(), {.choice = Named("qwen2-vl")}, user),
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n Hello "
            "<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_TRUE(Render(model.get(), {.choice = Named("gemma3")}, {{"system", "A."}, {"user", " B "}})
                  .ends_with("<start_of_turn>user\nA.\n\nB<end_of_turn>\n<start_of_turn>model\n"));
  // A date.
  char month[64] = {};
  const std::time_t now = std::time(nullptr);
  std::strftime(month, sizeof(month), "%B %Y", std::localtime(&now));
  EXPECT_NE(Render(model.get(), {.choice = Named("granite-vision")}, user).find(month),
            std::string::npos);
}

TEST(ChatTemplateTest, SwitchesOfThinking) {
  const auto model = LoadVocabulary(TestModelPath("qwen2-d64"));
  const std::vector<ChatMessage> user = {{"user", "Hello"}};
  const std::string jinja = Named("think");
  EXPECT_TRUE(Render(model.get(), {.choice = jinja}, user).ends_with("assistant\n<think>\n"));
  const std::string closed = "assistant\n<think>\n\n</think>\n\n";
  EXPECT_TRUE(
      Render(model.get(), {.choice = jinja, .enable_thinking = false}, user).ends_with(closed));
  EXPECT_TRUE(Render(model.get(), {.choice = jinja, .kwargs = {{"enable_thinking", "false"}}}, user)
                  .ends_with(closed));

  const auto on = ChatTemplate::Create(model.get(), {.choice = jinja});
  ASSERT_TRUE(on.ok());
  EXPECT_EQ(on->reasoning().start, "<think>");
  EXPECT_EQ(on->reasoning().end, std::vector<std::string>{"</think>"});
  EXPECT_TRUE(on->reasoning().starts_open);
  const auto off = ChatTemplate::Create(model.get(), {.choice = jinja, .enable_thinking = false});
  ASSERT_TRUE(off.ok());
  EXPECT_FALSE(off->reasoning().starts_open);
  const auto kept = ChatTemplate::Create(model.get(), {.choice = jinja, .split_reasoning = false});
  ASSERT_TRUE(kept.ok());
  EXPECT_EQ(kept->reasoning().start, "");
  const auto none = ChatTemplate::Create(model.get(), {});
  ASSERT_TRUE(none.ok());
  EXPECT_EQ(none->reasoning().start, "");
}

TEST(ChatTemplateTest, NamesAndNone) {
  const auto model = LoadVocabulary(TestModelPath("qwen2-d64"));
  EXPECT_EQ(Render(model.get(), {.choice = "none"}), "Be brief.HelloHiBye");
  EXPECT_NE(Render(model.get(), {.choice = "gemma"}).find("<start_of_turn>model"),
            std::string::npos);
  const auto unknown = ChatTemplate::Create(model.get(), {.choice = "no-such"});
  EXPECT_EQ(unknown.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(unknown.status().message().find("chatml"), std::string::npos);
}

TEST(ChatTemplateTest, AModelWithoutOneIsRefusedWithTheRemedy) {
  const auto model = WithTemplate("");
  ASSERT_NE(model, nullptr);
  const auto chat = ChatTemplate::Create(model.get(), {});
  EXPECT_EQ(chat.status().code(), StatusCode::kUnsupported);
  EXPECT_NE(chat.status().message().find("--chat-template"), std::string::npos);
  EXPECT_EQ(Render(model.get(), {.choice = "none"}), "Be brief.HelloHiBye");
}

TEST(ChatTemplateTest, TemplatesThatCannotRunAreErrors) {
  for (const std::string jinja :
       {"{% for m in messages %}{{ m.content }}", "{{ nothing(1) }}", "{{ unclosed",
        "{% if %}x{% endif %}", "{{ raise_exception('never') }}"}) {
    const auto model = WithTemplate(jinja);
    const auto chat = ChatTemplate::Create(model.get(), {});
    EXPECT_EQ(chat.status().code(), StatusCode::kBadFile) << jinja;
    EXPECT_NE(chat.status().message().find("--chat-template"), std::string::npos) << jinja;
  }
}

TEST(ChatTemplateTest, DeepTemplatesEndNoProcess) {
  const auto model = LoadVocabulary(TestModelPath("qwen2-d64"));
  const auto repeat = [](const std::string& text, size_t n) {
    std::string all;
    for (size_t i = 0; i < n; ++i) all += text;
    return all;
  };
  constexpr size_t kTimes = 10000;
  for (const std::string& jinja :
       {"{{ " + repeat("(", kTimes) + "1" + repeat(")", kTimes) + " }}",
        "{{ " + repeat("not ", kTimes) + "1 }}", "{{ " + repeat("-", kTimes) + "1 }}",
        "{{ 1 " + repeat("if 1 else 1 ", kTimes) + " }}", "{{ 1" + repeat("+1", kTimes) + " }}",
        repeat("{% if 1 %}", kTimes / 2), "{{ x" + repeat(".x", kTimes) + " }}",
        repeat("{% for i in x %}", 4000) + repeat("{% endfor %}", 4000)}) {
    (void)ChatTemplate::Create(model.get(), {.choice = jinja});
  }
}

TEST(ChatTemplateTest, MessagesThatATemplateRefuses) {
  const auto model = LoadVocabulary(TestModelPath("qwen2-d64"));
  const auto chat = ChatTemplate::Create(model.get(), {.choice = Named("gemma3")});
  ASSERT_TRUE(chat.ok());
  const std::vector<ChatMessage> twice = {{"user", "a"}, {"user", "b"}};
  const auto text = chat->Render(twice, true);
  EXPECT_EQ(text.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(text.status().message().find("must alternate"), std::string::npos)
      << text.status().message();
}

}  // namespace
}  // namespace rkv
