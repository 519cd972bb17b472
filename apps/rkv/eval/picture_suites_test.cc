#include "eval/picture_suites.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace rkv::app {
namespace {

// Questions q0, q1 ... about `n_images` pictures a.png, b.png ..., with answers a0, a1 ...
DataConversation Conversation(int n_images, int n_questions, uint64_t seed = 1) {
  DataConversation conversation{.images = {}, .questions = {}, .seed = seed};
  for (int i = 0; i < n_images; ++i) {
    conversation.images.push_back(std::string(1, static_cast<char>('a' + i)) + ".png");
  }
  for (int i = 0; i < n_questions; ++i) {
    const std::string number = std::to_string(i);
    conversation.questions.push_back(
        {.text = "q" + number, .answers = {"a" + number}, .family = "form"});
  }
  return conversation;
}

size_t CountMeasured(const Script& script) {
  return static_cast<size_t>(std::ranges::count(script.turns, true, &ScriptTurn::measured));
}

TEST(PictureSuitesTest, DeferredAsksAfterThePictures) {
  const auto regimes = DeferredScripts({Conversation(2, 20), Conversation(1, 3, 7)});
  ASSERT_EQ(regimes.size(), 2u);
  const Script& known = regimes[0].scripts[0];
  const Script& unknown = regimes[1].scripts[0];
  EXPECT_EQ(known.turns[0].files, (std::vector<std::string>{"a.png", "b.png"}));
  EXPECT_FALSE(known.turns[0].measured);
  EXPECT_EQ(known.turns[0].answers, std::vector<std::string>{"a0"});
  EXPECT_EQ(CountMeasured(known), 8u);
  EXPECT_EQ(unknown.turns[0].files.size(), 2u);
  EXPECT_TRUE(unknown.turns[0].text.empty());
  EXPECT_EQ(unknown.turns[1].text, "q0");
  EXPECT_EQ(CountMeasured(unknown), 8u);
  // A conversation with fewer questions asks all of them.
  EXPECT_EQ(CountMeasured(regimes[0].scripts[1]), 2u);
  EXPECT_EQ(CountMeasured(regimes[1].scripts[1]), 3u);
  EXPECT_EQ(regimes[0].scripts[1].seed, 7u);
}

TEST(PictureSuitesTest, PagesAreMessagesAndThenQuestionsCome) {
  const auto regimes = PagesScripts({Conversation(3, 20)});
  for (const size_t regime : {size_t{0}, size_t{1}}) {
    const Script& script = regimes[regime].scripts[0];
    ASSERT_EQ(script.turns.size(), 2 + regime + 8);
    for (size_t page = 0; page < 3; ++page) EXPECT_EQ(script.turns[page].files.size(), 1u);
    EXPECT_EQ(script.turns[2].text, regime == 0 ? "q0" : "");
    EXPECT_EQ(CountMeasured(script), 8u);
    EXPECT_EQ(script.turns.back().text, "q7");
  }
}

TEST(PictureSuitesTest, TurnsAreTwenty) {
  const auto regimes = TurnsScripts({Conversation(2, 12)});
  const Script& script = regimes[0].scripts[0];
  ASSERT_EQ(script.turns.size(), 20u);
  EXPECT_EQ(CountMeasured(script), 20u);
  EXPECT_EQ(script.turns[0].files.size(), 2u);
  EXPECT_TRUE(script.turns[1].files.empty());
  EXPECT_EQ(script.turns[12].text, "q0");
}

}  // namespace
}  // namespace rkv::app
