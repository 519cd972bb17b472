// Reading whole files and replacing them atomically. A regular file is never half written, and no
// device is read.
#include "base/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <random>
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
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

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

// Opening a pipe or a device must not wait for its other end; reading and writing it may.
Descriptor OpenWithoutWaiting(const std::string& path, int flags) {
  Descriptor file(::open(path.c_str(), flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (file.get() >= 0) ::fcntl(file.get(), F_SETFL, flags);
  return file;
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

int WritePieces(Descriptor& file, const std::function<std::string_view()>& next) {
  for (std::string_view piece = next(); !piece.empty(); piece = next()) {
    if (const int error = WriteAll(file.get(), piece); error != 0) return error;
  }
  // Devices and pipes cannot be synced; that is no error.
  if (::fsync(file.get()) != 0 && errno != EINVAL && errno != EROFS) return errno;
  return file.Close() == 0 ? 0 : errno;
}

// Creates a new file beside `path`. It never opens an existing file or link. `temporary` becomes
// the name of the new file, `error` the errno of a failure.
Descriptor CreateBeside(const std::string& path, mode_t mode, std::string& temporary, int& error) {
  std::random_device random;
  for (int attempt = 0; attempt < 16; ++attempt) {
    temporary = fmt::format("{}.{:08x}.tmp", path, random());
    Descriptor file(
        ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode));
    error = file.get() < 0 ? errno : 0;
    if (error != EEXIST) return file;
  }
  return Descriptor(-1);
}

}  // namespace

Result<std::string> ReadFile(const std::string& path, std::string_view what, size_t max_bytes,
                             FileKind kind) {
  const auto refuse = [&](std::string_view why) {
    return BadFile(fmt::format("cannot read {} '{}': {}", what, path, why));
  };
  const auto check_kind = [&](mode_t mode) {
    if (S_ISREG(mode)) return OkStatus();
    if (S_ISDIR(mode)) return refuse("it is a directory");
    if (!S_ISFIFO(mode)) return refuse("it is a device, not a file");
    if (kind == FileKind::kRegular) return refuse("it is a pipe, not a file");
    return OkStatus();
  };
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return refuse(std::strerror(errno));
  RKV_RETURN_IF_ERROR(check_kind(info.st_mode));
  const Descriptor file = OpenWithoutWaiting(path, O_RDONLY);
  if (file.get() < 0 || ::fstat(file.get(), &info) != 0) return refuse(std::strerror(errno));
  RKV_RETURN_IF_ERROR(check_kind(info.st_mode));  // The file may have been replaced since stat().
  if (S_ISFIFO(info.st_mode)) max_bytes = std::min(max_bytes, kMaxPipeBytes);
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
    if (n < 0) return refuse(std::strerror(errno));
    if (n == 0) return bytes;
    bytes.append(chunk, static_cast<size_t>(n));
    if (bytes.size() > max_bytes) return too_large();
  }
}

Status WriteFileAtomically(const std::string& path, std::string_view bytes, Access access) {
  return WriteFileAtomically(
      path, [&] { return std::exchange(bytes, {}); }, access);
}

Status WriteFileAtomically(const std::string& path, const std::function<std::string_view()>& next,
                           Access access) {
  struct stat info {};
  const bool exists = ::stat(path.c_str(), &info) == 0;
  if (exists && S_ISDIR(info.st_mode)) {
    return BadFile(fmt::format("cannot write '{}': it is a directory", path));
  }
  if (exists && !S_ISREG(info.st_mode)) {  // A device or pipe must not be replaced by a file.
    Descriptor file = OpenWithoutWaiting(path, O_WRONLY);
    const int error = file.get() < 0 ? errno : WritePieces(file, next);
    if (error == ENXIO && S_ISFIFO(info.st_mode)) {
      return BadFile(fmt::format("cannot write '{}': no process reads from this pipe", path));
    }
    return error == 0 ? OkStatus() : WriteError(path, error);
  }
  const bool shared = access == Access::kShared;
  std::string temporary;
  int error = 0;
  Descriptor file = CreateBeside(path, shared && !exists ? 0644 : 0600, temporary, error);
  if (error != 0) return WriteError(path, error);
  // Not every file system has permissions.
  if (shared && exists) (void)::fchmod(file.get(), info.st_mode & 0777);
  error = WritePieces(file, next);
  if (error == 0 && ::rename(temporary.c_str(), path.c_str()) != 0) error = errno;
  if (error == 0) return OkStatus();
  ::unlink(temporary.c_str());
  return WriteError(path, error);
}

}  // namespace rkv
