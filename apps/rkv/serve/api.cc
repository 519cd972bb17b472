#include "serve/api.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cmath>
#include <limits>

#include "choices.h"
#include "serve/digest.h"

namespace rkv::app {

using nlohmann::json;

namespace {

constexpr size_t kMaxStops = 16;
constexpr int kMaxTopLogprobs = 20;
constexpr int kMaxNesting = 64;

// Typed access to the fields of a JSON object. null counts as absent, as OpenAI's does.
class Fields {
 public:
  Fields(const json& object, std::string where) : object_(object), where_(std::move(where)) {}

  const json* Find(const std::string& name) const {
    const auto found = object_.find(name);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  Status Read(const std::string& name, bool& value) const {
    const json* field = Find(name);
    if (field == nullptr) return OkStatus();
    if (!field->is_boolean()) return Wrong(name, "true or false");
    value = field->get<bool>();
    return OkStatus();
  }

  Status Read(const std::string& name, double min, double max, float& value) const {
    const json* field = Find(name);
    if (field == nullptr) return OkStatus();
    const double number = field->is_number() ? field->get<double>() : std::nan("");
    if (!(number >= min && number <= max)) {
      return Wrong(name, fmt::format("a number from {} to {}", min, max));
    }
    value = static_cast<float>(number);
    return OkStatus();
  }

  Status Read(const std::string& name, int64_t min, int64_t max, int64_t& value) const {
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

  Status Read(const std::string& name, std::string& value) const {
    const json* field = Find(name);
    if (field == nullptr) return OkStatus();
    if (!field->is_string()) return Wrong(name, "a string");
    value = field->get_ref<const std::string&>();
    return CheckText(name, value);
  }

  // Chat templates are C strings.
  Status CheckText(const std::string& name, const std::string& text) const {
    if (text.find('\0') == std::string::npos) return OkStatus();
    return InvalidArgument(fmt::format("'{}{}' contains a NUL character", where_, name));
  }

  Status Wrong(const std::string& name, const std::string& expected) const {
    return InvalidArgument(fmt::format("'{}{}' must be {}", where_, name, expected));
  }

 private:
  const json& object_;
  std::string where_;  // "messages[2]." for messages
};

// How deep the brackets go; copying JSON takes stack for each level.
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

Status CheckUnsupported(const Fields& fields) {
  // Fields that change the answer and that are not served, with the values that change nothing.
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
      return fields.Wrong("stop", "a text, or a list of texts, that are not empty");
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

Status ReadMemory(const Fields& fields, GenerationRequest& request) {
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
    // The server's budget is no matter of a policy that keeps everything.
    const PolicyDescription* known = FindPolicy(request.cache.policy.name);
    if (known != nullptr && !known->evicts) request.cache.budget = {};
  }
  if (!budget.empty()) {
    RKV_ASSIGN_OR_RETURN(request.cache.budget, ParseBudget(budget));
    // Without a policy of its own, a budget means the default of those that can meet it.
    const PolicyDescription* known = FindPolicy(request.cache.policy.name);
    if (policy.empty() && known != nullptr && !known->evicts) request.cache.policy = {};
  }
  request.cache.policy = ChosenPolicy(request.cache);
  return OkStatus();
}

// {"15043": 1}, as OpenAI's, or [[15043, 1], [15044, false]], as llama.cpp's, where false is never.
Status ReadLogitBias(const Fields& fields, SamplingOptions& sampling) {
  const json* field = fields.Find("logit_bias");
  if (field == nullptr) return OkStatus();
  const Status wrong = fields.Wrong(
      "logit_bias",
      "an object {\"TOKEN\": BIAS, ...}, or a list [[TOKEN, BIAS], ...], of token ids");
  if (!field->is_object() && !field->is_array()) return wrong;
  sampling.logit_bias.clear();
  const auto add = [&sampling](int64_t token, const json& bias) {
    const bool never = bias.is_boolean() && !bias.get<bool>();
    if ((!never && !bias.is_number()) || token < 0 || token > std::numeric_limits<int32_t>::max()) {
      return false;
    }
    sampling.logit_bias.emplace_back(
        static_cast<int32_t>(token),
        never ? -std::numeric_limits<float>::infinity() : bias.get<float>());
    return true;
  };
  if (field->is_object()) {
    for (const auto& [key, bias] : field->items()) {
      int64_t token = 0;
      const char* const end = key.data() + key.size();
      const auto [at, error] = std::from_chars(key.data(), end, token);
      if (error != std::errc() || at != end || !add(token, bias)) return wrong;
    }
    return OkStatus();
  }
  for (const json& pair : *field) {
    const bool good = pair.is_array() && pair.size() == 2 && pair[0].is_number_integer() &&
                      add(pair[0].get<int64_t>(), pair[1]);
    if (!good) return wrong;
  }
  return OkStatus();
}

Status ReadSamplers(const Fields& fields, SamplingOptions& sampling) {
  const json* field = fields.Find("samplers");
  if (field == nullptr) return OkStatus();
  if (field->is_string()) {
    RKV_ASSIGN_OR_RETURN(sampling.samplers,
                         ParseSamplerLetters(field->get_ref<const std::string&>()));
    return OkStatus();
  }
  std::string names;
  for (const json& name : *field) {
    if (!field->is_array() || !name.is_string()) names.clear();
    if (!field->is_array() || !name.is_string()) break;
    names += fmt::format("{}{}", names.empty() ? "" : ";", name.get_ref<const std::string&>());
  }
  if (names.empty()) return fields.Wrong("samplers", "a list of samplers' names, or their letters");
  RKV_ASSIGN_OR_RETURN(sampling.samplers, ParseSamplers(names));
  return OkStatus();
}

Status ReadTexts(const Fields& fields, const std::string& name, std::vector<std::string>& texts) {
  const json* field = fields.Find(name);
  if (field == nullptr) return OkStatus();
  const auto is_text = [](const json& text) { return text.is_string(); };
  if (!field->is_array() || !std::ranges::all_of(*field, is_text)) {
    return fields.Wrong(name, "a list of texts");
  }
  texts = field->get<std::vector<std::string>>();
  for (const std::string& text : texts) RKV_RETURN_IF_ERROR(fields.CheckText(name, text));
  return OkStatus();
}

// llama.cpp's samplers beside temperature, top-k, top-p and min-p. What values are possible, the
// engine says when the answer begins.
Status ReadMoreSamplers(const Fields& fields, SamplingOptions& sampling) {
  constexpr double kMax = std::numeric_limits<float>::max();
  const std::pair<const char*, float*> numbers[] = {
      {"typical_p", &sampling.typical_p},
      {"top_n_sigma", &sampling.top_n_sigma},
      {"xtc_probability", &sampling.xtc_probability},
      {"xtc_threshold", &sampling.xtc_threshold},
      {"dynatemp_range", &sampling.dynatemp_range},
      {"dynatemp_exponent", &sampling.dynatemp_exponent},
      {"repeat_penalty", &sampling.repeat_penalty},
      {"presence_penalty", &sampling.presence_penalty},
      {"frequency_penalty", &sampling.frequency_penalty},
      {"dry_multiplier", &sampling.dry_multiplier},
      {"dry_base", &sampling.dry_base},
      {"mirostat_tau", &sampling.mirostat_tau},
      {"mirostat_eta", &sampling.mirostat_eta},
      {"adaptive_target", &sampling.adaptive_target},
      {"adaptive_decay", &sampling.adaptive_decay}};
  for (const auto& [name, value] : numbers) {
    RKV_RETURN_IF_ERROR(fields.Read(name, -kMax, kMax, *value));
  }
  const std::pair<const char*, int*> counts[] = {
      {"repeat_last_n", &sampling.repeat_last_n},
      {"dry_allowed_length", &sampling.dry_allowed_length},
      {"dry_penalty_last_n", &sampling.dry_penalty_last_n},
      {"mirostat", &sampling.mirostat}};
  for (const auto& [name, value] : counts) {
    int64_t number = *value;
    RKV_RETURN_IF_ERROR(fields.Read(name, std::numeric_limits<int>::min(),
                                    std::numeric_limits<int>::max(), number));
    *value = static_cast<int>(number);
  }
  RKV_RETURN_IF_ERROR(ReadTexts(fields, "dry_sequence_breakers", sampling.dry_sequence_breakers));
  RKV_RETURN_IF_ERROR(fields.Read("grammar", sampling.grammar));
  RKV_RETURN_IF_ERROR(ReadLogitBias(fields, sampling));
  return ReadSamplers(fields, sampling);
}

Status ReadCommon(const Fields& fields, GenerationRequest& request) {
  RKV_RETURN_IF_ERROR(CheckUnsupported(fields));
  SamplingOptions& sampling = request.sampling;
  RKV_RETURN_IF_ERROR(fields.Read("temperature", 0, 100, sampling.temperature));
  RKV_RETURN_IF_ERROR(fields.Read("top_p", 0, 1, sampling.top_p));
  RKV_RETURN_IF_ERROR(fields.Read("min_p", 0, 1, sampling.min_p));
  int64_t top_k = sampling.top_k;
  RKV_RETURN_IF_ERROR(fields.Read("top_k", -1, std::numeric_limits<int>::max(), top_k));
  sampling.top_k = static_cast<int>(top_k);
  int64_t seed = sampling.seed;
  RKV_RETURN_IF_ERROR(fields.Read("seed", std::numeric_limits<int64_t>::min(),
                                  std::numeric_limits<int64_t>::max(), seed));
  sampling.seed = static_cast<uint32_t>(seed);  // -1: random
  RKV_RETURN_IF_ERROR(fields.Read("ignore_eos", sampling.ignore_eos));
  RKV_RETURN_IF_ERROR(ReadMoreSamplers(fields, sampling));
  int64_t max_tokens = -1;
  for (const char* name : {"max_tokens", "max_completion_tokens", "n_predict"}) {
    const json* field = fields.Find(name);
    const bool no_limit = field != nullptr && !field->is_number_unsigned() && *field == -1;
    if (no_limit) continue;  // as for llama.cpp
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
  return ReadMemory(fields, request);
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

// Before any of them is fetched or decoded.
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

json EntryJson(const TokenLogprob::Entry& entry) {
  json bytes = json::array();
  for (const char c : entry.text) bytes.push_back(static_cast<unsigned char>(c));
  return {{"token", entry.text}, {"logprob", entry.logprob}, {"bytes", bytes}};
}

json ChatLogprobs(const std::vector<TokenLogprob>& logprobs) {
  json content = json::array();
  for (const TokenLogprob& token : logprobs) {
    json entry = EntryJson(token.chosen);
    entry["top_logprobs"] = json::array();
    for (const auto& top : token.top) entry["top_logprobs"].push_back(EntryJson(top));
    content.push_back(std::move(entry));
  }
  return {{"content", content}};
}

json CompletionLogprobs(const std::vector<TokenLogprob>& logprobs) {
  json result = {{"tokens", json::array()},
                 {"token_logprobs", json::array()},
                 {"top_logprobs", json::array()}};
  for (const TokenLogprob& token : logprobs) {
    result["tokens"].push_back(token.chosen.text);
    result["token_logprobs"].push_back(token.chosen.logprob);
    json top = json::object();
    for (const auto& entry : token.top) top[entry.text] = entry.logprob;
    result["top_logprobs"].push_back(std::move(top));
  }
  return result;
}

double PerSecond(size_t n, double seconds) {
  return seconds > 0 ? static_cast<double>(n) / seconds : 0.0;
}

json Usage(const AnswerSummary& summary) {
  const size_t prompt = summary.n_cached_tokens + summary.result.n_prompt_tokens;
  return {{"prompt_tokens", prompt},
          {"completion_tokens", summary.result.n_generated},
          {"total_tokens", prompt + summary.result.n_generated},
          {"prompt_tokens_details", {{"cached_tokens", summary.n_cached_tokens}}},
          {"kv_bytes", summary.kv.value("held_bytes", uint64_t{0})},
          {"kv_bytes_full", summary.kv.value("full_bytes", uint64_t{0})}};
}

void AddReports(const AnswerSummary& summary, json& response) {
  const AnswerResult& result = summary.result;
  response["timings"] = {
      {"cache_n", summary.n_cached_tokens},
      {"prompt_n", result.n_prompt_tokens},
      {"prompt_ms", 1000 * result.prompt_seconds},
      {"prompt_per_second", PerSecond(result.n_prompt_tokens, result.prompt_seconds)},
      {"encode_ms", 1000 * result.encode_seconds},
      {"predicted_n", result.n_generated},
      {"predicted_ms", 1000 * result.decode_seconds},
      {"predicted_per_second", PerSecond(result.n_generated, result.decode_seconds)}};
  response["kv"] = summary.kv;
  response["conversation_id"] = summary.conversation_id;
}

}  // namespace

std::string Dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string AsSent(std::string_view text) {
  constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
  // By the library that writes answers, so that it cannot see it otherwise.
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
    return InvalidArgument("the last of 'messages' must be the user's");
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
  // A list of one text counts as the text.
  if (prompt != nullptr && prompt->is_array() && prompt->size() == 1) prompt = &prompt->front();
  if (prompt == nullptr || !prompt->is_string() || prompt->get_ref<const std::string&>().empty()) {
    return fields.Wrong("prompt", "a text that is not empty");
  }
  request.text = *prompt;
  RKV_RETURN_IF_ERROR(fields.CheckText("prompt", request.text));
  return request;
}

std::string NextKey(const std::string& key, const Message& message) {
  // Lengths before texts, so that no two conversations write the same.
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

ResponseWriter::ResponseWriter(const GenerationRequest& request, std::string model)
    : chat_(request.is_chat()),
      logprobs_(request.top_logprobs.has_value()),
      include_usage_(request.include_usage),
      model_(std::move(model)),
      id_((chat_ ? "chatcmpl-" : "cmpl-") + RandomHex(12)),
      created_(std::chrono::duration_cast<std::chrono::seconds>(
                   std::chrono::system_clock::now().time_since_epoch())
                   .count()) {}

json ResponseWriter::Envelope(bool chunk) const {
  return {{"id", id_},
          {"object", !chat_  ? "text_completion"
                     : chunk ? "chat.completion.chunk"
                             : "chat.completion"},
          {"created", created_},
          {"model", model_},
          {"choices", json::array()}};
}

json ResponseWriter::Choice(bool chunk, const AnswerPiece& piece) const {
  json choice = {{"index", 0}, {"finish_reason", nullptr}, {"logprobs", nullptr}};
  if (!chat_) {
    choice["text"] = piece.text;
  } else if (chunk) {
    choice["delta"] = json::object();
    if (!piece.reasoning.empty()) choice["delta"]["reasoning_content"] = piece.reasoning;
    if (!piece.text.empty() || piece.reasoning.empty()) choice["delta"]["content"] = piece.text;
  } else {
    choice["message"] = {{"role", "assistant"}, {"content", piece.text}};
    if (!piece.reasoning.empty()) choice["message"]["reasoning_content"] = piece.reasoning;
  }
  if (logprobs_) {
    choice["logprobs"] = chat_ ? ChatLogprobs(piece.logprobs) : CompletionLogprobs(piece.logprobs);
  }
  return choice;
}

json ResponseWriter::Whole(const AnswerPiece& answer, const AnswerSummary& summary) const {
  json response = Envelope(false);
  json choice = Choice(false, answer);
  choice["finish_reason"] = summary.finish_reason;
  response["choices"].push_back(std::move(choice));
  response["usage"] = Usage(summary);
  AddReports(summary, response);
  return response;
}

std::vector<json> ResponseWriter::Start() const {
  if (!chat_) return {};
  json chunk = Envelope(true);
  chunk["choices"].push_back({{"index", 0},
                              {"delta", {{"role", "assistant"}, {"content", ""}}},
                              {"finish_reason", nullptr},
                              {"logprobs", nullptr}});
  return {chunk};
}

json ResponseWriter::Piece(const AnswerPiece& piece) const {
  json chunk = Envelope(true);
  chunk["choices"].push_back(Choice(true, piece));
  return chunk;
}

std::vector<json> ResponseWriter::End(const AnswerSummary& summary) const {
  json last = Envelope(true);
  json choice = {{"index", 0}, {"finish_reason", summary.finish_reason}, {"logprobs", nullptr}};
  if (chat_) {
    choice["delta"] = json::object();
  } else {
    choice["text"] = "";
  }
  last["choices"].push_back(std::move(choice));
  AddReports(summary, last);
  std::vector<json> events = {std::move(last)};
  if (include_usage_) {
    json usage = Envelope(true);
    usage["usage"] = Usage(summary);
    events.push_back(std::move(usage));
  }
  return events;
}

}  // namespace rkv::app
