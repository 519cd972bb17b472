// The prompts that chats begin with are those of llama.cpp's own programs with --jinja.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <regex>

#include "base/file.h"
#include "retentivekv/engine.h"
#include "support/changed_model.h"
#include "support/process.h"
#include "support/test_models.h"

namespace rkv {
namespace {

std::string Template(const std::string& name) {
  return *ReadFile(SourcePath("tests/data/templates/" + name + ".jinja"), "template");
}

// What `llama-completion --verbose-prompt` tells of the tokens it reads.
std::vector<int32_t> CompletionTokens(const std::string& model, const std::string& question,
                                      const std::string& system) {
  std::vector<std::string> command = {RKV_LLAMA_DIR "/bin/llama-completion",
                                      "-m",
                                      model,
                                      "--jinja",
                                      "-p",
                                      question,
                                      "-n",
                                      "1",
                                      "-st",
                                      "--no-escape",
                                      "--no-warmup",
                                      "--verbose-prompt",
                                      "-c",
                                      "512"};
  if (!system.empty()) command.insert(command.end(), {"-sys", system});
  const ProcessResult result = RunProcess(command);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  std::vector<int32_t> tokens;
  const std::regex line(R"( +(\d+) -> ')");
  for (std::sregex_iterator at(result.err.begin(), result.err.end(), line), end; at != end; ++at) {
    tokens.push_back(std::stoi((*at)[1]));
  }
  return tokens;
}

std::vector<int32_t> OurTokens(const std::string& model, const std::string& question,
                               const std::string& system) {
  EngineOptions options;
  options.model = model;
  options.n_ctx = 512;
  const auto engine = Engine::Load(options);
  EXPECT_TRUE(engine.ok()) << engine.status().message();
  if (!engine.ok()) return {};
  const auto conversation = (*engine)->NewConversation({}, system);
  const Status added = (*conversation)->AddUserMessage(question);
  EXPECT_TRUE(added.ok()) << added.message();
  return (*conversation)->waiting_tokens();
}

TEST(ChatPromptTest, TokensAreThoseOfLlamaCompletion) {
  if (const char* why = WhyNoRealWeights()) GTEST_SKIP() << why;
  // It reads control tokens in what it is given as such, so there are none here.
  const std::string question = " Who are you,\n<|im_ and <b>what</b> is 日本語?  ";
  for (const std::string name :
       {"as shipped", "qwen2-vl", "gemma3", "granite-vision", "think", "llava"}) {
    const bool shipped = name == "as shipped";
    const std::string model =
        shipped ? SmolLm2Path()
                : WriteChangedModel(SmolLm2Path(), name + ".gguf",
                                    {{"tokenizer.chat_template", Template(name)}});
    for (const std::string system : {"", "You know ö."}) {
      const std::vector<int32_t> tokens = CompletionTokens(model, question, system);
      EXPECT_GT(tokens.size(), 20u);
      EXPECT_EQ(OurTokens(model, question, system), tokens) << name << " " << system;
    }
    if (!shipped) std::filesystem::remove(model);
  }
}

// With a picture: the text that llama-mtmd-cli makes of the template, as tokens of ours.
TEST(ChatPromptTest, WithAPictureItIsThatOfLlamaMtmdCli) {
  const std::string model = WriteChangedModel(TestModelPath("llava-d64"), "llava-prompt.gguf",
                                              {{"tokenizer.chat_template", Template("llava")}});
  const std::string mmproj = TestMmprojPath("llava-d64");
  const std::string picture = SourcePath("models/reference/sample.png");
  const ProcessResult result =
      RunProcess({RKV_LLAMA_DIR "/bin/llama-mtmd-cli", "-m", model, "--mmproj", mmproj, "--image",
                  picture, "-p", "What is it?", "--jinja", "-n", "1", "-v", "--no-warmup"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const std::string said = result.out + result.err;
  const std::string_view begin = "formatted_chat.prompt: ";
  const size_t at = said.find(begin);
  ASSERT_NE(at, std::string::npos) << said;
  const size_t end = said.find('\n', at);
  const std::string formatted = said.substr(at + begin.size(), end - at - begin.size());
  const size_t marker = formatted.find("<__media__>");
  ASSERT_NE(marker, std::string::npos) << formatted;

  EngineOptions options;
  options.model = model;
  options.mmproj = mmproj;
  const auto engine = Engine::Load(options);
  ASSERT_TRUE(engine.ok()) << engine.status().message();
  const auto conversation = (*engine)->NewConversation({});
  ASSERT_TRUE((*conversation)->AddUserMessage("What is it?", std::vector{picture}).ok());
  std::vector<int32_t> text;
  for (const int32_t token : (*conversation)->waiting_tokens()) {
    if (token >= 0) text.push_back(token);
  }
  std::vector<int32_t> expected = *(*engine)->Tokenize(formatted.substr(0, marker));
  const auto after =
      *(*engine)->Tokenize(formatted.substr(marker + std::string("<__media__>").size()));
  expected.insert(expected.end(), after.begin(), after.end());
  // The beginning-of-sequence token, and what surrounds a picture, are the model's.
  ASSERT_GE(text.size(), expected.size());
  EXPECT_EQ(std::vector(text.end() - static_cast<ptrdiff_t>(after.size()), text.end()), after);
  EXPECT_NE(std::search(text.begin(), text.end(), expected.begin(),
                        expected.end() - static_cast<ptrdiff_t>(after.size())),
            text.end());
}

}  // namespace
}  // namespace rkv
