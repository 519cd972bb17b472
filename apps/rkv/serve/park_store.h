// Conversations on disk: a place for idle ones, also across a restart.
#ifndef RETENTIVEKV_APPS_RKV_SERVE_PARK_STORE_H_
#define RETENTIVEKV_APPS_RKV_SERVE_PARK_STORE_H_

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "retentivekv/status.h"

namespace rkv::app {

// A folder with one file per conversation. The file names hold all of the store's knowledge, so
// that nothing can contradict them. A complete file is renamed into its place. Several servers of
// one user may share a folder. Not thread-safe.
//
// Parked conversations are private to their owner. The store opens only regular files in the folder
// itself, and refuses a folder that others can write to.
class ParkStore {
 public:
  struct Entry {
    std::string key;              // of the messages: 64 hexadecimal digits
    std::string conversation_id;  // 32 hexadecimal digits
    uint64_t tokens = 0;
    uint64_t held_bytes = 0;  // when it was in memory
  };

  // Makes the folder if it does not exist. A folder without other files becomes private, including
  // its files. `max_bytes`: above it, the least recently used files are removed; 0: no limit.
  static Result<ParkStore> Open(const std::string& folder, uint64_t max_bytes);

  // Writes an entry: `save` receives the path to write to. An error changes nothing.
  Status Put(const Entry& entry, const std::function<Status(const std::string& path)>& save);

  // Reads the folder again if it has changed.
  std::optional<Entry> Find(const std::string& key);
  std::vector<Entry> entries();
  std::string Path(const Entry& entry) const;
  void Remove(const std::string& key);

  // Parses a file's name; nothing for names that this store does not write.
  static std::optional<Entry> ParseName(const std::string& name);
  static std::string Name(const Entry& entry);

 private:
  ParkStore(std::filesystem::path folder, uint64_t max_bytes)
      : folder_(std::move(folder)), max_bytes_(max_bytes) {}
  Status MakePrivate();
  void Refresh();
  void EnforceLimit(const std::string& newest);

  std::filesystem::path folder_;
  uint64_t max_bytes_;
  std::filesystem::file_time_type seen_ = std::filesystem::file_time_type::min();
  std::map<std::string, Entry> by_key_;
};

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_SERVE_PARK_STORE_H_
