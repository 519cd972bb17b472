// The fields of a request's JSON, with errors that name the field and its possible values.
#ifndef RETENTIVEKV_APPS_RKV_SERVE_API_FIELDS_H_
#define RETENTIVEKV_APPS_RKV_SERVE_API_FIELDS_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "retentivekv/engine.h"
#include "retentivekv/status.h"

namespace rkv::app {

// Typed access to the fields of a JSON object. null counts as absent, as in OpenAI's API. Read()
// leaves the value unchanged if the field is absent.
class Fields {
 public:
  // `where`: prefix of field names in errors, such as "messages[2]."
  Fields(const nlohmann::json& object, std::string where)
      : object_(object), where_(std::move(where)) {}

  // Null if the field is absent.
  const nlohmann::json* Find(const std::string& name) const;

  Status Read(const std::string& name, bool& value) const;
  Status Read(const std::string& name, double min, double max, float& value) const;
  Status Read(const std::string& name, int64_t min, int64_t max, int64_t& value) const;
  Status Read(const std::string& name, std::string& value) const;
  Status Read(const std::string& name, std::vector<std::string>& texts) const;

  // Rejects NUL characters, since chat templates are C strings.
  Status CheckText(const std::string& name, const std::string& text) const;

  Status Wrong(const std::string& name, const std::string& expected) const;

 private:
  const nlohmann::json& object_;
  std::string where_;
};

// Parses the fields that choose the tokens of an answer.
Status ReadSampling(const Fields& fields, SamplingOptions& sampling);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_SERVE_API_FIELDS_H_
