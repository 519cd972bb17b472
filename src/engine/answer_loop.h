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

  // The request takes part from the next step on. Fails for options that no answer can be sampled
  // with, and for a forced text that cannot be tokenized; the request is as before then.
  Status Add(AnswerRequest& request);
  size_t size() const { return active_.size(); }
  bool answers(const Conversation& conversation) const;

  // Decodes one ubatch; returns the requests that are done, which have left. A request that fails
  // has its error in its status, and its conversation is as before its last message.
  std::vector<AnswerRequest*> Step();

  // Takes back the turns of all that are not done, which leave.
  void Abort();

  // Reads the prompt of the only request and returns the logits [n_vocab] after it; generates
  // nothing and leaves the turn open.
  Result<std::vector<float>> ReadPrompt();

 private:
  struct Active {
    explicit Active(const ReasoningTags& tags) : splitter(tags) {}

    AnswerRequest* request = nullptr;
    Conversation::Impl* conversation = nullptr;
    std::unique_ptr<Sampler> sampler;
    std::vector<Token> forced;         // with AnswerOptions::forced_text
    size_t n_forced = 0;               // of these taken
    std::optional<Token> next_token;   // sampled and shown, not yet decoded
    std::optional<size_t> output_row;  // whose logits come out of the current ubatch
    std::string unshown;  // the beginning of a character that the answer so far ends with
    ReasoningSplitter splitter;
    bool in_ubatch = false;  // tokens of it are in the current ubatch
    bool done = false;
    size_t n_waiting = 0;  // tokens of the prompt before the current ubatch
    Stopwatch clock;       // since the start, then since the first token
  };

  // One ubatch; on an error, those whom it concerns are done.
  Status DecodeNext();
  void Fail(Active& active, const Status& status);
  Status FillMedia(Active& active);
  void FillTokens();
  // The current ubatch, with progress, until all whom it concerns are cancelled.
  Status DecodeUbatch();
  bool ReadsPrompts() const;
  bool OnlyForCancelled() const;
  void Sample(Active& active);
  Token ChooseToken(Active& active) const;
  void Show(Active& active, const ReasoningSplitter::Parts& parts);
  void Finish(Active& active, StopReason reason);
  void HandleCancellation(Active& active);
  // `computed`: how much of the current ubatch is done, 0 to 1.
  void ReportProgress(const Active& active, double computed) const;
  Active* NextMedia();
  bool Cancelled(const Active& active) const;
  std::span<const float> Logits(const Active& active) const;  // of output_row
  bool LogitsAreFinite(const Active& active) const;

  Model& model_;
  std::vector<Active> active_;
  Ubatch ubatch_;
  // Nobody starves when ubatches are full: conversations take turns in being first, and prompts
  // come first after a step in which one got nothing.
  size_t first_ = 0;
  bool prompt_left_out_ = false;
  bool media_last_ = false;  // the last step was a picture: answers get a turn between pictures
};

}  // namespace rkv

#endif  // RETENTIVEKV_ENGINE_ANSWER_LOOP_H_
