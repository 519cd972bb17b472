// The folder of parked conversations. Every file is complete: saving writes a temporary file and
// renames it.
#include "serve/park_store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <regex>

namespace rkv::app {

namespace fs = std::filesystem;

namespace {

// Age of a temporary file that a killed server left; writing one takes less time.
constexpr auto kStale = std::chrono::hours(1);

// Makes a rename survive a loss of power.
void SyncFolder(const fs::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  ::fsync(fd);
  ::close(fd);
}

// A temporary file, which a running or a killed server wrote.
bool IsTemporary(const std::string& name) {
  return name.find(".rkvconv.") != std::string::npos && name.ends_with(".tmp");
}

// Whether the path is a regular file, and no link to one.
bool IsRegular(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(fs::symlink_status(path, ignored));
}

}  // namespace

std::string ParkStore::Name(const Entry& entry) {
  return fmt::format("{}-{}-{}-{}.rkvconv", entry.key, entry.conversation_id, entry.tokens,
                     entry.held_bytes);
}

std::optional<ParkStore::Entry> ParkStore::ParseName(const std::string& name) {
  static const std::regex pattern(
      "([0-9a-f]{64})-([0-9a-f]{32})-([0-9]{1,18})-([0-9]{1,18})\\.rkvconv");
  std::smatch match;
  if (!std::regex_match(name, match, pattern)) return std::nullopt;
  return Entry{.key = match[1],
               .conversation_id = match[2],
               .tokens = std::stoull(match[3]),
               .held_bytes = std::stoull(match[4])};
}

Result<ParkStore> ParkStore::Open(const std::string& folder, uint64_t max_bytes) {
  const auto refuse = [&folder](std::string_view why) {
    return BadFile(
        fmt::format("cannot write into the folder '{}' for parked conversations: {}", folder, why));
  };
  std::error_code error;
  const fs::path parent = fs::path(folder).parent_path();
  if (!parent.empty()) fs::create_directories(parent, error);
  if (error) return refuse(error.message());
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) return refuse(std::strerror(errno));
  if (!fs::is_directory(folder, error)) return refuse("it is a file");
  if (::access(folder.c_str(), W_OK | X_OK) != 0) return refuse("permission denied");
  ParkStore store(folder, max_bytes);
  RKV_RETURN_IF_ERROR(store.MakePrivate());
  const auto now = fs::file_time_type::clock::now();
  for (const auto& file : fs::directory_iterator(folder, error)) {
    std::error_code ignored;
    if (IsTemporary(file.path().filename().string()) && IsRegular(file.path()) &&
        now - file.last_write_time(ignored) > kStale) {
      fs::remove(file.path(), ignored);
    }
  }
  store.Refresh();
  return store;
}

// Files of an earlier version were readable by other users.
Status ParkStore::MakePrivate() {
  using enum fs::perms;
  constexpr fs::perms kOthers = group_all | others_all;
  std::error_code error;
  bool only_ours = true;
  for (const auto& file : fs::directory_iterator(folder_, error)) {
    const std::string name = file.path().filename().string();
    const bool ours = ParseName(name).has_value() || IsTemporary(name);
    only_ours = only_ours && ours;
    std::error_code ignored;
    if (ours && IsRegular(file.path())) {
      fs::permissions(file.path(), kOthers | set_uid | set_gid, fs::perm_options::remove, ignored);
    }
  }
  std::error_code ignored;
  if (only_ours) fs::permissions(folder_, kOthers, fs::perm_options::remove, ignored);
  const fs::perms mode = fs::status(folder_, error).permissions();
  if (error || (mode & (group_write | others_write)) == none) return OkStatus();
  return BadFile(
      fmt::format("other users can write into the folder '{}' and could forge parked "
                  "conversations; forbid that (chmod go-w), or use a folder of your own",
                  folder_.string()));
}

std::string ParkStore::Path(const Entry& entry) const { return (folder_ / Name(entry)).string(); }

void ParkStore::Refresh() {
  std::error_code error;
  const auto changed = fs::last_write_time(folder_, error);
  // A second change within the resolution of the clock would not be visible.
  const auto now = fs::file_time_type::clock::now();
  if (error || (changed == seen_ && now - changed > std::chrono::seconds(1))) return;
  seen_ = changed;
  by_key_.clear();
  for (const auto& file : fs::directory_iterator(folder_, error)) {
    const auto entry = ParseName(file.path().filename().string());
    if (entry.has_value() && IsRegular(file.path())) by_key_.insert_or_assign(entry->key, *entry);
  }
}

Status ParkStore::Put(const Entry& entry,
                      const std::function<Status(const std::string& path)>& save) {
  const std::optional<Entry> old = Find(entry.key);
  // Never write to a link or another kind of file with that name.
  std::error_code ignored;
  if (!IsRegular(Path(entry))) fs::remove(Path(entry), ignored);
  RKV_RETURN_IF_ERROR(save(Path(entry)));
  SyncFolder(folder_);
  if (old.has_value() && Name(*old) != Name(entry)) {
    fs::remove(Path(*old), ignored);
  }
  by_key_.insert_or_assign(entry.key, entry);
  if (max_bytes_ > 0) EnforceLimit(entry.key);
  return OkStatus();
}

void ParkStore::EnforceLimit(const std::string& newest) {
  struct File {
    fs::file_time_type time;
    uint64_t bytes;
    std::string key;
  };
  std::vector<File> files;
  uint64_t total = 0;
  for (const auto& [key, entry] : by_key_) {
    std::error_code error;
    const uint64_t bytes = fs::file_size(Path(entry), error);
    const auto time = error ? fs::file_time_type::min() : fs::last_write_time(Path(entry), error);
    if (error) continue;
    files.push_back({time, bytes, key});
    total += bytes;
  }
  std::ranges::sort(files, {}, &File::time);
  for (const File& file : files) {
    if (total <= max_bytes_) return;
    if (file.key == newest) continue;
    Remove(file.key);
    total -= file.bytes;
  }
}

std::optional<ParkStore::Entry> ParkStore::Find(const std::string& key) {
  const auto known = by_key_.find(key);
  if (known != by_key_.end() && IsRegular(Path(known->second))) return known->second;
  Refresh();
  const auto found = by_key_.find(key);
  return found == by_key_.end() ? std::nullopt : std::optional(found->second);
}

std::vector<ParkStore::Entry> ParkStore::entries() {
  Refresh();
  std::vector<Entry> all;
  for (const auto& [key, entry] : by_key_) all.push_back(entry);
  return all;
}

void ParkStore::Remove(const std::string& key) {
  const auto found = by_key_.find(key);
  if (found == by_key_.end()) return;
  std::error_code ignored;
  fs::remove(Path(found->second), ignored);
  by_key_.erase(found);
}

}  // namespace rkv::app
