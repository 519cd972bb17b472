// Requests for answers, from JSON.
#include <fmt/format.h>

#include <limits>

#include "choices.h"
#include "serve/api.h"
#include "serve/api_fields.h"
#include "serve/digest.h"

namespace rkv::app {

using nlohmann::json;

namespace {

constexpr size_t kMaxStops = 16;
constexpr int kMaxTopLogprobs = 20;

Status CheckUnsupported(const Fields& fields) {
  // Unsupported fields that change the answer, with the values that change nothing.
  const auto refuse = [](const char* name, const std::string& possible) {
    return Unsupported(fmt::format("'{}' is not supported; {}", name, possible));
  };
  if (const json* field = fields.Find("repetition_penalty"); field != nullptr && *field != 1) {
    return refuse("repetition_penalty", "it is called repeat_penalty here");
  }
  if (const json* echo = fields.Find("echo"); echo != nullptr && *echo != false) {
    return refuse("echo", "leave it at false");
  }
  for (const char* name : {"n", "best_of"}) {
    const json* field = fields.Find(name);
    if (field != nullptr && (!field->is_number_integer() || *field != 1)) {
      return refuse(name, "send one request for each answer");
    }
  }
  for (const char* name : {"tools", "functions"}) {
    const json* field = fields.Find(name);
    if (field != nullptr && !field->empty()) return refuse(name, "leave it out");
  }
  for (const char* name : {"audio", "prediction", "json_schema", "suffix"}) {
    if (fields.Find(name) != nullptr) return refuse(name, "leave it out");
  }
  const json* format = fields.Find("response_format");
  if (format != nullptr && *format != json{{"type", "text"}}) {
    return refuse("response_format", "only {\"type\":\"text\"} is possible");
  }
  return OkStatus();
}

Status ReadStops(const Fields& fields, std::vector<std::string>& stops) {
  const json* field = fields.Find("stop");
  if (field == nullptr) return OkStatus();
  stops.clear();
  const json list = field->is_array() ? *field : json::array({*field});
  for (const json& stop : list) {
    if (!stop.is_string() || stop.get_ref<const std::string&>().empty()) {
      return fields.Wrong("stop", "a text that is not empty, or a list of such texts");
    }
    stops.push_back(stop);
  }
  if (stops.size() > kMaxStops) {
    return fields.Wrong("stop", fmt::format("a list of at most {} texts", kMaxStops));
  }
  return OkStatus();
}

Status ReadSession(const Fields& fields, std::string& session) {
  RKV_RETURN_IF_ERROR(fields.Read("session_id", session));
  constexpr std::string_view kAllowed =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
  if (session.size() > 128 || session.find_first_not_of(kAllowed) != std::string::npos) {
    return fields.Wrong("session_id", "at most 128 of the characters A-Z a-z 0-9 . _ -");
  }
  return OkStatus();
}

Status ReadCacheOptions(const Fields& fields, GenerationRequest& request) {
  const json* field = fields.Find("kv");
  if (field == nullptr) return OkStatus();
  if (!field->is_object())
    return fields.Wrong("kv", "an object with 'policy', 'budget' and 'trace'");
  const Fields kv(*field, "kv.");
  std::string policy, budget;
  RKV_RETURN_IF_ERROR(kv.Read("policy", policy));
  RKV_RETURN_IF_ERROR(kv.Read("budget", budget));
  RKV_RETURN_IF_ERROR(kv.Read("trace", request.trace));
  if (!policy.empty()) {
    RKV_ASSIGN_OR_RETURN(request.cache.policy, ParsePolicySpec(policy));
    // The server's budget does not apply to a policy that keeps everything.
    const PolicyDescription* known = FindPolicy(request.cache.policy.name);
    if (known != nullptr && !known->evicts) request.cache.budget = {};
  }
  if (!budget.empty()) {
    RKV_ASSIGN_OR_RETURN(request.cache.budget, ParseBudget(budget));
    // A budget without a policy selects the default of the policies that take budgets.
    const PolicyDescription* known = FindPolicy(request.cache.policy.name);
    if (policy.empty() && known != nullptr && !known->evicts) request.cache.policy = {};
  }
  request.cache.policy = ChosenPolicy(request.cache);
  return OkStatus();
}

Status ReadCommon(const Fields& fields, GenerationRequest& request) {
  RKV_RETURN_IF_ERROR(CheckUnsupported(fields));
  RKV_RETURN_IF_ERROR(ReadSampling(fields, request.sampling));
  int64_t max_tokens = -1;
  for (const char* name : {"max_tokens", "max_completion_tokens", "n_predict"}) {
    const json* field = fields.Find(name);
    const bool no_limit = field != nullptr && !field->is_number_unsigned() && *field == -1;
    if (no_limit) continue;  // as in llama.cpp
    RKV_RETURN_IF_ERROR(fields.Read(name, 1, std::numeric_limits<int>::max(), max_tokens));
  }
  if (max_tokens > 0) request.max_tokens = static_cast<int>(max_tokens);
  RKV_RETURN_IF_ERROR(fields.Read("stream", request.stream));
  if (const json* options = fields.Find("stream_options"); options != nullptr) {
    if (!options->is_object()) return fields.Wrong("stream_options", "an object");
    RKV_RETURN_IF_ERROR(
        Fields(*options, "stream_options.").Read("include_usage", request.include_usage));
  }
  std::string model;
  RKV_RETURN_IF_ERROR(fields.Read("model", model));
  RKV_RETURN_IF_ERROR(ReadStops(fields, request.stop));
  RKV_RETURN_IF_ERROR(ReadSession(fields, request.session));
  return ReadCacheOptions(fields, request);
}

bool IsRemote(std::string_view url) {
  return url.starts_with("http://") || url.starts_with("https://");
}

Result<MediaFile> ReadImageUrl(const Fields& fields, const std::string& where,
                               const FetchFunction& fetch) {
  // {"image_url": {"url": "..."}}, or the text alone.
  const json* field = fields.Find("image_url");
  if (field != nullptr && field->is_object()) field = Fields(*field, "").Find("url");
  if (field == nullptr || !field->is_string()) {
    return fields.Wrong("image_url", "an object with a 'url', or a text");
  }
  const auto& url = field->get_ref<const std::string&>();
  MediaFile file{.name = where + "image_url", .bytes = {}};
  if (IsRemote(url) && fetch == nullptr) {
    return InvalidArgument(
        fmt::format("'{}' names a picture on another machine, which this server does not fetch; "
                    "send it as a data: URL, or start the server with --allow-remote-images",
                    file.name));
  }
  if (IsRemote(url)) {
    RKV_ASSIGN_OR_RETURN(file.bytes, fetch(url));
  } else {
    RKV_ASSIGN_OR_RETURN(file.bytes, DecodeDataUrl(url, file.name));
  }
  return file;
}

Result<Message::Part> ParsePart(const json& part, const std::string& where,
                                const FetchFunction& fetch) {
  const Fields fields(part, where);
  std::string type;
  RKV_RETURN_IF_ERROR(fields.Read("type", type));
  Message::Part result;
  if (type == "text") {
    if (fields.Find("text") == nullptr) return fields.Wrong("text", "a string");
    RKV_RETURN_IF_ERROR(fields.Read("text", result.text));
  } else if (type == "image_url") {
    RKV_ASSIGN_OR_RETURN(result.media, ReadImageUrl(fields, where, fetch));
  } else if (type == "input_audio") {
    const json* audio = fields.Find("input_audio");
    const json* data =
        audio != nullptr && audio->is_object() ? Fields(*audio, "").Find("data") : nullptr;
    result.media = MediaFile{.name = where + "input_audio", .bytes = {}};
    if (data == nullptr || !data->is_string() ||
        !DecodeBase64(data->get_ref<const std::string&>(), result.media->bytes)) {
      return fields.Wrong("input_audio", "an object with 'data' in base64");
    }
  } else {
    return fields.Wrong("type", "text, image_url or input_audio");
  }
  return result;
}

Result<Message> ParseMessage(const json& message, const std::string& where,
                             const FetchFunction& fetch) {
  if (!message.is_object()) {
    return InvalidArgument(fmt::format("'{}' must be an object", where));
  }
  const Fields fields(message, where + ".");
  Message result;
  RKV_RETURN_IF_ERROR(fields.Read("role", result.role));
  if (result.role == "developer") result.role = "system";
  if (result.role != "system" && result.role != "user" && result.role != "assistant") {
    return fields.Wrong("role", "system, user or assistant");
  }
  const json* content = fields.Find("content");
  if (content != nullptr && content->is_string()) {
    RKV_RETURN_IF_ERROR(fields.Read("content", result.parts.emplace_back().text));
    return result;
  }
  if (content == nullptr || !content->is_array()) {
    return fields.Wrong("content", "a text, or a list of parts");
  }
  for (size_t i = 0; i < content->size(); ++i) {
    const json& part = (*content)[i];
    const std::string part_where = fmt::format("{}.content[{}].", where, i);
    if (!part.is_object()) {
      return fields.Wrong(fmt::format("content[{}]", i), "an object with a 'type'");
    }
    RKV_ASSIGN_OR_RETURN(Message::Part parsed, ParsePart(part, part_where, fetch));
    if (parsed.media.has_value() && result.role != "user") {
      return fields.Wrong("content", "text: only a user's message can have pictures");
    }
    result.parts.push_back(std::move(parsed));
  }
  return result;
}

// Checked before any picture is fetched or decoded.
Status CheckMediaCount(const json& messages) {
  size_t n = 0;
  for (const json& message : messages) {
    const auto content = message.is_object() ? message.find("content") : message.end();
    if (content == message.end() || !content->is_array()) continue;
    for (const json& part : *content) {
      n += part.is_object() && (part.contains("image_url") || part.contains("input_audio"));
    }
  }
  if (n <= kMaxMediaFiles) return OkStatus();
  return InvalidArgument(fmt::format(
      "'messages' have {} pictures and clips; a request takes up to {}", n, kMaxMediaFiles));
}

}  // namespace

Result<std::string> DecodeDataUrl(std::string_view url, std::string_view field) {
  constexpr std::string_view kBase64 = ";base64";
  const size_t comma = url.find(',');
  std::string bytes;
  if (!url.starts_with("data:") || comma == std::string_view::npos ||
      !url.substr(0, comma).ends_with(kBase64)) {
    return InvalidArgument(
        fmt::format("'{}' must be a data URL: data:image/png;base64,...", field));
  }
  if (!DecodeBase64(url.substr(comma + 1), bytes)) {
    return InvalidArgument(fmt::format("'{}' is not valid base64", field));
  }
  return bytes;
}

Result<GenerationRequest> ParseChatRequest(const json& body, const ParseContext& context) {
  GenerationRequest request = context.defaults;
  const Fields fields(body, "");
  RKV_RETURN_IF_ERROR(ReadCommon(fields, request));
  bool logprobs = false;
  int64_t top = 0;
  RKV_RETURN_IF_ERROR(fields.Read("logprobs", logprobs));
  RKV_RETURN_IF_ERROR(fields.Read("top_logprobs", 0, kMaxTopLogprobs, top));
  if (logprobs) request.top_logprobs = static_cast<int>(top);
  if (top > 0 && !logprobs) return InvalidArgument("'top_logprobs' needs 'logprobs': true");

  const json* messages = fields.Find("messages");
  if (messages == nullptr || !messages->is_array() || messages->empty()) {
    return fields.Wrong("messages", "a list with at least one message");
  }
  RKV_RETURN_IF_ERROR(CheckMediaCount(*messages));
  for (size_t i = 0; i < messages->size(); ++i) {
    RKV_ASSIGN_OR_RETURN(
        Message message,
        ParseMessage((*messages)[i], fmt::format("messages[{}]", i), context.fetch));
    request.messages.push_back(std::move(message));
  }
  if (request.messages.back().role != "user") {
    return InvalidArgument("the last of 'messages' must be a user's message");
  }
  return request;
}

Result<GenerationRequest> ParseCompletionRequest(const json& body, const ParseContext& context) {
  GenerationRequest request = context.defaults;
  const Fields fields(body, "");
  RKV_RETURN_IF_ERROR(ReadCommon(fields, request));
  int64_t top = -1;
  RKV_RETURN_IF_ERROR(fields.Read("logprobs", 0, kMaxTopLogprobs, top));
  if (top >= 0) request.top_logprobs = static_cast<int>(top);
  const json* prompt = fields.Find("prompt");
  // A list with one text equals the text.
  if (prompt != nullptr && prompt->is_array() && prompt->size() == 1) prompt = &prompt->front();
  if (prompt == nullptr || !prompt->is_string() || prompt->get_ref<const std::string&>().empty()) {
    return fields.Wrong("prompt", "a text that is not empty");
  }
  request.text = *prompt;
  RKV_RETURN_IF_ERROR(fields.CheckText("prompt", request.text));
  return request;
}

}  // namespace rkv::app
