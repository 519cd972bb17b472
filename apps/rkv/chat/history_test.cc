// The history of rkv chat across runs, at once and one after the other.
#include "chat/history.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace rkv::app {
namespace {

namespace fs = std::filesystem;

class HistoryTest : public testing::Test {
 protected:
  HistoryTest() { fs::remove_all(folder_); }

  const std::string folder_ = testing::TempDir() + "history-" +
                              testing::UnitTest::GetInstance()->current_test_info()->name();
  const std::string path_ = folder_ + "/rkv/history";
};

TEST_F(HistoryTest, EntriesAreTheSameInTheNextRun) {
  const std::vector<std::string> entries = {
      "Größe 日本語 😀", "two\nlines\tand a tab", "a\\n\\", "\r\\", "  spaces  ", "\xFF"};
  History history(path_);
  for (const std::string& entry : entries) history.Add(entry);
  EXPECT_EQ(history.entries(), entries);
  EXPECT_EQ(History(path_).entries(), entries);
}

TEST_F(HistoryTest, OnlyItsOwnerCanReadIt) {
  const mode_t before = ::umask(0);
  History(path_).Add("a secret");
  ::umask(before);
  struct stat info {};
  ASSERT_EQ(::stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  ASSERT_EQ(::stat((folder_ + "/rkv").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
}

TEST_F(HistoryTest, TwoRunsAtOnceKeepBoth) {
  History first(path_);
  History second(path_);
  first.Add("a");
  second.Add("b");
  first.Add("c");
  EXPECT_EQ(History(path_).entries(), (std::vector<std::string>{"a", "b", "c"}));
}

TEST_F(HistoryTest, NothingIsKeptTwiceInARowOrEmpty) {
  History history(path_);
  for (const char* entry : {"a", "a", "", "b", "a"}) history.Add(entry);
  EXPECT_EQ(history.entries(), (std::vector<std::string>{"a", "b", "a"}));
}

TEST_F(HistoryTest, TheFileIsBounded) {
  History history(path_);
  history.Add(std::string(History::kMaxEntryBytes + 1, 'x'));
  EXPECT_FALSE(fs::exists(path_));
  for (size_t i = 0; i < History::kMaxEntries + 100; ++i) history.Add(std::to_string(i));
  const History next(path_);
  ASSERT_EQ(next.entries().size(), History::kMaxEntries);
  EXPECT_EQ(next.entries().front(), "100");
  EXPECT_EQ(History(path_).entries(), next.entries());
  std::ifstream file(path_);
  EXPECT_EQ(std::count(std::istreambuf_iterator<char>(file), {}, '\n'),
            static_cast<ptrdiff_t>(History::kMaxEntries));
}

TEST_F(HistoryTest, WhatCannotBeAFileIsNoFault) {
  fs::create_directories(folder_ + "/folder");
  ASSERT_EQ(::mkfifo((folder_ + "/pipe").c_str(), 0600), 0);
  for (const std::string& path :
       {std::string(), std::string("/dev/null/rkv/history"), folder_ + "/folder", folder_ + "/pipe",
        std::string("/dev/full"), std::string("/proc/self/none/history")}) {
    History history(path);
    history.Add("a");
    EXPECT_EQ(history.entries(), std::vector<std::string>{"a"}) << path;
  }
}

TEST_F(HistoryTest, ItsPlaceIsThatOfStates) {
  ::setenv("XDG_STATE_HOME", "/x/state", 1);
  ::setenv("HOME", "/home/me", 1);
  EXPECT_EQ(HistoryPath(), "/x/state/rkv/history");
  ::setenv("XDG_STATE_HOME", "relative", 1);
  EXPECT_EQ(HistoryPath(), "/home/me/.local/state/rkv/history");
  ::unsetenv("XDG_STATE_HOME");
  EXPECT_EQ(HistoryPath(), "/home/me/.local/state/rkv/history");
  ::unsetenv("HOME");
  EXPECT_EQ(HistoryPath(), "");
}

}  // namespace
}  // namespace rkv::app
