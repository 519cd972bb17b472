#include "base/file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <filesystem>
#include <fstream>

namespace rkv {
namespace {

namespace fs = std::filesystem;

class FileTest : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(dir_); }
  void TearDown() override { fs::remove_all(dir_); }
  std::string Path(const std::string& name) const { return (dir_ / name).string(); }

  fs::path dir_ =
      fs::path(testing::TempDir()) / testing::UnitTest::GetInstance()->current_test_info()->name();
};

TEST_F(FileTest, WritesAndReadsBack) {
  const std::string bytes("\0binary\n", 8);
  ASSERT_TRUE(WriteFileAtomically(Path("f"), "old").ok());
  ASSERT_TRUE(WriteFileAtomically(Path("f"), bytes).ok());
  const Result<std::string> read = ReadFile(Path("f"), "test file");
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(*read, bytes);
  EXPECT_EQ(std::distance(fs::directory_iterator(dir_), {}), 1);  // No temporary is left.
}

TEST_F(FileTest, PiecesAreWrittenInTheirOrder) {
  int n = 0;
  std::string piece;
  const Status status = WriteFileAtomically(Path("f"), [&]() -> std::string_view {
    piece = n < 3 ? std::string(100000, static_cast<char>('a' + n)) : "";
    ++n;
    return piece;
  });
  ASSERT_TRUE(status.ok());
  EXPECT_EQ(*ReadFile(Path("f"), "file"),
            std::string(100000, 'a') + std::string(100000, 'b') + std::string(100000, 'c'));
}

TEST_F(FileTest, MissingFilesAndDirectoriesAreNamed) {
  const Result<std::string> missing = ReadFile(Path("nothing"), "picture");
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.status().code(), StatusCode::kBadFile);
  EXPECT_NE(missing.status().message().find("picture '"), std::string::npos);
  EXPECT_EQ(ReadFile(dir_.string(), "picture").status().code(), StatusCode::kBadFile);
  EXPECT_EQ(WriteFileAtomically(dir_.string(), "x").code(), StatusCode::kBadFile);
  EXPECT_EQ(WriteFileAtomically(Path("no/such/dir"), "x").code(), StatusCode::kBadFile);
}

TEST_F(FileTest, SizeLimitIsEnforced) {
  ASSERT_TRUE(WriteFileAtomically(Path("f"), std::string(1000, 'x')).ok());
  EXPECT_TRUE(ReadFile(Path("f"), "file", 1000).ok());
  EXPECT_FALSE(ReadFile(Path("f"), "file", 999).ok());
}

TEST_F(FileTest, AFullDiskKeepsTheOldFile) {
  ASSERT_TRUE(WriteFileAtomically(Path("f"), "precious").ok());
  rlimit old_limit{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old_limit), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{.rlim_cur = 4096, .rlim_max = old_limit.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const Status status = WriteFileAtomically(Path("f"), std::string(100000, 'x'));
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old_limit), 0);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(*ReadFile(Path("f"), "file"), "precious");
  EXPECT_EQ(std::distance(fs::directory_iterator(dir_), {}), 1);
}

TEST_F(FileTest, DevicesAreWrittenNotReplaced) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "this system has no /dev/full";
  EXPECT_EQ(WriteFileAtomically("/dev/full", "x").code(), StatusCode::kResourceExhausted);
  struct stat info {};
  ASSERT_EQ(::stat("/dev/full", &info), 0);
  EXPECT_TRUE(S_ISCHR(info.st_mode));
}

}  // namespace
}  // namespace rkv
