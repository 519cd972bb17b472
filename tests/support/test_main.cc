// The main program of every test program. Each run has a folder of its own for temporary files, so
// that tests can run beside each other whatever they call their files.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>

namespace {

// testing::TempDir() is what TEST_TMPDIR says. It is set already in the processes that death tests
// start.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    if (std::getenv("TEST_TMPDIR") != nullptr) return;
    std::string path = (std::filesystem::temp_directory_path() / "rkv-test-XXXXXX").string();
    if (::mkdtemp(path.data()) == nullptr) return;
    path_ = path;
    owner_ = ::getpid();
    ::setenv("TEST_TMPDIR", path.c_str(), 1);
  }
  // A process that a test forked leaves it to the one that made it.
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!path_.empty() && owner_ == ::getpid()) std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

 private:
  std::string path_;
  pid_t owner_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  const TemporaryFolder folder;
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
