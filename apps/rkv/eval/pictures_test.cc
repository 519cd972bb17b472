#include "eval/pictures.h"

#include <gtest/gtest.h>

#include <array>
#include <map>
#include <set>

namespace rkv::app {
namespace {

bool SameQuestions(const PictureConversation& a, const PictureConversation& b) {
  if (a.questions.size() != b.questions.size()) return false;
  for (size_t i = 0; i < a.questions.size(); ++i) {
    if (a.questions[i].text != b.questions[i].text) return false;
    if (a.questions[i].answer != b.questions[i].answer) return false;
  }
  return true;
}

TEST(PicturesTest, SeedsDecideEverything) {
  const PictureConversation a = MakePictureConversation(5, 2);
  const PictureConversation b = MakePictureConversation(5, 2);
  const PictureConversation c = MakePictureConversation(6, 2);
  ASSERT_EQ(a.pictures.size(), 2u);
  EXPECT_TRUE(SameQuestions(a, b));
  EXPECT_EQ(a.pictures[0].pixels, b.pictures[0].pixels);
  EXPECT_EQ(PngBytes(a.pictures[1]), PngBytes(b.pictures[1]));
  EXPECT_FALSE(SameQuestions(a, c));
  EXPECT_NE(a.pictures[0].pixels, c.pictures[0].pixels);
  EXPECT_TRUE(PngBytes(a.pictures[0]).starts_with("\x89PNG"));
}

TEST(PicturesTest, QuestionsAreWhatTheModelWasTrainedFor) {
  const std::set<std::string> colors = {"red",    "green",  "blue", "black",
                                        "orange", "purple", "cyan", "pink"};
  std::map<std::string, int> kinds;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const PictureConversation made = MakePictureConversation(seed, 2);
    std::set<std::string> asked;
    std::set<char> tens;
    size_t n_records = 0;
    std::string kind(2, '?');
    for (const Question& question : made.questions) {
      EXPECT_TRUE(asked.insert(question.text).second) << question.text;
      const bool record = question.text.find(" value of ") != std::string::npos;
      ASSERT_TRUE(question.text.starts_with("page 1 ") || question.text.starts_with("page 2 "));
      kind[static_cast<size_t>(question.text[5] - '1')] = record ? 'd' : 's';
      if (record) {
        ASSERT_EQ(question.answer.size(), 2u);
        tens.insert(question.answer[0]);
        ++n_records;
      } else {
        EXPECT_TRUE(colors.contains(question.answer)) << question.answer;
      }
    }
    EXPECT_EQ(tens.size(), n_records);  // All different, so at most ten.
    EXPECT_GE(made.questions.size(), 9u);
    ++kinds[kind];
  }
  for (const char* kind : {"ss", "sd", "ds", "dd"}) EXPECT_GT(kinds[kind], 20) << kind;
}

TEST(PicturesTest, ColorsOfTheAnswersAreInTheScene) {
  const std::map<std::string, std::array<int, 3>> inks = {
      {"red", {220, 30, 30}},  {"green", {20, 150, 40}},  {"blue", {30, 60, 220}},
      {"black", {0, 0, 0}},    {"orange", {240, 140, 0}}, {"purple", {140, 30, 170}},
      {"cyan", {0, 170, 190}}, {"pink", {240, 90, 170}}};
  int n_scenes = 0;
  for (uint64_t seed = 0; seed < 40; ++seed) {
    const PictureConversation made = MakePictureConversation(seed, 1);
    if (!made.questions[0].text.starts_with("color of ")) continue;
    ++n_scenes;
    std::set<std::string> present;
    const std::vector<uint8_t>& pixels = made.pictures[0].pixels;
    for (size_t i = 0; i < pixels.size(); i += 3) {
      for (const auto& [name, ink] : inks) {
        if (pixels[i] == ink[0] && pixels[i + 1] == ink[1] && pixels[i + 2] == ink[2]) {
          present.insert(name);
        }
      }
    }
    std::set<std::string> answers;
    for (const Question& question : made.questions) answers.insert(question.answer);
    EXPECT_EQ(present, answers) << seed;
  }
  EXPECT_GT(n_scenes, 5);
}

}  // namespace
}  // namespace rkv::app
