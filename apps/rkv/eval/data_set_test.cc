#include "eval/data_set.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace rkv::app {
namespace {

namespace fs = std::filesystem;

class DataSetTest : public testing::Test {
 protected:
  DataSetTest() : folder_(fs::path(testing::TempDir()) / "data_set") {
    fs::remove_all(folder_);
    fs::create_directories(folder_ / "pictures");
    for (const char* name : {"a.png", "b.png"}) std::ofstream(folder_ / "pictures" / name) << "png";
  }
  std::string Write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name) << text;
    return (folder_ / name).string();
  }

  fs::path folder_;
};

TEST_F(DataSetTest, EveryFormOfQuestionsIsRead) {
  const std::string path = Write("questions.jsonl", R"(
{"questionId": 7, "image": "pictures/a.png", "question": "total?", "answers": ["5", "five"]}
{"image": "pictures/a.png", "question": "date?", "answer": "May", "family": "date"}
{"images": ["pictures/a.png", "pictures/b.png"], "questions": ["x?", "y?"], "answers": ["1", ["2", "two"]]}
{"images": ["pictures/b.png"], "family": "z", "turns": [{"question": "z?", "answer": "3"}]}
)");
  const auto read = ReadDataSet(path);
  ASSERT_TRUE(read.ok()) << read.status().message();
  ASSERT_EQ(read->size(), 3u);
  const DataConversation& first = (*read)[0];  // Two lines about one picture.
  EXPECT_EQ(first.images, std::vector<std::string>{(folder_ / "pictures/a.png").string()});
  ASSERT_EQ(first.questions.size(), 2u);
  EXPECT_EQ(first.questions[0].answers, (std::vector<std::string>{"5", "five"}));
  EXPECT_EQ(first.questions[1].family, "date");
  EXPECT_EQ((*read)[1].images.size(), 2u);
  EXPECT_EQ((*read)[1].questions[1].answers, (std::vector<std::string>{"2", "two"}));
  EXPECT_EQ((*read)[2].questions[0].family, "z");
  // The folder gives the same conversations.
  EXPECT_EQ(ReadDataSet(folder_.string())->size(), 3u);
}

TEST_F(DataSetTest, ErrorsNameTheLine) {
  const std::string good = R"({"image": "pictures/a.png", "question": "q", "answer": "a"})";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"{", "not a JSON object"},
      {"[1]", "not a JSON object"},
      {R"({"question": "q", "answer": "a"})", "\"image\" is missing"},
      {R"({"image": "c.png", "question": "q", "answer": "a"})", "no picture"},
      {R"({"image": 3, "question": "q", "answer": "a"})", "neither a string nor a list"},
      {R"({"image": "pictures/a.png", "answer": "a"})", "\"question\" is missing"},
      {R"({"image": "pictures/a.png", "question": "q"})", "\"answer\" is missing"},
      {R"({"image": "pictures/a.png", "question": "q", "answers": []})", "neither"},
      {R"({"image": "pictures/a.png", "question": "q", "answers": [1]})", "not a string"},
      {R"({"image": "pictures/a.png", "questions": [], "answers": []})", "not a list"},
      {R"({"image": "pictures/a.png", "questions": ["q", "r"], "answers": ["a"]})",
       "a list of 2 answers"},
      {R"({"image": "pictures/a.png", "questions": [3]})", "not a question"},
      {R"({"image": "pictures/a.png", "question": "q", "answer": "a", "family": 1})", "family"},
  };
  for (const auto& [line, says] : cases) {
    const auto read = ReadDataSet(Write("bad.jsonl", good + "\n\n" + line + "\n"));
    ASSERT_EQ(read.status().code(), StatusCode::kBadFile) << line;
    EXPECT_NE(read.status().message().find("bad.jsonl:3: "), std::string::npos)
        << read.status().message();
    EXPECT_NE(read.status().message().find(says), std::string::npos) << read.status().message();
  }
  EXPECT_FALSE(ReadDataSet(Write("empty.jsonl", "\n")).ok());
  EXPECT_FALSE(ReadDataSet((folder_ / "none.jsonl").string()).ok());
  EXPECT_FALSE(ReadDataSet((folder_ / "pictures").string()).ok());
}

TEST_F(DataSetTest, PicturesComeWithTheFirstQuestionOrBefore) {
  const auto regimes =
      DataScripts({{.images = {"a.png"},
                    .questions = {{.text = "q", .answers = {"1"}, .family = ""},
                                  {.text = "r", .answers = {"2"}, .family = ""}}}});
  ASSERT_EQ(regimes.size(), 2u);
  const Script& known = regimes[0].scripts[0];
  const Script& unknown = regimes[1].scripts[0];
  ASSERT_EQ(known.turns.size(), 2u);
  EXPECT_EQ(known.turns[0].files.size(), 1u);
  EXPECT_TRUE(known.turns[0].measured);
  ASSERT_EQ(unknown.turns.size(), 3u);
  EXPECT_EQ(unknown.turns[0].files.size(), 1u);
  EXPECT_FALSE(unknown.turns[0].measured);
  EXPECT_TRUE(unknown.turns[1].files.empty());
}

}  // namespace
}  // namespace rkv::app
