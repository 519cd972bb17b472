// Models and conversations: an application's interface to talk about pictures with a bounded cache.
//
//   auto engine = *rkv::Engine::Load({.model = "m.gguf", .mmproj = "mmproj.gguf"});
//   auto chat = *engine->NewConversation(
//       {.policy = {.name = "retentive"}, .budget = *rkv::ParseBudget("20%")});
//   chat->AddUserMessage("What is written here?", std::vector<std::string>{"page.png"});
//   auto answer = engine->Answer(*chat, {.on_text = [](auto piece) { return Print(piece); }});
#ifndef RETENTIVEKV_ENGINE_H_
#define RETENTIVEKV_ENGINE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "retentivekv/chat.h"
#include "retentivekv/inspect.h"
#include "retentivekv/kv_cache.h"
#include "retentivekv/model_options.h"
#include "retentivekv/options.h"
#include "retentivekv/status.h"

namespace rkv {

// Called with the name of a long step and the finished fraction of it, 0 to 1. `what` is e.g.
// "loading model".
using ProgressFunction = std::function<void(std::string_view what, double fraction)>;

enum class StopReason {
  kEndOfAnswer,
  kMaxTokens,
  kContextFull,
  kCancelled,
  // The model's logits were not numbers, so there is no next token. Its weights are broken, or not
  // made for this text. The turn is taken back; other conversations of the call are not affected.
  kNotFinite,
};

struct AnswerOptions {
  int max_tokens = -1;  // at least 1; -1: until the model ends its answer or the context is full
  SamplingOptions sampling = {};
  // Gets the answer as it grows, in whole UTF-8 characters. An incomplete character at the end
  // waits for the next call. Return false to stop the answer.
  std::function<bool(std::string_view piece)> on_text = {};
  // The same for the model's reasoning before the answer, if its template marks reasoning.
  std::function<bool(std::string_view piece)> on_reasoning = {};
  // Gets each token of the answer once it is chosen, before on_text, except the end of the answer.
  // `logits`: the next-token logits [n_vocab] that it was chosen by.
  std::function<void(int32_t token, std::span<const float> logits)> on_token = {};
  ProgressFunction on_progress = {};  // encoding pictures and reading the prompt
  // Set it from any thread or signal handler to stop the answer. The current step ends at its next
  // operation, unless it also serves answers that are not stopped.
  const std::atomic<bool>* cancel = nullptr;

  // For evaluation. Forces the answer to be this text, then the model's end of an answer.
  // max_tokens does not apply.
  std::optional<std::string> forced_text = {};
  // Gets the next-token logits [n_vocab] before each token of the answer is chosen, its end
  // included. `forced`: the next token of forced_text, or -1 without forced_text.
  std::function<void(std::span<const float> logits, int32_t forced)> on_logits = {};
};

struct AnswerResult {
  std::string text = {};
  std::string reasoning = {};  // before the answer, if the template marks it
  StopReason stop = StopReason::kEndOfAnswer;
  size_t n_prompt_tokens = 0;  // read for this answer, visual tokens included
  size_t n_generated = 0;
  double encode_seconds = 0;  // vision or audio encoder
  double prompt_seconds = 0;  // reading the prompt, without encoding
  double decode_seconds = 0;  // after the first token
};

// kInternal with a message for users if the answer stopped for kNotFinite.
Status CheckFinite(const AnswerResult& answer);

class Engine;

// One conversation and its cache. Not thread-safe. Must not outlive its Engine.
class Conversation {
 public:
  ~Conversation();
  Conversation(const Conversation&) = delete;
  Conversation& operator=(const Conversation&) = delete;

  // Appends a user's message; files (pictures, audio) precede the text, or replace its
  // MediaMarker()s if there is one for each. The model reads it when it is answered. Control tokens
  // in the text are plain text. On an error the conversation is as it was.
  Status AddUserMessage(std::string_view text, std::span<const std::string> files = {});
  // The same with files that are in memory.
  Status AddUserMessageWithMedia(std::string_view text, std::span<const MediaFile> media);

  // Appends messages, of which the last is to be answered: a user's next message, or a whole
  // conversation with answers that were given elsewhere. They are one turn for Undo().
  Status AddMessages(std::span<const Message> messages);
  // Appends text for the model to continue, without the chat template.
  Status AddText(std::string_view text);

  // Tokens that will be read when the conversation is answered: their number, visual tokens
  // included, and their values, with -1 for tokens of pictures and clips.
  size_t n_waiting_tokens() const;
  std::vector<int32_t> waiting_tokens() const;
  // Tokens of an answer for which the context has room after the waiting tokens.
  size_t max_answer_tokens() const;
  // Maximum bytes that the cache can hold until all waiting tokens and `n_answer_tokens` of an
  // answer have been read.
  uint64_t max_held_bytes(size_t n_answer_tokens) const;

  // Takes back the last message of the user and its answer. Tokens that this turn evicted stay
  // evicted. kInvalidArgument if there is no such message.
  Status Undo();

