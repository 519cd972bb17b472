#include "base/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

namespace rkv {

namespace {

// Closes a POSIX descriptor on scope exit.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int get() const { return fd_; }
  int Close() {
    const int rc = ::close(fd_);
    fd_ = -1;
    return rc;
  }

 private:
  int fd_;
};

Status WriteError(const std::string& path, int error) {
  const std::string message = fmt::format("cannot write '{}': {}", path, std::strerror(error));
  const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
  return full ? ResourceExhausted(message) : BadFile(message);
}

// 0, or the errno of the first failure.
int WriteAll(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return 0;
}

int WriteNewFile(const std::string& path, int flags,
                 const std::function<std::string_view()>& next) {
  Descriptor file(::open(path.c_str(), O_WRONLY | O_CLOEXEC | flags, 0644));
  if (file.get() < 0) return errno;
  for (std::string_view piece = next(); !piece.empty(); piece = next()) {
    if (const int error = WriteAll(file.get(), piece); error != 0) return error;
  }
  // Devices and pipes cannot be synced; that is not an error of theirs.
  if (::fsync(file.get()) != 0 && errno != EINVAL && errno != EROFS) return errno;
  return file.Close() == 0 ? 0 : errno;
}

}  // namespace

Result<std::string> ReadFile(const std::string& path, std::string_view what, size_t max_bytes) {
  Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat info {};
  if (file.get() < 0 || ::fstat(file.get(), &info) != 0) {
    return BadFile(fmt::format("cannot read {} '{}': {}", what, path, std::strerror(errno)));
  }
  if (S_ISDIR(info.st_mode)) {
    return BadFile(fmt::format("cannot read {} '{}': it is a directory", what, path));
  }
  const auto too_large = [&] {
    return BadFile(
        fmt::format("{} '{}' is larger than the {} bytes allowed", what, path, max_bytes));
  };
  std::string bytes;
  if (info.st_size > 0) {
    if (static_cast<size_t>(info.st_size) > max_bytes) return too_large();
    bytes.reserve(static_cast<size_t>(info.st_size));
  }
  char chunk[1 << 16];
  while (true) {
    const ssize_t n = ::read(file.get(), chunk, sizeof(chunk));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      return BadFile(fmt::format("cannot read {} '{}': {}", what, path, std::strerror(errno)));
    }
    if (n == 0) return bytes;
    bytes.append(chunk, static_cast<size_t>(n));
    if (bytes.size() > max_bytes) return too_large();
  }
}

Status WriteFileAtomically(const std::string& path, std::string_view bytes) {
  return WriteFileAtomically(path, [&] { return std::exchange(bytes, {}); });
}

Status WriteFileAtomically(const std::string& path, const std::function<std::string_view()>& next) {
  struct stat info {};
  const bool exists = ::stat(path.c_str(), &info) == 0;
  if (exists && S_ISDIR(info.st_mode)) {
    return BadFile(fmt::format("cannot write '{}': it is a directory", path));
  }
  if (exists && !S_ISREG(info.st_mode)) {  // A device or pipe must not be replaced by a file.
    const int error = WriteNewFile(path, 0, next);
    return error == 0 ? OkStatus() : WriteError(path, error);
  }
  const std::string temporary = fmt::format("{}.{}.tmp", path, ::getpid());
  int error = WriteNewFile(temporary, O_CREAT | O_TRUNC, next);
  if (error == 0 && ::rename(temporary.c_str(), path.c_str()) != 0) error = errno;
  if (error == 0) return OkStatus();
  ::unlink(temporary.c_str());
  return WriteError(path, error);
}

}  // namespace rkv
