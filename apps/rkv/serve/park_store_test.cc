// The folder of parked conversations: entries, limits, and the privacy of its files.
#include "serve/park_store.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>

namespace rkv::app {
namespace {

namespace fs = std::filesystem;

fs::path Folder() {
  const auto* info = testing::UnitTest::GetInstance()->current_test_info();
  const fs::path folder = fs::path(testing::TempDir()) / ("park-" + std::string(info->name()));
  fs::remove_all(folder);
  return folder;
}

ParkStore::Entry MakeEntry(char digit, uint64_t tokens = 12) {
  return {.key = std::string(64, digit),
          .conversation_id = std::string(32, digit),
          .tokens = tokens,
          .held_bytes = 3456};
}

std::function<Status(const std::string&)> Writes(const std::string& content) {
  return [content](const std::string& path) {
    std::ofstream(path, std::ios::binary) << content;
    return OkStatus();
  };
}

TEST(ParkStoreTest, WhatIsPutIsFoundAgainByAnotherStore) {
  const fs::path folder = Folder();
  ParkStore store = *ParkStore::Open(folder, 0);
  ASSERT_TRUE(store.Put(MakeEntry('a'), Writes("first")).ok());
  ParkStore other = *ParkStore::Open(folder, 0);
  ASSERT_TRUE(store.Put(MakeEntry('b'), Writes("second")).ok());
  for (const char key : {'a', 'b'}) {
    const auto found = other.Find(std::string(64, key));
    ASSERT_TRUE(found.has_value()) << key;
    EXPECT_EQ(found->tokens, 12u);
    EXPECT_EQ(found->held_bytes, 3456u);
    EXPECT_TRUE(fs::exists(other.Path(*found)));
  }
  store.Remove(std::string(64, 'a'));
  EXPECT_FALSE(store.Find(std::string(64, 'a')).has_value());
  EXPECT_FALSE(other.Find(std::string(64, 'a')).has_value());
  EXPECT_EQ(other.entries().size(), 1u);
}

TEST(ParkStoreTest, AFailedWriteLeavesWhatWas) {
  ParkStore store = *ParkStore::Open(Folder(), 0);
  ASSERT_TRUE(store.Put(MakeEntry('a'), Writes("good")).ok());
  const auto full = [](const std::string&) { return ResourceExhausted("disk full"); };
  EXPECT_EQ(store.Put(MakeEntry('a', 99), full).code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(store.Find(std::string(64, 'a'))->tokens, 12u);
}

TEST(ParkStoreTest, ALaterStateReplacesTheOneOfTheSameKey) {
  ParkStore store = *ParkStore::Open(Folder(), 0);
  ASSERT_TRUE(store.Put(MakeEntry('a', 1), Writes("old")).ok());
  const std::string old = store.Path(*store.Find(std::string(64, 'a')));
  ASSERT_TRUE(store.Put(MakeEntry('a', 2), Writes("new")).ok());
  EXPECT_FALSE(fs::exists(old));
  EXPECT_EQ(store.entries().size(), 1u);
}

TEST(ParkStoreTest, TheOldestFilesMakeWay) {
  const fs::path folder = Folder();
  ParkStore store = *ParkStore::Open(folder, 250);
  for (const char key : {'a', 'b', 'c'}) {
    ASSERT_TRUE(store.Put(MakeEntry(key), Writes(std::string(100, key))).ok());
    fs::last_write_time(store.Path(MakeEntry(key)),
                        fs::file_time_type::clock::now() - std::chrono::hours('z' - key));
  }
  ASSERT_TRUE(store.Put(MakeEntry('d'), Writes(std::string(100, 'd'))).ok());
  EXPECT_EQ(store.entries().size(), 2u);
  EXPECT_TRUE(store.Find(std::string(64, 'c')).has_value());
  EXPECT_TRUE(store.Find(std::string(64, 'd')).has_value());
}

TEST(ParkStoreTest, OnlyItsOwnFilesCount) {
  const fs::path folder = Folder();
  fs::create_directories(folder);
  const std::string good = ParkStore::Name(MakeEntry('a'));
  for (const std::string& name : {std::string("notes.txt"), good + ".123.tmp", "x" + good,
                                  std::string(64, 'b') + "-1-2.rkvconv"}) {
    std::ofstream(folder / name) << "x";
  }
  const std::string stale = folder / (good + ".9.tmp");
  std::ofstream(stale) << "x";
  fs::last_write_time(stale, fs::file_time_type::clock::now() - std::chrono::hours(2));
  ParkStore store = *ParkStore::Open(folder, 0);
  EXPECT_TRUE(store.entries().empty());
  EXPECT_FALSE(fs::exists(stale));
  EXPECT_TRUE(fs::exists(folder / (good + ".123.tmp")));
  EXPECT_TRUE(fs::exists(folder / "notes.txt"));
  for (const char* name : {"../../etc/passwd", "", "-", "a/b.rkvconv"}) {
    EXPECT_FALSE(ParkStore::ParseName(name).has_value()) << name;
  }
}

TEST(ParkStoreTest, AFolderThatCannotBeIsAnError) {
  const auto store = ParkStore::Open("/proc/no/such", 0);
  EXPECT_EQ(store.status().code(), StatusCode::kBadFile);
  EXPECT_NE(store.status().message().find("/proc/no/such"), std::string::npos);
}

mode_t ModeOf(const fs::path& path) {
  struct stat info {};
  EXPECT_EQ(::stat(path.c_str(), &info), 0) << path;
  return info.st_mode & 07777;
}

TEST(ParkStoreTest, TheFolderAndWhatIsParkedAreTheOwnersAlone) {
  const mode_t old = ::umask(0);
  const fs::path folder = Folder();
  (void)*ParkStore::Open(folder / "deep" / "er", 0);
  EXPECT_EQ(ModeOf(folder / "deep" / "er"), 0700u);
  // Files of an earlier version, readable by all users.
  fs::create_directories(folder / "old");
  const std::string name = ParkStore::Name(MakeEntry('a'));
  for (const std::string& file : {name, name + ".7.tmp"}) {
    std::ofstream(folder / "old" / file) << "x";
    ASSERT_EQ(ModeOf(folder / "old" / file), 0666u);
  }
  ParkStore store = *ParkStore::Open(folder / "old", 0);
  EXPECT_EQ(store.entries().size(), 1u);
  EXPECT_EQ(ModeOf(folder / "old"), 0700u);
  EXPECT_EQ(ModeOf(folder / "old" / name), 0600u);
  EXPECT_EQ(ModeOf(folder / "old" / (name + ".7.tmp")), 0600u);
  // A folder with other files stays unchanged, and is refused if other users can write to it.
  fs::create_directories(folder / "shared");
  std::ofstream(folder / "shared" / "notes.txt") << "x";
  const auto shared = ParkStore::Open(folder / "shared", 0);
  ::umask(old);
  EXPECT_EQ(shared.status().code(), StatusCode::kBadFile);
  EXPECT_NE(shared.status().message().find("other users can write"), std::string::npos);
  EXPECT_EQ(ModeOf(folder / "shared"), 0777u);
  fs::permissions(folder / "shared", fs::perms(0755));
  EXPECT_TRUE(ParkStore::Open(folder / "shared", 0).ok());
  EXPECT_EQ(ModeOf(folder / "shared"), 0755u);
}

TEST(ParkStoreTest, OnlyRegularFilesOfTheFolderAreParkedConversations) {
  const fs::path folder = Folder();
  fs::create_directories(folder);
  std::ofstream(folder / "elsewhere") << "precious";
  const auto path = [&](char key) { return folder / ParkStore::Name(MakeEntry(key)); };
  ASSERT_EQ(::mkfifo(path('a').c_str(), 0600), 0);
  fs::create_symlink("/dev/zero", path('b'));
  fs::create_symlink(folder / "elsewhere", path('c'));
  fs::create_symlink(path('d'), path('d'));
  fs::create_directory(path('e'));
  ParkStore store = *ParkStore::Open(folder, 0);
  EXPECT_TRUE(store.entries().empty());
  for (const char key : {'a', 'b', 'c', 'd', 'e'}) {
    EXPECT_FALSE(store.Find(std::string(64, key)).has_value()) << key;
  }
  // Parked files replace them, and nothing is written through them.
  for (const char key : {'a', 'b', 'c', 'd', 'e'}) {
    ASSERT_TRUE(store.Put(MakeEntry(key), Writes("said")).ok()) << key;
    EXPECT_TRUE(fs::is_regular_file(fs::symlink_status(path(key)))) << key;
  }
  std::string text;
  std::ifstream(folder / "elsewhere") >> text;
  EXPECT_EQ(text, "precious");
  // A file that is later replaced by another kind is not found any more.
  fs::remove(path('a'));
  ASSERT_EQ(::mkfifo(path('a').c_str(), 0600), 0);
  EXPECT_FALSE(store.Find(std::string(64, 'a')).has_value());
}

}  // namespace
}  // namespace rkv::app
