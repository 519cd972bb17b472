#include "llama/chat_template.h"

#include <gtest/gtest.h>

#include "llama/log.h"
#include "llama/model.h"
#include "support/test_models.h"

namespace rkv {
namespace {

const std::vector<ChatMessage> kMessages = {
    {"system", "Be brief."}, {"user", "Hello"}, {"assistant", "Hi"}, {"user", "Bye"}};

LlamaPtr<llama_model> LoadVocabulary(const std::string& path) {
  CaptureLlamaLogs();
  llama_model_params params = llama_model_default_params();
  params.vocab_only = true;
  return LlamaPtr<llama_model>(llama_model_load_from_file(path.c_str(), params));
}

TEST(ChatTemplateTest, RecognisesTheModelsOwnTemplate) {
  const auto model = LoadVocabulary(TestModelPath("qwen2-d64"));
  const auto chat = ChatTemplate::Create(model.get(), "");
  ASSERT_TRUE(chat.ok());
  EXPECT_EQ(chat->Render(kMessages, true),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
            "<|im_start|>assistant\nHi<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
            "<|im_start|>assistant\n");
}

TEST(ChatTemplateTest, TemplatesThatOnlyMarkTheEndOfAnswers) {
  const auto model = LoadVocabulary(SourcePath("models/reference/tiny-vlm-f16.gguf"));
  const auto chat = ChatTemplate::Create(model.get(), "");
  ASSERT_TRUE(chat.ok());
  EXPECT_EQ(chat->Render(kMessages, true), "Be brief.HelloHi<|im_end|>Bye");
}

TEST(ChatTemplateTest, NamesAndNone) {
  const auto model = LoadVocabulary(TestModelPath("qwen2-d64"));
  EXPECT_EQ(ChatTemplate::Create(model.get(), "none")->Render(kMessages, true),
            "Be brief.HelloHiBye");
  const std::string gemma = ChatTemplate::Create(model.get(), "gemma")->Render(kMessages, true);
  EXPECT_NE(gemma.find("<start_of_turn>model"), std::string::npos);
  EXPECT_EQ(ChatTemplate::Create(model.get(), "no-such").status().code(),
            StatusCode::kInvalidArgument);
}

TEST(ChatTemplateTest, EndMarkerOnlyIsStrict) {
  const auto marker = [](std::string_view jinja) { return ChatTemplate::EndMarkerOnly(jinja); };
  EXPECT_EQ(marker("{% for m in messages %}{{ m.content }}{% endfor %}"), "");
  EXPECT_EQ(marker("{%for m in messages%}{{m.content}}{%if m.role == 'assistant'%}</s>{%endif%}"
                   "{%endfor%}"),
            "</s>");
  // Text in other places, or put out by expressions, means a template that does more.
  EXPECT_EQ(marker("{% for m in messages %}USER: {{ m.content }}{% endfor %}"), std::nullopt);
  EXPECT_EQ(marker("{% for m in messages %}{{ 'USER: ' + m.content }}{% endfor %}"), std::nullopt);
  EXPECT_EQ(marker("{% if m.role == 'user' %}<u>{% endif %}"), std::nullopt);
  EXPECT_EQ(marker("{{ unclosed"), std::nullopt);
  EXPECT_EQ(marker("{ braces }"), std::nullopt);
}

}  // namespace
}  // namespace rkv
