// Paths as users type them, and as terminals insert dragged files.
#ifndef RETENTIVEKV_APPS_RKV_CHAT_PATHS_H_
#define RETENTIVEKV_APPS_RKV_CHAT_PATHS_H_

#include <optional>
#include <string>
#include <string_view>

#include "chat/completion.h"

namespace rkv::app {

// Resolves a typed path. A file of exactly that name has precedence; else quotes, backslashes, ~
// and file:// URLs have their meaning in a shell. Spaces need no quotes.
std::string ResolvePath(std::string_view typed);

// The files whose paths begin with `typed`, in the form that ResolvePath() reads. Keeps the user's
// style of quotes or backslashes. Folders end with a slash.
Completion CompletePath(std::string_view typed);

// The path of a picture, if the line contains nothing else.
std::optional<std::string> PictureIn(std::string_view line);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_CHAT_PATHS_H_
