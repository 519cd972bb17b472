#ifndef RETENTIVEKV_BASE_FILE_H_
#define RETENTIVEKV_BASE_FILE_H_

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

#include "retentivekv/status.h"

namespace rkv {

// The kinds of file that ReadFile() accepts. Devices are never read: some have no end, and some act
// when they are opened.
enum class FileKind {
  kRegular,
  kRegularOrPipe,  // also a shell's <(command)
};

// Read permission of a written file.
enum class Access {
  kShared,   // by the umask, or as the replaced file
  kPrivate,  // its owner only, regardless of the umask
};

inline constexpr size_t kMaxFileBytes = size_t{1} << 36;
inline constexpr size_t kMaxPipeBytes = size_t{1} << 28;  // A pipe does not say how long it is.

// The whole file. `what` names its role in errors, e.g. "picture". kBadFile for a missing file, one
// of another kind, a read error, or a file over `max_bytes`. Waits for the data of a pipe's
// writers, but not for a writer.
Result<std::string> ReadFile(const std::string& path, std::string_view what,
                             size_t max_bytes = kMaxFileBytes,
                             FileKind kind = FileKind::kRegularOrPipe);

// Writes all of `bytes` or leaves `path` as it was: a regular file is written beside the target,
// synced and renamed over it. kResourceExhausted for a full disk, kBadFile otherwise.
Status WriteFileAtomically(const std::string& path, std::string_view bytes,
                           Access access = Access::kShared);
// The same for bytes in pieces: `next` returns a piece, which must live until the next call, and an
// empty one at the end.
Status WriteFileAtomically(const std::string& path, const std::function<std::string_view()>& next,
                           Access access = Access::kShared);

}  // namespace rkv

#endif  // RETENTIVEKV_BASE_FILE_H_
