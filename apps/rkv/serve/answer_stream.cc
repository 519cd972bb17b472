#include "serve/answer_stream.h"

#include <algorithm>
#include <cmath>

namespace rkv::app {

bool AnswerStream::OnText(std::string_view piece) {
  // The text as the client receives it: the key of its next request is made of that text.
  Send(stops_.Push(AsSent(piece)));
  return !stops_.stopped();
}

void AnswerStream::OnReasoning(std::string_view piece) {
  ticket_->Push(AnswerPiece{.logprobs = std::exchange(logprobs_, {}),
                            .reasoning = std::string(AsSent(piece))});
}

void AnswerStream::OnToken(const Engine& engine, int32_t token, std::span<const float> logits,
                           size_t n_top) {
  const float max = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit - max));
  const double log_sum = max + std::log(sum);
  const auto entry = [&](int32_t id) {
    // JSON has no infinity.
    const double logprob = std::max(logits[static_cast<size_t>(id)] - log_sum, -9999.0);
    return TokenLogprob::Entry{*engine.Detokenize({&id, 1}), static_cast<float>(logprob)};
  };
  const size_t n = std::min(n_top, logits.size());
  std::vector<int32_t> order(logits.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  std::ranges::partial_sort(
      order, order.begin() + static_cast<ptrdiff_t>(n), [&](int32_t a, int32_t b) {
        return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
      });
  TokenLogprob logprob{.chosen = entry(token), .top = {}};
  for (size_t i = 0; i < n; ++i) logprob.top.push_back(entry(order[i]));
  logprobs_.push_back(std::move(logprob));
}

void AnswerStream::Finish() {
  Send(stops_.Finish());
  if (logprobs_.empty() || stops_.stopped()) return;
  ticket_->Push(AnswerPiece{"", std::exchange(logprobs_, {})});
}

void AnswerStream::Send(std::string text) {
  if (text.empty()) return;
  text_ += text;
  ticket_->Push(AnswerPiece{std::move(text), std::exchange(logprobs_, {})});
}

}  // namespace rkv::app
