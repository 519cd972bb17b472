#ifndef RETENTIVEKV_BASE_FILE_H_
#define RETENTIVEKV_BASE_FILE_H_

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

#include "retentivekv/status.h"

namespace rkv {

// What may be read where a path leads to. Devices never are: some have no end, and some do
// something when they are opened.
enum class FileKind {
  kRegular,
  kRegularOrPipe,  // also what a shell makes of <(command)
};

// Who may read a file that is written.
enum class Access {
  kShared,   // as the umask says, or as of the file that is replaced
  kPrivate,  // its owner alone, whatever the umask says
};

inline constexpr size_t kMaxFileBytes = size_t{1} << 36;
inline constexpr size_t kMaxPipeBytes = size_t{1} << 28;  // A pipe does not say how long it is.

// The whole file. `what` names its role in errors, e.g. "picture". Fails with kBadFile for a
// missing file, one of another kind, or a read error, and for files over `max_bytes`. Waits for
// what a pipe's writers write, and not for a writer.
Result<std::string> ReadFile(const std::string& path, std::string_view what,
                             size_t max_bytes = kMaxFileBytes,
                             FileKind kind = FileKind::kRegularOrPipe);

// Writes all of `bytes` or leaves `path` as it was: a regular file is written beside the target,
// synced and renamed over it. kResourceExhausted for a full disk, kBadFile otherwise.
Status WriteFileAtomically(const std::string& path, std::string_view bytes,
                           Access access = Access::kShared);
// The same for bytes that come piece by piece: `next` gives a piece, which must live until it is
// called again, and an empty one at the end.
Status WriteFileAtomically(const std::string& path, const std::function<std::string_view()>& next,
                           Access access = Access::kShared);

}  // namespace rkv

#endif  // RETENTIVEKV_BASE_FILE_H_
