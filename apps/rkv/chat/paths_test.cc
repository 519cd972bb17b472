// Typed, dragged and completed paths, with real files in a temporary folder.
#include "chat/paths.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace rkv::app {
namespace {

namespace fs = std::filesystem;

class PathsTest : public testing::Test {
 protected:
  PathsTest() {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    ::setenv("HOME", folder_.c_str(), 1);
  }

  std::string Make(const std::string& name, const std::string& bytes = "") {
    std::ofstream(folder_ + name, std::ios::binary) << bytes;
    return folder_ + name;
  }
  std::vector<std::string> Candidates(const std::string& typed) {
    return CompletePath(typed).candidates;
  }

  const std::string folder_ = testing::TempDir() + "paths-" +
                              testing::UnitTest::GetInstance()->current_test_info()->name() + "/";
};

TEST_F(PathsTest, PathsAreTakenAsAShellWould) {
  const std::pair<std::string, std::string> cases[] = {
      {"a.png", "a.png"},
      {"a b.png", "a b.png"},
      {"\"a b.png\"", "a b.png"},
      {"'a b.png'", "a b.png"},
      {"a\\ b.png", "a b.png"},
      {"'it'\\''s.png'", "it's.png"},
      {"\"a\\\"b\\\\c\\d\"", "a\"b\\c\\d"},
      {"'a\\b'", "a\\b"},
      {"it's.png", "it's.png"},
      {"\"open", "\"open"},
      {"~", folder_},
      {"~/a b.png", folder_ + "/a b.png"},
      {"~/a\\ b.png", folder_ + "/a b.png"},
      {"'~/a.png'", "~/a.png"},
      {"~root/x", "/root/x"},
      {"~no-such-user/x", "~no-such-user/x"},
      {"file:///tmp/a%20b%C3%BC.png", "/tmp/a bü.png"},
      {"file://localhost/tmp/100%.png", "/tmp/100%.png"},
      {"file://elsewhere/tmp/a.png", "file://elsewhere/tmp/a.png"},
      {"日本 語.png", "日本 語.png"},
      {"\"\"", ""},
      {"\\", "\\"},
  };
  for (const auto& [typed, path] : cases) EXPECT_EQ(ResolvePath(typed), path) << typed;
}

TEST_F(PathsTest, AFileOfExactlyThatNameIsMeant) {
  for (const char* name : {"a\\ b", "\"quoted\"", "100%20", "~"}) {
    const std::string path = Make(name);
    EXPECT_EQ(ResolvePath(path), path);
  }
}

TEST_F(PathsTest, CompletionsAreThePathsOfFiles) {
  const std::string names[] = {"plain.png",   "with space.png",  "für 日本.png", "it's.png",
                               "\"q\".png",   "back\\slash.png", " leads.png",   "ends ",
                               "dollar$.png", "~tilde"};
  for (const std::string& name : names) Make(name);
  for (const std::string& name : names) {
    const std::string beginning = name.substr(0, name == "für 日本.png" ? 3 : 2);
    for (const std::string& typed :
         {folder_ + beginning, "\"" + folder_ + beginning, "'" + folder_ + beginning}) {
      if (beginning.find_first_of("\"'\\") != std::string::npos) continue;
      const Completion completion = CompletePath(typed);
      ASSERT_EQ(completion.candidates.size(), 1u) << typed;
      EXPECT_EQ(completion.n_replaced, typed.size());
      EXPECT_EQ(ResolvePath(completion.candidates[0]), folder_ + name) << typed;
    }
  }
  // Spaces need no quotes; a path with backslashes is completed with backslashes.
  EXPECT_EQ(Candidates(folder_ + "wi"), std::vector{folder_ + "with space.png"});
  EXPECT_EQ(Candidates(folder_ + "with\\ sp"), std::vector{folder_ + "with\\ space.png"});
  EXPECT_EQ(Candidates("\"" + folder_ + "wi"), std::vector{"\"" + folder_ + "with space.png\""});
}

TEST_F(PathsTest, FoldersGoOnAndHiddenFilesHide) {
  fs::create_directories(folder_ + "a folder");
  Make("a file");
  Make(".hidden");
  EXPECT_EQ(Candidates(folder_), (std::vector{folder_ + "a file", folder_ + "a folder/"}));
  EXPECT_EQ(Candidates("'" + folder_ + "a fo"), std::vector{"'" + folder_ + "a folder/"});
  EXPECT_EQ(Candidates(folder_ + ".h"), std::vector{folder_ + ".hidden"});
  EXPECT_EQ(Candidates("~/a fi"), std::vector<std::string>{"~/a file"});
  EXPECT_TRUE(Candidates(folder_ + "none/").empty());
  EXPECT_TRUE(Candidates("file:///t").empty());
}

TEST_F(PathsTest, APictureAloneIsFound) {
  const std::string picture = Make("ein bild ü.png", "\x89PNG\r\n\x1a\n and so on");
  const std::string text = Make("text.png", "not a picture");
  for (const std::string& line :
       {picture, "'" + picture + "'", "\"" + picture + "\"", std::string("~/ein\\ bild\\ ü.png"),
        "file://" + folder_ + "ein%20bild%20%C3%BC.png"}) {
    const auto found = PictureIn(line);
    ASSERT_TRUE(found.has_value()) << line;
    EXPECT_TRUE(fs::equivalent(*found, picture));
  }
  for (const std::string& line :
       {text, folder_, std::string(), picture + " what is it?", picture + "\n",
        std::string(5000, 'x'), std::string("/dev/zero")}) {
    EXPECT_FALSE(PictureIn(line).has_value()) << line;
  }
}

TEST(CompletionTest, TheCommonBeginningHasWholeCharacters) {
  EXPECT_EQ(CommonBeginning({"abc", "abd"}), "ab");
  EXPECT_EQ(CommonBeginning({"aé", "aè"}), "a");  // The characters share one of two bytes.
  EXPECT_EQ(CommonBeginning({"x"}), "x");
  EXPECT_EQ(CommonBeginning({"a", "b"}), "");
  EXPECT_EQ(CommonBeginning({}), "");
  EXPECT_EQ(CommonBeginning({"日", "日本"}), "日");
}

}  // namespace
}  // namespace rkv::app
