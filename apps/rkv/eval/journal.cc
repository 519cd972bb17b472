#include "eval/journal.h"

#include <fmt/format.h>

#include <filesystem>

#include "input.h"

namespace rkv::app {

namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kSettings = "settings";

// "seeds is [1], the file has [2]"; empty without a difference.
std::string Difference(const Json& wanted, const Json& found) {
  for (const auto& [name, value] : wanted.items()) {
    const Json other = found.contains(name) ? found.at(name) : Json();
    if (other != value) {
      return fmt::format("{} is {} now, but {} in the file", name, value.dump(), other.dump());
    }
  }
  return found.size() == wanted.size() ? "" : "the file has unknown settings";
}

}  // namespace

Result<Journal> Journal::Open(const std::string& path, const Json& settings) {
  Journal journal;
  journal.path_ = path;
  std::string text;
  std::error_code error;
  if (std::filesystem::exists(path, error)) {
    RKV_ASSIGN_OR_RETURN(text, ReadInput(path, "results"));
    const size_t end = text.rfind('\n') == std::string::npos ? 0 : text.rfind('\n') + 1;
    // Only shorten a file that is certainly a journal.
    if (end < text.size() && text.starts_with(R"({"settings":)")) {
      std::filesystem::resize_file(path, end, error);
      if (error) return BadFile(fmt::format("cannot write '{}': {}", path, error.message()));
      text.resize(end);
    }
  }
  if (!text.empty()) RKV_RETURN_IF_ERROR(journal.Read(text, settings));
  journal.file_.open(path, std::ios::binary | std::ios::app);
  if (!journal.file_) return BadFile(fmt::format("cannot write '{}'", path));
  if (text.empty()) RKV_RETURN_IF_ERROR(journal.WriteLine({{kSettings, settings}}));
  return journal;
}

Status Journal::Read(std::string_view text, const Json& settings) {
  for (size_t line = 1; !text.empty(); ++line) {
    const size_t end = std::min(text.find('\n'), text.size() - 1);
    try {
      const Json json = Json::parse(text.substr(0, end + 1));
      if (line == 1) {
        const std::string difference = Difference(settings, json.at(kSettings));
        if (!difference.empty()) {
          return InvalidArgument(
              fmt::format("'{}' was written with other settings: {}; use these, or another file",
                          path_, difference));
        }
      } else {
        std::vector<Measurement>& measurements = finished_[json.at("key").get<std::string>()];
        measurements.clear();
        for (const Json& m : json.at("measurements")) {
          measurements.push_back(MeasurementFromJson(m));
        }
      }
    } catch (const Json::exception& error) {
      return BadFile(fmt::format("line {} of '{}' is not a measurement of rkv eval: {}", line,
                                 path_, error.what()));
    }
    text.remove_prefix(end + 1);
  }
  return OkStatus();
}

const std::vector<Measurement>* Journal::Find(const std::string& key) const {
  const auto found = finished_.find(key);
  return found == finished_.end() ? nullptr : &found->second;
}

Status Journal::Append(const std::string& key, const std::vector<Measurement>& measurements) {
  Json list = Json::array();
  for (const Measurement& measurement : measurements) list.push_back(ToJson(measurement));
  return WriteLine({{"key", key}, {"measurements", std::move(list)}});
}

Status Journal::WriteLine(const Json& json) {
  file_ << json.dump() << '\n' << std::flush;
  if (!file_) return BadFile(fmt::format("cannot write '{}'", path_));
  return OkStatus();
}

}  // namespace rkv::app
