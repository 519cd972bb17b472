// The history file of rkv chat: one escaped entry a line. Each run appends; reading shortens the
// file to the last entries.
#include "chat/history.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace rkv::app {

namespace {

// A larger file is no history of ours: entries cannot take so much.
constexpr uintmax_t kMaxFileBytes = uintmax_t{4} * History::kMaxEntries * History::kMaxEntryBytes;

// Escapes an entry to one line.
std::string Escape(std::string_view entry) {
  std::string line;
  for (const char c : entry) {
    if (c == '\\' || c == '\n' || c == '\r') line += '\\';
    line += c == '\n' ? 'n' : c == '\r' ? 'r' : c;
  }
  return line + '\n';
}

std::string UnescapeLine(std::string_view line) {
  std::string entry;
  for (size_t i = 0; i < line.size(); ++i) {
    if (line[i] != '\\' || i + 1 == line.size()) {
      entry += line[i];
      continue;
    }
    const char c = line[++i];
    entry += c == 'n' ? '\n' : c == 'r' ? '\r' : c;
  }
  return entry;
}

// Appends to a regular file that only its owner can read. False on failure.
bool AppendTo(const std::string& path, std::string_view bytes) {
  // Without O_NONBLOCK, opening a pipe would wait for a reader.
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK, 0600);
  if (fd < 0) return false;
  struct stat info {};
  const bool good = ::fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && ::fchmod(fd, 0600) == 0 &&
                    ::write(fd, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size());
  ::close(fd);
  return good;
}

bool MakeFolder(const std::filesystem::path& folder) {
  std::error_code error;
  if (std::filesystem::is_directory(folder, error)) return true;
  std::filesystem::create_directories(folder.parent_path(), error);
  return ::mkdir(folder.c_str(), 0700) == 0;
}

}  // namespace

std::string HistoryPath() {
  // The XDG specification says to ignore a relative path.
  if (const char* state = std::getenv("XDG_STATE_HOME"); state != nullptr && *state == '/') {
    return std::string(state) + "/rkv/history";
  }
  const char* home = std::getenv("HOME");
  return home == nullptr || *home != '/' ? "" : std::string(home) + "/.local/state/rkv/history";
}

History::History(std::string path) : path_(std::move(path)) {
  if (!path_.empty()) Load();
}

void History::Load() {
  std::error_code error;
  if (!std::filesystem::exists(path_, error)) return;
  if (!std::filesystem::is_regular_file(path_, error) ||
      std::filesystem::file_size(path_, error) > kMaxFileBytes) {
    path_.clear();
    return;
  }
  std::ifstream file(path_, std::ios::binary);
  for (std::string line; std::getline(file, line);) {
    if (!line.empty()) entries_.push_back(UnescapeLine(line));
  }
  if (entries_.size() <= kMaxEntries) return;
  // Each run appends. The next run shortens the file when it reads it.
  entries_.erase(entries_.begin(), entries_.end() - kMaxEntries);
  std::string lines;
  for (const std::string& entry : entries_) lines += Escape(entry);
  const std::string temporary = fmt::format("{}.{}.tmp", path_, ::getpid());
  if (!AppendTo(temporary, lines) || ::rename(temporary.c_str(), path_.c_str()) != 0) {
    ::unlink(temporary.c_str());
  }
}

void History::Add(std::string_view entry) {
  if (entry.empty() || (!entries_.empty() && entries_.back() == entry)) return;
  entries_.emplace_back(entry);
  if (path_.empty() || entry.size() > kMaxEntryBytes) return;
  if (!MakeFolder(std::filesystem::path(path_).parent_path()) || !AppendTo(path_, Escape(entry))) {
    path_.clear();
  }
}

}  // namespace rkv::app
