// Answers several conversations together: continuous batching.
#ifndef RETENTIVEKV_ENGINE_ANSWER_LOOP_H_
#define RETENTIVEKV_ENGINE_ANSWER_LOOP_H_

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "engine/conversation_impl.h"
#include "engine/reasoning_splitter.h"
#include "llama/model.h"
#include "llama/sampler.h"
#include "llama/token.h"

namespace rkv {

// Every step decodes one ubatch: the next token of each answer that is being generated, filled up
// with tokens of prompts that are being read. Pictures have ubatches of their own, since llama.cpp
// does not mix embeddings and tokens.
class AnswerLoop {
 public:
  explicit AnswerLoop(Model& model) : model_(model) {}
  const Model& model() const { return model_; }

  // The request takes part from the next step on. Fails for options that cannot sample an answer,
  // and for a forced text that cannot be tokenized. The request is unchanged then.
  Status Add(AnswerRequest& request);
  size_t size() const { return active_.size(); }
  bool answers(const Conversation& conversation) const;

  // Decodes one ubatch, and removes and returns the finished requests. A request that fails has its
  // error in its status. Its conversation is then as before its last message.
  std::vector<AnswerRequest*> Step();

  // Takes back the turns of all unfinished requests, and removes them.
  void Abort();

  // Reads the prompt of the only request and returns the logits [n_vocab] after it. Generates
  // nothing and leaves the turn open.
  Result<std::vector<float>> ReadPrompt();

 private:
  struct Active {
    explicit Active(const ReasoningTags& tags) : splitter(tags) {}

    AnswerRequest* request = nullptr;
    Conversation::Impl* conversation = nullptr;
    std::unique_ptr<Sampler> sampler;
    std::vector<Token> forced;         // with AnswerOptions::forced_text
    size_t n_forced = 0;               // of `forced`, already taken
    std::optional<Token> next_token;   // sampled and shown, not yet decoded
    std::optional<size_t> output_row;  // row of its logits in the current ubatch
    std::string unshown;               // incomplete character at the end of the answer so far
    ReasoningSplitter splitter;
    bool in_ubatch = false;  // tokens of it are in the current ubatch
    bool done = false;
    size_t n_waiting = 0;  // tokens of the prompt before the current ubatch
    Stopwatch clock;       // since the start, then since the first token
  };

  // One ubatch; an error ends the requests with tokens in it.
  Status DecodeNext();
  void Fail(Active& active, const Status& status);
  Status FillMedia(Active& active);
  void FillTokens();
  // Decodes the current ubatch with progress. Stops once all requests in it are cancelled.
  Status DecodeUbatch();
  bool ReadsPrompts() const;
  bool OnlyForCancelled() const;
  void Sample(Active& active);
  Token ChooseToken(Active& active) const;
  void Show(Active& active, const ReasoningSplitter::Parts& parts);
  void Finish(Active& active, StopReason reason);
  void HandleCancellation(Active& active);
  // `computed`: the finished share of the current ubatch, 0 to 1.
  void ReportProgress(const Active& active, double computed) const;
  Active* NextMedia();
  bool Cancelled(const Active& active) const;
  std::span<const float> Logits(const Active& active) const;  // of output_row
  bool LogitsAreFinite(const Active& active) const;

  Model& model_;
  std::vector<Active> active_;
  Ubatch ubatch_;
  // Full ubatches starve no request: conversations take turns in being first. Prompts come first
  // after a step in which a prompt got no tokens.
  size_t first_ = 0;
  bool prompt_left_out_ = false;
  bool media_last_ = false;  // the last step was a picture: answers get a turn between pictures
};

}  // namespace rkv

#endif  // RETENTIVEKV_ENGINE_ANSWER_LOOP_H_
