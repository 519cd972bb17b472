// The implementation of Conversation, for the engine only.
#ifndef RETENTIVEKV_ENGINE_CONVERSATION_IMPL_H_
#define RETENTIVEKV_ENGINE_CONVERSATION_IMPL_H_

#include <deque>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "llama/bridge.h"
#include "llama/chat_template.h"
#include "llama/media.h"
#include "llama/model.h"
#include "llama/token.h"
#include "retentivekv/engine.h"

namespace rkv {

class Conversation::Impl {
 public:
  Impl(const Model& model, const ChatTemplate& chat_template, KvCache cache)
      : model_(model), template_(chat_template), cache_(std::move(cache)) {}

  const Model& model() const { return model_; }
  // How the template marks reasoning in the answer of the open turn. Text without a template has
  // none.
  const ReasoningTags& reasoning() const {
    static const ReasoningTags none;
    return goes_on_ ? none : template_.reasoning();
  }
  Status AddUserMessage(std::string_view text, std::span<const std::string> files);
  Status AddUserMessageWithMedia(std::string_view text, std::span<const MediaFile> files);
  Status AddMessages(std::span<const Message> messages);
  Status AddText(std::string_view text);
  size_t max_answer_tokens() const;
  uint64_t max_held_bytes(size_t n_answer_tokens) const;
  void AddSystemPrompt(std::string_view text);
  Status Undo();
  Result<std::unique_ptr<Impl>> Copy() const;

  const std::vector<ChatMessage>& messages() const { return messages_; }
  KvCache& cache() { return cache_; }
  const KvCache& cache() const { return cache_; }
  Inspection Inspect() const;
  Position next_position() const { return next_position_; }

  // The prompt that waits to be read.
  bool waiting() const { return !prompt_.empty(); }
  bool next_is_media() const { return waiting() && prompt_.front().is_media(); }
  size_t n_waiting_tokens() const;
  std::vector<int32_t> waiting_tokens() const;

  // Text tokens of the conversation before the pending answer: the earlier messages as the template
  // writes them, and the unread prompt. They are equal after keeping, copying and loading a
  // conversation.
  std::vector<Token> TextTokens() const;

  // Moves up to `max_tokens` text tokens of the prompt into the ubatch, as KvCache `index`. Returns
  // the row of the prompt's last token if it is among them; its logits start the answer.
  std::optional<size_t> TakeText(size_t index, size_t max_tokens, Ubatch& ubatch);
  // Does the same for the media chunk in front, as the ubatch's only content. The first call runs
  // its encoder, and fails with kCancelled if `watch` stops it.
  Result<std::optional<size_t>> TakeMedia(size_t max_tokens, const StepWatch& watch,
                                          Ubatch& ubatch);

  // A token of the answer has been chosen.
  void AddAnswerToken(Token token);
  // One token of the answer, to be decoded next.
  size_t TakeAnswerToken(size_t index, Token token, Ubatch& ubatch);

  // Ends the turn. `undecoded`: the answer's last token, if it was shown but not decoded.
  void FinishAnswer(std::string text, std::optional<Token> undecoded);
  // Takes the user's message back; the conversation is then as before it.
  void RollBackTurn();

  Status Save(const std::string& path) const;
  // The conversation in a file; fails as Engine::LoadConversation().
  static Result<std::unique_ptr<Impl>> Load(const Model& model, const ChatTemplate& chat_template,
                                            const std::string& path);

 private:
  // The start of a turn, to go back to.
  struct TurnStart {
    uint64_t n_messages = 0;
    uint64_t tokens_seen = 0;
    Position next_position = 0;
    std::optional<Token> undecoded;
  };

  // Starts a turn of messages that follow messages_; `prompt` is their text as the model reads it.
  Status AddTurn(std::vector<ChatMessage> messages, std::string_view prompt,
                 std::span<const DecodedMedia> media);
  Result<std::vector<DecodedMedia>> DecodeAll(std::span<const MediaFile> files) const;
  // The text that the chat template adds for `messages` after the text read so far. The first
  // messages_.size() of `messages` are ours.
  Result<std::string> NewPromptText(std::vector<ChatMessage> messages) const;
  Status CheckLength(const std::vector<PromptChunk>& chunks) const;
  // The error for a context that ends before position `end`.
  Status TooLong(int64_t end) const;
  std::optional<size_t> FinishTaking(size_t row);
  std::string SavePayload() const;
  bool LoadPayload(ByteReader& reader);
  // Whether the tokens seen so far can end at next_position_.
  bool PositionsFitTokens() const;

  const Model& model_;
  const ChatTemplate& template_;
  KvCache cache_;
  std::vector<ChatMessage> messages_;
  std::vector<TurnStart> turns_;
  Position next_position_ = 0;
  std::optional<Token> undecoded_;
  bool turn_open_ = false;     // a message was added and has no answer yet
  bool goes_on_ = false;       // the last turn is text without a chat template
  std::vector<Token> answer_;  // tokens of the last answer, without its end
  uint64_t answer_begin_ = 0;  // number of the first of these among the memory's tokens

  std::deque<PromptChunk> prompt_;
  size_t taken_ = 0;                                // tokens of prompt_.front() already taken
  std::vector<float> embeddings_;                   // of prompt_.front(), if it is media
  std::vector<std::array<Position, 4>> positions_;  // of prompt_.front(), if it is media
};

}  // namespace rkv

#endif  // RETENTIVEKV_ENGINE_CONVERSATION_IMPL_H_
