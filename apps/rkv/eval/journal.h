// Finished measurements in a file of JSON lines, so that a run that was stopped goes on from there.
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
  // Reads what is there, or starts a new file. `settings` is an object of all that measurements
  // depend on and their key does not name. kInvalidArgument, with the first difference, if the file
  // was written with other settings; kBadFile if it is something else. A last line that was cut off
  // is dropped.
  static Result<Journal> Open(const std::string& path, const nlohmann::ordered_json& settings);

  // The measurements of a key, one for each regime that it is about; null: none yet.
  const std::vector<Measurement>* Find(const std::string& key) const;
  // Writes them at once.
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