  // Saves the conversation so that another process can continue it. The next token's logits are
  // then the same, bit for bit. Fails between AddUserMessage() and its answer. Written atomically.
  Status Save(const std::string& path) const;

  const std::vector<ChatMessage>& messages() const;
  CacheStats stats() const;
  // As KvCache::StartTracing() and KvCache::Inspect(). The last answer's shares count from the last
  // user message.
  void StartTracing();
  Inspection Inspect() const;
  const CacheOptions& cache_options() const;

  class Impl;
  Impl& impl() { return *impl_; }
  const Impl& impl() const { return *impl_; }

 private:
  friend class Engine;
  explicit Conversation(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

struct AnswerRequest {
  Conversation* conversation = nullptr;
  AnswerOptions options;
  AnswerResult result = {};  // filled in
  Status status = {};        // filled in; an error: there is no result, and the turn is taken back
};

// Answers that are generated together, one batch per step. An answer may begin and end at any step
// (continuous batching). Must not outlive its Engine. Not thread-safe, and not to be used at the
// same time as the Engine.
class AnswerBatch {
 public:
  ~AnswerBatch();  // Takes back the turns that are not answered yet.
  AnswerBatch(const AnswerBatch&) = delete;
  AnswerBatch& operator=(const AnswerBatch&) = delete;

  // Begins an answer at the next step. The request and its conversation must live, and not be
  // touched, until Step() returns the request. kInvalidArgument for a conversation of another
  // engine, without a message to answer, or already being answered. kResourceExhausted if
  // EngineOptions::max_conversations are being answered.
  Status Begin(AnswerRequest& request);

  // Decodes one batch: the next token of each answer, and up to n_ubatch tokens of prompts or a
  // picture. Returns the finished requests, which have left the batch. An error of one is in its
  // status and does not concern the others.
  std::vector<AnswerRequest*> Step();

  size_t size() const;  // answers in progress

  class Impl;

 private:
  friend class Engine;
  explicit AnswerBatch(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// A loaded model. Not thread-safe: one call at a time.
class Engine {
 public:
  // kBadFile for missing, broken or mismatched files; kUnsupported for a model that cannot be
  // served (sliding window, MLA, recurrent or hybrid, ...), with the reason.
  static Result<std::unique_ptr<Engine>> Load(const EngineOptions& options,
                                              const ProgressFunction& progress = {});
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  Result<std::unique_ptr<Conversation>> NewConversation(const CacheOptions& options,
                                                        std::string_view system_prompt = {});

  // An independent conversation that continues from the same state. kInvalidArgument while a
  // message of `conversation` waits for its answer.
  Result<std::unique_ptr<Conversation>> CopyConversation(const Conversation& conversation);

  // Restores a conversation that Conversation::Save() wrote. kBadFile for files that are truncated,
  // damaged, of another kind, or saved with another model.
  Result<std::unique_ptr<Conversation>> LoadConversation(const std::string& path);

  // Reads the waiting messages of the conversation and generates the answer. If it fails, or is
  // cancelled before the first token, the user's message is taken back as by Conversation::Undo().
  Result<AnswerResult> Answer(Conversation& conversation, const AnswerOptions& options);

  // The same for several conversations, decoded together in one batch. An error of one does not
  // concern the others; the first error is returned. If any cannot begin, none is answered.
  Status AnswerAll(std::span<AnswerRequest> requests);

  std::unique_ptr<AnswerBatch> NewAnswerBatch();

  // kInvalidArgument, with the reason, for unusable options: values out of range, tokens that are
  // not in the vocabulary, a grammar with errors.
  Status CheckSampling(const SamplingOptions& options) const;

  // Reads the waiting prompt of the conversation and returns the next-token logits [n_vocab] after
  // it. For evaluation and comparison. The turn stays open, so take it back with Undo().
  Result<std::vector<float>> ReadPrompt(Conversation& conversation);

  // Converts text to tokens, without a beginning-of-sequence token, and tokens to text. Any thread
  // may call them at any time. kResourceExhausted if the text has over a million tokens, or more
  // than a conversation may have. kInvalidArgument for a token that is not in the vocabulary.
  Result<std::vector<int32_t>> Tokenize(std::string_view text) const;
  Result<std::string> Detokenize(std::span<const int32_t> tokens) const;

  const EngineOptions& options() const;
  const CacheShape& shape() const;
  int n_ctx() const;                      // longest conversation in positions
  int n_ctx_train() const;                // that the model was trained for; 0: not known
  std::string model_description() const;  // e.g. "SmolLM2-135M Q4_1"
  bool takes_pictures() const;
  bool takes_audio() const;

  class Impl;

 private:
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Version of llama.cpp that this library runs on, e.g. "0.5.0".
std::string LlamaVersion();
// True if that llama.cpp finds a GPU here. Known once an engine has been loaded.
bool HasGpu();

}  // namespace rkv

#endif  // RETENTIVEKV_ENGINE_H_
