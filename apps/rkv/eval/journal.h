// Keeps finished measurements in a file of JSON lines, so that a stopped run can resume.
#ifndef RETENTIVEKV_APPS_RKV_EVAL_JOURNAL_H_
#define RETENTIVEKV_APPS_RKV_EVAL_JOURNAL_H_

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "eval/measurement.h"

namespace rkv::app {

class Journal {
 public:
  // Reads the existing file, or starts a new one. `settings` is an object of everything that
  // affects measurements and is not in their key. kInvalidArgument, with the first difference, if
  // the file has other settings; kBadFile if it is no journal. Drops a truncated last line.
  static Result<Journal> Open(const std::string& path, const nlohmann::ordered_json& settings);

  // The measurements of a key, one for each of its regimes; null: none yet.
  const std::vector<Measurement>* Find(const std::string& key) const;
  // Writes the measurements at once.
  Status Append(const std::string& key, const std::vector<Measurement>& measurements);

 private:
  Journal() = default;
  Status Read(std::string_view text, const nlohmann::ordered_json& settings);
  Status WriteLine(const nlohmann::ordered_json& json);

  std::string path_;
  std::ofstream file_;
  std::map<std::string, std::vector<Measurement>> finished_;
};

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_EVAL_JOURNAL_H_
