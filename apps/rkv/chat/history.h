// What was typed in earlier runs.
#ifndef RETENTIVEKV_APPS_RKV_CHAT_HISTORY_H_
#define RETENTIVEKV_APPS_RKV_CHAT_HISTORY_H_

#include <string>
#include <string_view>
#include <vector>

namespace rkv::app {

// $XDG_STATE_HOME/rkv/history, by default in ~/.local/state. Empty if there is no home.
std::string HistoryPath();

// The last kMaxEntries entries, oldest first. A file keeps them, an entry a line, for its owner
// only; where that fails they are kept for this run, without a word.
class History {
 public:
  static constexpr size_t kMaxEntries = 1000;
  static constexpr size_t kMaxEntryBytes = 16384;  // in the file

  explicit History(std::string path);  // empty: no file

  const std::vector<std::string>& entries() const { return entries_; }
  // Not if it is the last one again.
  void Add(std::string_view entry);

 private:
  void Load();

  std::string path_;
  std::vector<std::string> entries_;
};

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_CHAT_HISTORY_H_
