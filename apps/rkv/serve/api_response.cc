// Answers as JSON, whole or as the events of a stream.
#include <chrono>

#include "serve/api.h"
#include "serve/digest.h"

namespace rkv::app {

using nlohmann::json;

namespace {

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
