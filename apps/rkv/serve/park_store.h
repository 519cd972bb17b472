// Conversations on disk, where idle ones wait and from where they come back after a restart.
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

// A folder with one file per conversation. All that the store knows is in the files' names, so that
// there is nothing that could contradict them: a file is renamed into its place when it is whole.
// Several servers of one user may share a folder. Not thread-safe.
//
// What is parked is what somebody said, so it is its owner's alone: only regular files that lie in
// the folder itself are opened, and a folder into which others can write is refused.
class ParkStore {
 public:
  struct Entry {
    std::string key;              // of what was said: 64 hexadecimal digits
    std::string conversation_id;  // 32 hexadecimal digits
    uint64_t tokens = 0;
    uint64_t held_bytes = 0;  // when it was in memory
  };

  // Makes the folder if there is none. One that holds nothing else becomes private, with the files
  // in it. `max_bytes`: the files that were not used for longest are removed beyond it; 0: no
  // limit.
  static Result<ParkStore> Open(const std::string& folder, uint64_t max_bytes);

  // Writes an entry: `save` is given the path to write to. On an error nothing has changed.
  Status Put(const Entry& entry, const std::function<Status(const std::string& path)>& save);

  // Looks again at the folder if it has changed.
  std::optional<Entry> Find(const std::string& key);
  std::vector<Entry> entries();
  std::string Path(const Entry& entry) const;
  void Remove(const std::string& key);

  // The entry that a file's name says; nothing for names that this store does not write.
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
