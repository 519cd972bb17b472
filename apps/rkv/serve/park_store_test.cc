#include "serve/park_store.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace rkv::app
