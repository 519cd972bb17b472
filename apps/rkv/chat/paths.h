// Paths as people type them, and as a file that is dragged into a terminal appears there.
#ifndef RETENTIVEKV_APPS_RKV_CHAT_PATHS_H_
#define RETENTIVEKV_APPS_RKV_CHAT_PATHS_H_

#include <optional>
#include <string>
#include <string_view>

#include "chat/completion.h"

namespace rkv::app {

// The path that was meant. A file of exactly that name is it; else quotes, backslashes, ~ and
// file:// URLs are taken as a shell would. Spaces need no quotes.
std::string ResolvePath(std::string_view typed);

// The files that begin as `typed`, written as ResolvePath() reads them: in the quotes or with the
// backslashes that the user began with. Folders end with a slash.
Completion CompletePath(std::string_view typed);

// The path of a picture, if the line is that and nothing else.
std::optional<std::string> PictureIn(std::string_view line);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_CHAT_PATHS_H_
