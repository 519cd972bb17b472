#include "serve/park_store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <regex>

namespace rkv::app {

namespace fs = std::filesystem;

namespace {

// What a server that was killed while writing left behind; one that still writes needs less.
constexpr auto kStale = std::chrono::hours(1);

// Makes a rename last through a loss of power.
void SyncFolder(const fs::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  ::fsync(fd);
  ::close(fd);
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
  std::error_code error;
  fs::create_directories(folder, error);
  if (error || ::access(folder.c_str(), W_OK | X_OK) != 0) {
    return BadFile(fmt::format("cannot write into the folder '{}' for parked conversations: {}",
                               folder, error ? error.message() : "no permission"));
  }
  ParkStore store(folder, max_bytes);
  const auto now = fs::file_time_type::clock::now();
  for (const auto& file : fs::directory_iterator(folder, error)) {
    const std::string name = file.path().filename().string();
    const bool ours = name.find(".rkvconv.") != std::string::npos && name.ends_with(".tmp");
    std::error_code ignored;
    if (ours && now - file.last_write_time(ignored) > kStale) fs::remove(file.path(), ignored);
  }
  store.Refresh();
  return store;
}

std::string ParkStore::Path(const Entry& entry) const { return (folder_ / Name(entry)).string(); }

void ParkStore::Refresh() {
  std::error_code error;
  const auto changed = fs::last_write_time(folder_, error);
  // A change within the clock's grain of the last look would not show.
  const auto now = fs::file_time_type::clock::now();
  if (error || (changed == seen_ && now - changed > std::chrono::seconds(1))) return;
  seen_ = changed;
  by_key_.clear();
  for (const auto& file : fs::directory_iterator(folder_, error)) {
    const auto entry = ParseName(file.path().filename().string());
    if (entry.has_value()) by_key_.insert_or_assign(entry->key, *entry);
  }
}

Status ParkStore::Put(const Entry& entry,
                      const std::function<Status(const std::string& path)>& save) {
  const std::optional<Entry> old = Find(entry.key);
  RKV_RETURN_IF_ERROR(save(Path(entry)));
  SyncFolder(folder_);
  if (old.has_value() && Name(*old) != Name(entry)) {
    std::error_code ignored;
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
  std::error_code error;
  if (known != by_key_.end() && fs::exists(Path(known->second), error)) return known->second;
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
