// Streams one answer to the client: text up to a stop, reasoning, and the logprobs of its tokens.
#ifndef RETENTIVEKV_APPS_RKV_SERVE_ANSWER_STREAM_H_
#define RETENTIVEKV_APPS_RKV_SERVE_ANSWER_STREAM_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "retentivekv/engine.h"
#include "serve/stop_filter.h"
#include "serve/ticket.h"

namespace rkv::app {

class AnswerStream {
 public:
  AnswerStream(std::shared_ptr<Ticket> ticket, std::vector<std::string> stops)
      : ticket_(std::move(ticket)), stops_(std::move(stops)) {}

  // False after a stop, which ends the answer.
  bool OnText(std::string_view piece);
  void OnReasoning(std::string_view piece);
  // Called before the text of the token. `n_top`: number of likeliest tokens to report with it.
  void OnToken(const Engine& engine, int32_t token, std::span<const float> logits, size_t n_top);
  // Sends the rest at the end of the answer.
  void Finish();

  bool stopped() const { return stops_.stopped(); }
  // All text sent so far.
  const std::string& text() const { return text_; }

 private:
  void Send(std::string text);

  std::shared_ptr<Ticket> ticket_;
  StopFilter stops_;
  std::vector<TokenLogprob> logprobs_;  // of tokens not yet sent
  std::string text_;
};

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_SERVE_ANSWER_STREAM_H_
