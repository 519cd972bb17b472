// The OpenAI protocol: requests from JSON, answers to JSON. Uses no network and no model.
#ifndef RETENTIVEKV_APPS_RKV_SERVE_API_H_
#define RETENTIVEKV_APPS_RKV_SERVE_API_H_

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "retentivekv/engine.h"

namespace rkv::app {

// An error in the form that clients receive; types are llama-server's.
struct ApiError {
  int status = 400;
  std::string type = "invalid_request_error";
  std::string message;
  int retry_after = 0;  // seconds; 0: not sent
};
nlohmann::json ErrorJson(const ApiError& error);
ApiError ToApiError(const Status& status);
ApiError NotFound(const std::string& what);

// The contents of one request.
struct GenerationRequest {
  std::vector<Message> messages;  // of a chat
  std::string text;               // of a completion, which has no messages
  CacheOptions cache;
  SamplingOptions sampling;
  std::optional<int> max_tokens;
  std::vector<std::string> stop;
  std::optional<int> top_logprobs;  // number of alternatives; unset: no logprobs
  std::string session;              // only conversations of the same session can be continued
  bool trace = false;               // include absorption and attention, for the memory view
  bool stream = false;
  bool include_usage = false;

  bool is_chat() const { return !messages.empty(); }
};

// Fetches a picture from a URL.
using FetchFunction = std::function<Result<std::string>(const std::string& url)>;

struct ParseContext {
  GenerationRequest defaults;
  FetchFunction fetch;  // null: remote pictures are refused
};

// Parses a request's body. Errors name the field and its possible values.
Result<nlohmann::json> ParseJson(const std::string& body);
Result<GenerationRequest> ParseChatRequest(const nlohmann::json& body, const ParseContext& context);
Result<GenerationRequest> ParseCompletionRequest(const nlohmann::json& body,
                                                 const ParseContext& context);
// A string field of a small request, e.g. "content" of /tokenize.
Result<std::string> StringField(const nlohmann::json& body, const std::string& name);

// The decoded bytes of a data: URL.
Result<std::string> DecodeDataUrl(std::string_view url, std::string_view field);

// A digest for each prefix of the messages, including pictures. `scope`: further text that must be
// equal. The last digest is the key of the whole conversation.
std::vector<std::string> PrefixKeys(const std::string& scope, std::span<const Message> messages);
std::string NextKey(const std::string& key, const Message& message);

struct TokenLogprob {
  struct Entry {
    std::string text;
    float logprob = 0;
  };
  Entry chosen;
  std::vector<Entry> top;
};

// A part of an answer, sent while it is generated.
struct AnswerPiece {
  std::string text = {};
  std::vector<TokenLogprob> logprobs = {};
  std::string reasoning = {};  // before the answer, where the template marks it
};

// The end of an answer.
struct AnswerSummary {
  std::string finish_reason;  // "stop" or "length"
  AnswerResult result;
  size_t n_cached_tokens = 0;  // of the prompt, not read again
  nlohmann::json kv;           // the object of --kv-report
  std::string conversation_id;
};

// Makes the JSON of one answer.
class ResponseWriter {
 public:
  ResponseWriter(const GenerationRequest& request, std::string model);

  nlohmann::json Whole(const AnswerPiece& answer, const AnswerSummary& summary) const;
  // The events of a streamed answer: at its start, for each piece, at its end.
  std::vector<nlohmann::json> Start() const;
  nlohmann::json Piece(const AnswerPiece& piece) const;
  std::vector<nlohmann::json> End(const AnswerSummary& summary) const;

 private:
  nlohmann::json Envelope(bool chunk) const;
  nlohmann::json Choice(bool chunk, const AnswerPiece& piece) const;

  bool chat_;
  bool logprobs_;
  bool include_usage_;
  std::string model_;
  std::string id_;
  int64_t created_;
};

// One line, for any bytes in its strings.
std::string Dump(const nlohmann::json& json);

// Replaces bytes that are not UTF-8, which JSON cannot hold, and NUL characters, which requests
// cannot hold. Clients can then send a model's text back. `text` must not end inside a character.
std::string AsSent(std::string_view text);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_SERVE_API_H_
