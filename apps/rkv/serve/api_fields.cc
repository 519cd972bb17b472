#include "serve/api_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace rkv::app {

using nlohmann::json;

const json* Fields::Find(const std::string& name) const {
  const auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

Status Fields::Read(const std::string& name, bool& value) const {
  const json* field = Find(name);
  if (field == nullptr) return OkStatus();
  if (!field->is_boolean()) return Wrong(name, "true or false");
  value = field->get<bool>();
  return OkStatus();
}

Status Fields::Read(const std::string& name, double min, double max, float& value) const {
  const json* field = Find(name);
  if (field == nullptr) return OkStatus();
  const double number = field->is_number() ? field->get<double>() : std::nan("");
  if (!(number >= min && number <= max)) {
    return Wrong(name, fmt::format("a number from {} to {}", min, max));
  }
  value = static_cast<float>(number);
  return OkStatus();
}

Status Fields::Read(const std::string& name, int64_t min, int64_t max, int64_t& value) const {
  const json* field = Find(name);
  if (field == nullptr) return OkStatus();
  // Numbers beyond int64 come as unsigned or as floating point.
  const bool fits = field->is_number_integer() &&
                    (!field->is_number_unsigned() ||
                     field->get<uint64_t>() <= uint64_t{std::numeric_limits<int64_t>::max()});
  if (!fits || field->get<int64_t>() < min || field->get<int64_t>() > max) {
    return Wrong(name, fmt::format("a whole number from {} to {}", min, max));
  }
  value = field->get<int64_t>();
  return OkStatus();
}

Status Fields::Read(const std::string& name, std::string& value) const {
  const json* field = Find(name);
  if (field == nullptr) return OkStatus();
  if (!field->is_string()) return Wrong(name, "a string");
  value = field->get_ref<const std::string&>();
  return CheckText(name, value);
}

Status Fields::Read(const std::string& name, std::vector<std::string>& texts) const {
  const json* field = Find(name);
  if (field == nullptr) return OkStatus();
  const auto is_text = [](const json& text) { return text.is_string(); };
  if (!field->is_array() || !std::ranges::all_of(*field, is_text)) {
    return Wrong(name, "a list of texts");
  }
  texts = field->get<std::vector<std::string>>();
  for (const std::string& text : texts) RKV_RETURN_IF_ERROR(CheckText(name, text));
  return OkStatus();
}

Status Fields::CheckText(const std::string& name, const std::string& text) const {
  if (text.find('\0') == std::string::npos) return OkStatus();
  return InvalidArgument(fmt::format("'{}{}' contains a NUL character", where_, name));
}

Status Fields::Wrong(const std::string& name, const std::string& expected) const {
  return InvalidArgument(fmt::format("'{}{}' must be {}", where_, name, expected));
}

}  // namespace rkv::app
