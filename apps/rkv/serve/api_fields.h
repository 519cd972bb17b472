// The fields of a request's JSON, with errors that name the field and the values that it takes.
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

// Typed access to the fields of a JSON object. null counts as absent, as OpenAI's does. Where a
// field is absent, Read() leaves the value as it is.
class Fields {
 public:
  // `where`: before the names in errors, such as "messages[2]."
  Fields(const nlohmann::json& object, std::string where)
      : object_(object), where_(std::move(where)) {}

  // Null where it is absent.
  const nlohmann::json* Find(const std::string& name) const;

  Status Read(const std::string& name, bool& value) const;
  Status Read(const std::string& name, double min, double max, float& value) const;
  Status Read(const std::string& name, int64_t min, int64_t max, int64_t& value) const;
  Status Read(const std::string& name, std::string& value) const;
  Status Read(const std::string& name, std::vector<std::string>& texts) const;

  // Chat templates are C strings.
  Status CheckText(const std::string& name, const std::string& text) const;

  Status Wrong(const std::string& name, const std::string& expected) const;

 private:
  const nlohmann::json& object_;
  std::string where_;
};

// How the tokens of an answer are chosen.
Status ReadSampling(const Fields& fields, SamplingOptions& sampling);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_SERVE_API_FIELDS_H_
