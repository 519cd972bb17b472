#ifndef RETENTIVEKV_BASE_FILE_H_
#define RETENTIVEKV_BASE_FILE_H_

#include <functional>
#include <string>
#include <string_view>

#include "retentivekv/status.h"

namespace rkv {

// The whole file. `what` names its role in errors, e.g. "picture". Fails with kBadFile for a
// missing file, a directory, or a read error, and for files over `max_bytes`.
Result<std::string> ReadFile(const std::string& path, std::string_view what,
                             size_t max_bytes = size_t{1} << 36);

// Writes all of `bytes` or leaves `path` as it was: a regular file is written beside the target,
// synced and renamed over it. kResourceExhausted for a full disk, kBadFile otherwise.
Status WriteFileAtomically(const std::string& path, std::string_view bytes);
// The same for bytes that come piece by piece: `next` gives a piece, which must live until it is
// called again, and an empty one at the end.
Status WriteFileAtomically(const std::string& path, const std::function<std::string_view()>& next);

}  // namespace rkv

#endif  // RETENTIVEKV_BASE_FILE_H_
