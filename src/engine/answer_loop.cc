// Fills, decodes and samples ubatches. Every exit of a request leaves its conversation either after
// its answer or before its last message.
#include "engine/answer_loop.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/utf8.h"

namespace rkv {

Status AnswerLoop::Add(AnswerRequest& request) {
  Conversation::Impl& conversation = request.conversation->impl();
  Active active(conversation.reasoning());
  active.request = &request;
  active.conversation = &conversation;
  RKV_ASSIGN_OR_RETURN(active.sampler, Sampler::Create(request.options.sampling, model_));
  if (active.sampler->n_history() > 0) {
    active.sampler->AcceptHistory(conversation.TextTokens());
  }
  if (request.options.forced_text.has_value()) {
    RKV_ASSIGN_OR_RETURN(active.forced, model_.Tokenize(*request.options.forced_text, false));
    active.forced.push_back(model_.EndOfAnswer());
  }
  request.result = {};
  request.status = {};
  request.result.n_prompt_tokens = active.conversation->n_waiting_tokens();
  active_.push_back(std::move(active));
  return OkStatus();
}

bool AnswerLoop::answers(const Conversation& conversation) const {
  return std::ranges::any_of(
      active_, [&](const Active& active) { return active.request->conversation == &conversation; });
}

std::vector<AnswerRequest*> AnswerLoop::Step() {
  for (Active& active : active_) {
    if (Cancelled(active)) HandleCancellation(active);
  }
  if (!std::ranges::all_of(active_, &Active::done) && DecodeNext().ok()) {
    for (Active& active : active_) {
      if (active.output_row.has_value()) Sample(active);
    }
  }
  std::vector<AnswerRequest*> finished;
  for (const Active& active : active_) {
    if (active.done) finished.push_back(active.request);
  }
  std::erase_if(active_, [](const Active& active) { return active.done; });
  return finished;
}

void AnswerLoop::Abort() {
  for (Active& active : active_) active.conversation->RollBackTurn();
  active_.clear();
}

Result<std::vector<float>> AnswerLoop::ReadPrompt() {
  Active& active = active_.front();
  while (!active.output_row.has_value()) RKV_RETURN_IF_ERROR(DecodeNext());
  const std::span<const float> logits = Logits(active);
  return std::vector<float>(logits.begin(), logits.end());
}

bool AnswerLoop::Cancelled(const Active& active) const {
  const std::atomic<bool>* cancel = active.request->options.cancel;
  return cancel != nullptr && cancel->load(std::memory_order_relaxed);
}

void AnswerLoop::HandleCancellation(Active& active) {
  if (active.next_token.has_value()) {
    Finish(active, StopReason::kCancelled);
  } else {
    active.conversation->RollBackTurn();
    active.request->result.stop = StopReason::kCancelled;
    active.done = true;
  }
}

void AnswerLoop::Fail(Active& active, const Status& status) {
  active.conversation->RollBackTurn();
  active.output_row.reset();
  active.request->status = status;
  active.done = true;
}

AnswerLoop::Active* AnswerLoop::NextMedia() {
  const bool text_waits = std::ranges::any_of(active_, [](const Active& active) {
    return !active.done && !active.conversation->next_is_media();
  });
  if (media_last_ && text_waits) return nullptr;
  for (Active& active : active_) {
    if (!active.done && active.conversation->next_is_media()) return &active;
  }
  return nullptr;
}

Status AnswerLoop::DecodeNext() {
  ubatch_.Clear();
  for (Active& active : active_) {
    active.output_row.reset();
    active.in_ubatch = false;
    active.n_waiting = active.conversation->n_waiting_tokens();
  }
  Active* media = NextMedia();
  media_last_ = media != nullptr;
  if (media != nullptr) {
    if (Status status = FillMedia(*media); !status.ok()) {
      if (status.code() == StatusCode::kCancelled) {
        HandleCancellation(*media);
      } else {
        Fail(*media, status);
      }
      return status;
    }
  } else {
    FillTokens();
  }
  Status status = DecodeUbatch();
  if (status.ok()) return status;
  for (Active& active : active_) {
    if (active.done || !active.in_ubatch) continue;
    if (status.code() == StatusCode::kCancelled) {
      HandleCancellation(active);
    } else {
      Fail(active, status);
    }
  }
  return status;
}

bool AnswerLoop::ReadsPrompts() const {
  return std::ranges::any_of(active_, [](const Active& active) {
    return active.in_ubatch && !active.next_token.has_value();
  });
}

bool AnswerLoop::OnlyForCancelled() const {
  return std::ranges::all_of(active_, [this](const Active& active) {
    return !active.in_ubatch || (Cancelled(active) && !active.next_token.has_value());
  });
}

Status AnswerLoop::DecodeUbatch() {
  // A decoding step is too short for progress reports.
  if (!ReadsPrompts()) return model_.Decode(ubatch_);
  const StepWatch watch{.stop = [this] { return OnlyForCancelled(); },
                        .on_progress =
                            [this](double computed) {
                              for (const Active& active : active_) {
                                if (active.in_ubatch && !active.next_token.has_value()) {
                                  ReportProgress(active, computed);
                                }
                              }
                            }};
  RKV_RETURN_IF_ERROR(model_.Decode(ubatch_, &watch));
  watch.on_progress(1.0);
  return OkStatus();
}

Status AnswerLoop::FillMedia(Active& active) {
  const Stopwatch encoding;
  if (active.request->options.on_progress) {
    active.request->options.on_progress("encoding pictures", 0);
  }
  ubatch_.caches.push_back({.cache = &active.conversation->cache()});
  const auto max_tokens = static_cast<size_t>(model_.options().n_ubatch);
  const StepWatch watch{.stop = [&] { return Cancelled(active); },
                        .on_progress =
                            [&](double encoded) {
                              if (active.request->options.on_progress) {
                                active.request->options.on_progress("encoding pictures", encoded);
                              }
                            }};
  active.in_ubatch = true;
  RKV_ASSIGN_OR_RETURN(active.output_row,
                       active.conversation->TakeMedia(max_tokens, watch, ubatch_));
  ubatch_.caches.back().prompt_follows = active.conversation->waiting();
  active.request->result.encode_seconds += encoding.Seconds();
  return OkStatus();
}

void AnswerLoop::FillTokens() {
  const auto max_tokens = static_cast<size_t>(model_.options().n_ubatch);
  first_ = (first_ + 1) % active_.size();
  // Answers first, so that they do not wait for the prompts of other requests.
  const bool answers_first = !std::exchange(prompt_left_out_, false);
  for (const bool answers : {answers_first, !answers_first}) {
    for (size_t i = 0; i < active_.size(); ++i) {
      Active& active = active_[(first_ + i) % active_.size()];
      const size_t room = max_tokens - ubatch_.tokens.size();
      if (active.done || active.next_token.has_value() != answers) continue;
      if (!answers && active.conversation->next_is_media()) continue;
      if (room == 0) {
        prompt_left_out_ |= !answers;
        continue;
      }
      const size_t index = ubatch_.caches.size();
      ubatch_.caches.push_back({.cache = &active.conversation->cache()});
      active.in_ubatch = true;
      active.output_row =
          answers ? active.conversation->TakeAnswerToken(index, *active.next_token, ubatch_)
                  : active.conversation->TakeText(index, room, ubatch_);
      ubatch_.caches.back().prompt_follows = active.conversation->waiting();
    }
  }
}

void AnswerLoop::ReportProgress(const Active& active, double computed) const {
  const AnswerOptions& options = active.request->options;
  if (!options.on_progress) return;
  const auto total = static_cast<double>(active.request->result.n_prompt_tokens);
  const auto before = static_cast<double>(active.n_waiting);
  const auto after = static_cast<double>(active.conversation->n_waiting_tokens());
  options.on_progress("reading the prompt", 1.0 - (before + computed * (after - before)) / total);
}

std::span<const float> AnswerLoop::Logits(const Active& active) const {
  return model_.Logits(*active.output_row);
}

bool AnswerLoop::LogitsAreFinite(const Active& active) const {
  // Minus infinity marks an impossible token.
  return std::ranges::all_of(Logits(active), [](float x) {
    return x < std::numeric_limits<float>::infinity();  // not for NaN
  });
}

Token AnswerLoop::ChooseToken(Active& active) const {
  const bool forced = !active.forced.empty();
  const Token token = forced ? active.forced[active.n_forced++] : kNoToken;
  if (const auto& on_logits = active.request->options.on_logits) {
    on_logits(Logits(active), token);
  }
  return forced ? token : active.sampler->Sample(model_, *active.output_row);
}

void AnswerLoop::Sample(Active& active) {
  AnswerResult& result = active.request->result;
  if (!active.next_token.has_value()) {
    result.prompt_seconds = active.clock.Seconds() - result.encode_seconds;
    active.clock.Restart();
  }
  if (!LogitsAreFinite(active)) {
    active.conversation->RollBackTurn();
    result.stop = StopReason::kNotFinite;
    active.done = true;
    return;
  }
  const Token token = ChooseToken(active);
  active.next_token.reset();
  const bool forced = !active.forced.empty();
  if (forced ? active.n_forced == active.forced.size()
             : token == kNoToken || model_.EndsAnswer(token)) {
    Finish(active, StopReason::kEndOfAnswer);
    return;
  }
  active.next_token = token;
  active.conversation->AddAnswerToken(token);
  ++result.n_generated;
  if (const auto& on_token = active.request->options.on_token) {
    on_token(token, Logits(active));
  }
  const std::vector<Token>& marks = active.conversation->reasoning().tokens;
  active.unshown += model_.TokenText(token, std::ranges::find(marks, token) != marks.end());
  const size_t end = CompleteUtf8Prefix(active.unshown);
  const std::string piece = active.unshown.substr(0, end);
  active.unshown.erase(0, end);
  Show(active, active.splitter.Push(piece));
  const int max_tokens = active.request->options.max_tokens;
  if (active.done) return;
  if (!forced && max_tokens >= 0 && result.n_generated >= static_cast<size_t>(max_tokens)) {
    Finish(active, StopReason::kMaxTokens);
  } else if (active.conversation->next_position() + 1 >= model_.n_ctx()) {
    Finish(active, StopReason::kContextFull);
  }
}

void AnswerLoop::Show(Active& active, const ReasoningSplitter::Parts& parts) {
  AnswerResult& result = active.request->result;
  result.reasoning += parts.reasoning;
  result.text += parts.answer;
  const AnswerOptions& options = active.request->options;
  const auto show = [](const auto& callback, const std::string& piece) {
    return piece.empty() || !callback || callback(piece);
  };
  const bool goes_on = show(options.on_reasoning, parts.reasoning);
  if (!show(options.on_text, parts.answer) || !goes_on) {
    if (!active.done) Finish(active, StopReason::kCancelled);
  }
}

void AnswerLoop::Finish(Active& active, StopReason reason) {
  active.done = true;
  AnswerResult& result = active.request->result;
  result.stop = reason;
  result.decode_seconds = active.clock.Seconds();
  Show(active, active.splitter.Finish());
  result.text += active.unshown;  // Not shown before: the character is incomplete.
  active.conversation->FinishAnswer(result.text, active.next_token);
}

}  // namespace rkv
