// The messages typed in earlier runs.
#ifndef RETENTIVEKV_APPS_RKV_CHAT_HISTORY_H_
#define RETENTIVEKV_APPS_RKV_CHAT_HISTORY_H_

#include <string>
#include <string_view>
#include <vector>

namespace rkv::app {

// $XDG_STATE_HOME/rkv/history, by default in ~/.local/state. Empty if there is no home.
std::string HistoryPath();

// The last kMaxEntries entries, oldest first. A file keeps them, one entry a line, readable by its
// owner only. If the file fails, the entries silently last for this run only.
class History {
 public:
  static constexpr size_t kMaxEntries = 1000;
  static constexpr size_t kMaxEntryBytes = 16384;  // in the file

  explicit History(std::string path);  // empty: no file

  const std::vector<std::string>& entries() const { return entries_; }
  // Adds an entry unless it equals the last one.
  void Add(std::string_view entry);

 private:
  void Load();

  std::string path_;
  std::vector<std::string> entries_;
};

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_CHAT_HISTORY_H_
