// Reads and completes paths in a shell's notation. An existing file of the exact typed name always
// has precedence over that notation.
#include "chat/paths.h"

#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <climits>
#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace rkv::app {

namespace {

namespace fs = std::filesystem;

constexpr std::string_view kFileUrl = "file://";
// The characters that a backslash escapes in double quotes.
constexpr std::string_view kEscapedInQuotes = "\"\\$`";

bool Exists(const std::string& path) {
  std::error_code error;
  return fs::exists(path, error);
}

// The folder of "~" or "~name", or nothing if there is no such user.
std::optional<std::string> HomeOf(const std::string& name) {
  if (name.empty()) {
    if (const char* home = std::getenv("HOME"); home != nullptr && *home != '\0') return home;
  }
  const passwd* user = name.empty() ? ::getpwuid(::getuid()) : ::getpwnam(name.c_str());
  return user == nullptr ? std::optional<std::string>() : user->pw_dir;
}

std::string ExpandHome(std::string path) {
  if (!path.starts_with('~')) return path;
  const size_t slash = std::min(path.find('/'), path.size());
  const auto home = HomeOf(path.substr(1, slash - 1));
  return home.has_value() ? *home + path.substr(slash) : path;
}

// The path of a file:// URL of this machine.
std::optional<std::string> PathOfUrl(std::string_view url) {
  if (!url.starts_with(kFileUrl)) return std::nullopt;
  url.remove_prefix(kFileUrl.size());
  const size_t slash = url.find('/');
  if (slash == std::string_view::npos) return std::nullopt;
  const std::string_view host = url.substr(0, slash);
  char own[HOST_NAME_MAX + 1] = "";
  ::gethostname(own, sizeof(own) - 1);
  if (!host.empty() && host != "localhost" && host != own) return std::nullopt;
  std::string path;
  for (size_t i = slash; i < url.size(); ++i) {
    unsigned char byte = 0;
    const char* digits = url.data() + i + 1;
    if (url[i] == '%' && i + 2 < url.size() &&
        std::from_chars(digits, digits + 2, byte, 16).ptr == digits + 2) {
      path += static_cast<char>(byte);
      i += 2;
    } else {
      path += url[i];
    }
  }
  return path;
}

// Whether quotes and backslashes have their meaning in a shell. An apostrophe inside a name has
// not.
bool IsQuoted(std::string_view typed) {
  return typed.starts_with('"') || typed.starts_with('\'') ||
         typed.find('\\') != std::string_view::npos;
}

// Removes quotes and backslashes. `open` receives an unclosed quote, or 0.
std::string Unquoted(std::string_view typed, char& open) {
  std::string path;
  open = 0;
  for (size_t i = 0; i < typed.size(); ++i) {
    const char c = typed[i];
    const bool more = i + 1 < typed.size();
    if (c == open) {
      open = 0;
    } else if (open == 0 && (c == '"' || c == '\'')) {
      open = c;
    } else if (c == '\\' && more &&
               (open == 0 ||
                (open == '"' && kEscapedInQuotes.find(typed[i + 1]) != std::string_view::npos))) {
      path += typed[++i];
    } else {
      path += c;
    }
  }
  return path;
}

// The path that a shell would read, without regard to existing files.
std::string ParsePath(std::string_view typed) {
  if (const auto path = PathOfUrl(typed); path.has_value()) return *path;
  if (!IsQuoted(typed)) return ExpandHome(std::string(typed));
  char open = 0;
  const std::string path = Unquoted(typed, open);
  if (open != 0) return std::string(typed);  // Then it is no quote.
  return typed.starts_with('~') ? ExpandHome(path) : path;
}

std::string Quote(std::string_view path, bool closed) {
  std::string quoted = "\"";
  for (const char c : path) {
    if (kEscapedInQuotes.find(c) != std::string_view::npos) quoted += '\\';
    quoted += c;
  }
  return closed ? quoted + '"' : quoted;
}

std::string QuoteSingle(std::string_view path, bool closed) {
  std::string quoted = "'";
  for (const char c : path) quoted += c == '\'' ? "'\\''" : std::string(1, c);
  return closed ? quoted + '\'' : quoted;
}

std::string Escape(std::string_view path) {
  constexpr std::string_view kSpecial = " \t\\\"'$`&|;<>()*?[]#!{}";
  std::string escaped;
  for (const char c : path) {
    if (kSpecial.find(c) != std::string_view::npos) escaped += '\\';
    escaped += c;
  }
  return escaped;
}

// Writes `path` in the user's style of quoting.
std::string WriteAs(std::string_view typed, const std::string& path, bool folder) {
  if (typed.starts_with('"')) return Quote(path, !folder);
  if (typed.starts_with('\'')) return QuoteSingle(path, !folder);
  if (IsQuoted(typed)) return Escape(path);
  // A name can contain quotes, or end with a space.
  const bool clear = !IsQuoted(path) && path.find('\n') == std::string::npos &&
                     !path.starts_with(' ') && !path.ends_with(' ');
  return clear ? path : Quote(path, !folder);
}

}  // namespace

std::string ResolvePath(std::string_view typed) {
  std::string path(typed);
  return Exists(path) ? path : ParsePath(typed);
}

Completion CompletePath(std::string_view typed) {
  Completion completion{.n_replaced = typed.size(), .candidates = {}};
  if (typed.starts_with(kFileUrl)) return completion;
  char open = 0;
  const std::string path = IsQuoted(typed) ? Unquoted(typed, open) : std::string(typed);
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "" : path.substr(0, slash + 1);
  const std::string beginning = path.substr(folder.size());
  const bool home = !typed.starts_with('"') && !typed.starts_with('\'');
  const std::string expanded = home ? ExpandHome(folder) : folder;

  std::error_code error;
  fs::directory_iterator entry(expanded.empty() ? "." : expanded, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    const bool hidden = name.starts_with('.') && !beginning.starts_with('.');
    if (hidden || !name.starts_with(beginning)) continue;
    std::error_code no_folder;
    const bool is_folder = fs::is_directory(entry->path(), no_folder);
    completion.candidates.push_back(
        WriteAs(typed, folder + name + (is_folder ? "/" : ""), is_folder));
  }
  std::ranges::sort(completion.candidates);
  return completion;
}

std::optional<std::string> PictureIn(std::string_view line) {
  if (line.empty() || line.size() >= PATH_MAX || line.find('\n') != std::string_view::npos) {
    return std::nullopt;
  }
  const std::string path = ResolvePath(line);
  std::error_code error;
  if (!fs::is_regular_file(path, error)) return std::nullopt;
  char beginning[12] = {};
  std::ifstream(path, std::ios::binary).read(beginning, sizeof(beginning));
  const std::string_view bytes(beginning, sizeof(beginning));
  const bool picture = bytes.starts_with("\x89PNG") || bytes.starts_with("\xFF\xD8\xFF") ||
                       bytes.starts_with("GIF8") || bytes.starts_with("BM") ||
                       (bytes.starts_with("RIFF") && bytes.substr(8) == "WEBP");
  return picture ? std::optional(path) : std::nullopt;
}

}  // namespace rkv::app
