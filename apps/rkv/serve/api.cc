// Parts of the protocol that requests and answers share: errors, JSON as text, and the keys by
// which conversations are found.
#include "serve/api.h"

#include <fmt/format.h>

#include <algorithm>

#include "serve/api_fields.h"
#include "serve/digest.h"

namespace rkv::app {

using nlohmann::json;

namespace {

constexpr int kMaxNesting = 64;

// The depth of the brackets; copying JSON takes stack for each level.
int NestingDepth(std::string_view text) {
  int depth = 0;
  int deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (in_string) {
      if (text[i] == '"') in_string = false;
      if (text[i] == '\\') ++i;
      continue;
    }
    if (text[i] == '"') in_string = true;
    if (text[i] == '[' || text[i] == '{') deepest = std::max(deepest, ++depth);
    if (text[i] == ']' || text[i] == '}') --depth;
  }
  return deepest;
}

}  // namespace

std::string Dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string AsSent(std::string_view text) {
  constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
  // Parses with the library that also writes answers, so that both read the text equally.
  auto sent = json::parse(Dump(text)).get<std::string>();
  for (size_t at = sent.find('\0'); at != std::string::npos; at = sent.find('\0', at)) {
    sent.replace(at, 1, kReplacement);
  }
  return sent;
}

json ErrorJson(const ApiError& error) {
  return {{"error", {{"code", error.status}, {"message", error.message}, {"type", error.type}}}};
}

ApiError ToApiError(const Status& status) {
  switch (status.code()) {
    case StatusCode::kInvalidArgument:
    case StatusCode::kBadFile:
      return {.status = 400, .type = "invalid_request_error", .message = status.message()};
    case StatusCode::kUnsupported:
      return {.status = 501, .type = "not_supported_error", .message = status.message()};
    case StatusCode::kResourceExhausted:
      return {.status = 400, .type = "exceed_context_size_error", .message = status.message()};
    default:
      return {.status = 500, .type = "server_error", .message = status.message()};
  }
}

ApiError NotFound(const std::string& what) {
  return {.status = 404, .type = "not_found_error", .message = what + " does not exist"};
}

Result<json> ParseJson(const std::string& body) {
  if (NestingDepth(body) > kMaxNesting) {
    return InvalidArgument(fmt::format("the body is nested more than {} levels deep", kMaxNesting));
  }
  json parsed = json::parse(body, nullptr, false);
  if (parsed.is_discarded()) return InvalidArgument("the body is not valid JSON");
  if (!parsed.is_object()) return InvalidArgument("the body must be a JSON object");
  return parsed;
}

Result<std::string> StringField(const json& body, const std::string& name) {
  const Fields fields(body, "");
  std::string text;
  RKV_RETURN_IF_ERROR(fields.Read(name, text));
  if (fields.Find(name) == nullptr) return fields.Wrong(name, "a string");
  return text;
}

std::string NextKey(const std::string& key, const Message& message) {
  // Writes lengths before texts, so that different conversations give different texts.
  const auto field = [](char kind, std::string_view text) {
    return fmt::format("{}{}:{}", kind, text.size(), text);
  };
  std::string said = key + field('r', message.role);
  std::string text;
  for (const Message::Part& part : message.parts) {
    text += part.text;
    if (!part.media.has_value()) continue;
    said += field('t', text) + field('m', Sha256(part.media->bytes));
    text.clear();
  }
  if (message.role == "assistant") {
    // Clients and templates trim answers.
    constexpr const char* kSpace = " \t\r\n";
    const size_t begin = text.find_first_not_of(kSpace);
    const size_t end = text.find_last_not_of(kSpace);
    text = begin == std::string::npos ? "" : text.substr(begin, end - begin + 1);
  }
  return Sha256(said + field('t', text));
}

std::vector<std::string> PrefixKeys(const std::string& scope, std::span<const Message> messages) {
  std::vector<std::string> keys;
  std::string key = Sha256(scope);
  for (const Message& message : messages) keys.push_back(key = NextKey(key, message));
  return keys;
}

}  // namespace rkv::app
