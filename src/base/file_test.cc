#include "base/file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

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

mode_t ModeOf(const std::string& path) {
  struct stat info {};
  EXPECT_EQ(::lstat(path.c_str(), &info), 0) << path;
  return info.st_mode & 07777;
}

// Sets the umask within a scope.
class Umask {
 public:
  explicit Umask(mode_t mask) : old_(::umask(mask)) {}
  ~Umask() { ::umask(old_); }

 private:
  mode_t old_;
};

TEST_F(FileTest, APrivateFileIsItsOwnersAloneWhateverTheUmaskSays) {
  const Umask open(0);
  ASSERT_TRUE(WriteFileAtomically(Path("new"), "x", Access::kPrivate).ok());
  EXPECT_EQ(ModeOf(Path("new")), 0600u);
  std::ofstream(Path("old")) << "x";
  ASSERT_EQ(::chmod(Path("old").c_str(), 0666), 0);
  // The file is also private while it is written.
  const Status status = WriteFileAtomically(
      Path("old"),
      [&, n = 0]() mutable -> std::string_view {
        for (const auto& file : fs::directory_iterator(dir_)) {
          if (file.path().extension() == ".tmp") {
            EXPECT_EQ(ModeOf(file.path()), 0600u);
          }
        }
        return n++ == 0 ? "secret" : "";
      },
      Access::kPrivate);
  ASSERT_TRUE(status.ok());
  EXPECT_EQ(ModeOf(Path("old")), 0600u);
}

TEST_F(FileTest, ASharedFileIsAsTheUmaskSaysOrAsTheOneThatItReplaces) {
  const Umask group(027);
  ASSERT_TRUE(WriteFileAtomically(Path("f"), "x").ok());
  EXPECT_EQ(ModeOf(Path("f")), 0640u);
  ASSERT_EQ(::chmod(Path("f").c_str(), 0600), 0);
  ASSERT_TRUE(WriteFileAtomically(Path("f"), "y").ok());
  EXPECT_EQ(ModeOf(Path("f")), 0600u);
}

TEST_F(FileTest, PipesWithoutAnotherEndAreNotWaitedFor) {
  ASSERT_EQ(::mkfifo(Path("pipe").c_str(), 0600), 0);
  const Result<std::string> read = ReadFile(Path("pipe"), "text");
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(*read, "");
  const Status written = WriteFileAtomically(Path("pipe"), "x");
  EXPECT_EQ(written.code(), StatusCode::kBadFile);
  EXPECT_NE(written.message().find("no process reads"), std::string::npos) << written.message();
  EXPECT_TRUE(fs::is_fifo(Path("pipe")));
  const Result<std::string> file =
      ReadFile(Path("pipe"), "saved", kMaxFileBytes, FileKind::kRegular);
  EXPECT_EQ(file.status().code(), StatusCode::kBadFile);
  EXPECT_NE(file.status().message().find("it is a pipe"), std::string::npos);
}

TEST_F(FileTest, APipeIsReadToItsEnd) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const std::string text(300000, 'x');  // More than a pipe holds.
  std::thread writer([&] {
    for (size_t at = 0; at < text.size(); at += 1000) {
      ASSERT_EQ(::write(ends[1], text.data() + at, 1000), 1000);
    }
    ::close(ends[1]);
  });
  // As a shell passes <(command).
  const Result<std::string> read = ReadFile("/dev/fd/" + std::to_string(ends[0]), "text");
  writer.join();
  ::close(ends[0]);
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_EQ(*read, text);
}

TEST_F(FileTest, DevicesSocketsAndLinksToThemAreNotRead) {
  fs::create_symlink("/dev/zero", Path("endless"));
  fs::create_symlink("/dev/zero-but-not-there", Path("dangling"));
  fs::create_symlink(Path("itself"), Path("itself"));
  const int socket = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  const std::string old = fs::current_path();
  fs::current_path(dir_);  // Names of sockets are short.
  std::strcpy(address.sun_path, "socket");
  ASSERT_EQ(::bind(socket, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  fs::current_path(old);
  for (const std::string& path :
       {std::string("/dev/zero"), std::string("/dev/null"), Path("endless"), Path("dangling"),
        Path("itself"), Path("socket")}) {
    const Result<std::string> read = ReadFile(path, "picture");
    ASSERT_FALSE(read.ok()) << path;
    EXPECT_EQ(read.status().code(), StatusCode::kBadFile);
    EXPECT_NE(read.status().message().find(path), std::string::npos) << read.status().message();
  }
  ::close(socket);
  EXPECT_NE(ReadFile(Path("endless"), "picture").status().message().find("device"),
            std::string::npos);
  // A link to a file is that file.
  ASSERT_TRUE(WriteFileAtomically(Path("f"), "bytes").ok());
  fs::create_symlink(Path("f"), Path("link"));
  EXPECT_EQ(*ReadFile(Path("link"), "picture", kMaxFileBytes, FileKind::kRegular), "bytes");
}

TEST_F(FileTest, WhatIsWrittenGoesThroughNoLink) {
  ASSERT_TRUE(WriteFileAtomically(Path("victim"), "precious").ok());
  fs::create_symlink(Path("victim"), Path("f"));
  // A predictable temporary name, from the process id.
  fs::create_symlink(Path("victim"), Path("f." + std::to_string(::getpid()) + ".tmp"));
  ASSERT_TRUE(WriteFileAtomically(Path("f"), "mine", Access::kPrivate).ok());
  EXPECT_EQ(*ReadFile(Path("victim"), "file"), "precious");
  EXPECT_EQ(*ReadFile(Path("f"), "file"), "mine");
  EXPECT_FALSE(fs::is_symlink(Path("f")));
}

}  // namespace
}  // namespace rkv
