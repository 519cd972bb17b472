// A conversation: its messages, its open turn, and the prompt that waits to be read. An error
// leaves it as before the last message.
#include <fmt/format.h>

#include <algorithm>

#include "base/file.h"
#include "base/utf8.h"
#include "engine/conversation_impl.h"

namespace rkv {

namespace {

size_t CountMarkers(std::string_view text) {
  size_t n = 0;
  for (size_t at = text.find(MediaMarker()); at != std::string_view::npos;
       at = text.find(MediaMarker(), at + MediaMarker().size())) {
    ++n;
  }
  return n;
}

// Breaks media markers in a user's text, so that they stay text in the prompt.
std::string BreakMarkers(std::string_view text) {
  constexpr size_t kCut = 2;  // bytes of the marker before the break
  std::string result;
  for (size_t at = text.find(MediaMarker()); at != std::string_view::npos;
       at = text.find(MediaMarker())) {
    result += text.substr(0, at + kCut);
    result += kTextBreak;
    text.remove_prefix(at + kCut);
  }
  return result += text;
}

// A stand-in for the answer when a template renders the text after it. Occurs in none of the
// messages.
std::string AnswerPlaceholder(std::span<const ChatMessage> messages) {
  for (size_t i = 0;; ++i) {
    std::string placeholder = fmt::format("rkv answer {} rkv", i);
    const bool taken = std::ranges::any_of(messages, [&](const ChatMessage& message) {
      return message.content.find(placeholder) != std::string::npos;
    });
    if (!taken) return placeholder;
  }
}

}  // namespace

Conversation::Conversation(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Conversation::~Conversation() = default;
Status Conversation::AddUserMessage(std::string_view text, std::span<const std::string> files) {
  return impl_->AddUserMessage(text, files);
}
Status Conversation::AddUserMessageWithMedia(std::string_view text,
                                             std::span<const MediaFile> media) {
  return impl_->AddUserMessageWithMedia(text, media);
}
Status Conversation::AddMessages(std::span<const Message> messages) {
  return impl_->AddMessages(messages);
}
Status Conversation::AddText(std::string_view text) { return impl_->AddText(text); }
size_t Conversation::n_waiting_tokens() const { return impl_->n_waiting_tokens(); }
std::vector<int32_t> Conversation::waiting_tokens() const { return impl_->waiting_tokens(); }
size_t Conversation::max_answer_tokens() const { return impl_->max_answer_tokens(); }
uint64_t Conversation::max_held_bytes(size_t n_answer_tokens) const {
  return impl_->max_held_bytes(n_answer_tokens);
}
Status Conversation::Undo() { return impl_->Undo(); }
Status Conversation::Save(const std::string& path) const { return impl_->Save(path); }
const std::vector<ChatMessage>& Conversation::messages() const { return impl_->messages(); }
void Conversation::StartTracing() { impl_->cache().StartTracing(); }
Inspection Conversation::Inspect() const { return impl_->Inspect(); }
CacheStats Conversation::stats() const { return impl_->cache().stats(); }
const CacheOptions& Conversation::cache_options() const { return impl_->cache().options(); }

Result<std::string> Conversation::Impl::NewPromptText(std::vector<ChatMessage> messages) const {
  // Refuses a text that cannot fit before any other work on it.
  size_t n_bytes = 0;
  for (size_t i = messages_.size(); i < messages.size(); ++i) n_bytes += messages[i].content.size();
  RKV_RETURN_IF_ERROR(model_.tokenizer().CheckSize(n_bytes, static_cast<size_t>(model_.n_ctx())));
  if (!template_.is_plain()) {
    // A model's own marks of reasoning stay marks in its answers.
    std::vector<std::string> marks = template_.reasoning().end;
    marks.push_back(template_.reasoning().start);
    for (ChatMessage& message : messages) {
      const bool answer = message.role == "assistant";
      message.content = model_.tokenizer().BreakControlTokens(
          message.content, answer ? marks : std::vector<std::string>());
    }
  }
  // The cached text of earlier turns stays unchanged. Only the template's text after the last
  // answer is new; templates may trim or shorten the history before it.
  const auto answer = std::find_if(messages_.rbegin(), messages_.rend(),
                                   [](const ChatMessage& m) { return m.role == "assistant"; });
  if (answer == messages_.rend()) return template_.Render(messages, true);
  const std::string placeholder = AnswerPlaceholder(messages);
  messages[static_cast<size_t>(messages_.rend() - answer) - 1].content = placeholder;
  RKV_ASSIGN_OR_RETURN(const std::string text, template_.Render(messages, true));
  const size_t at = text.rfind(placeholder);
  if (at == std::string::npos) {
    return Unsupported("the chat template leaves out the answer before the last message");
  }
  return text.substr(at + placeholder.size());
}

void Conversation::Impl::AddSystemPrompt(std::string_view text) {
  messages_.push_back({.role = "system", .content = BreakMarkers(text)});
}

Status Conversation::Impl::CheckLength(const std::vector<PromptChunk>& chunks) const {
  int64_t end = next_position_ + (undecoded_.has_value() ? 1 : 0);
  for (const PromptChunk& chunk : chunks) {
    end += chunk.n_positions;
    if (!chunk.causal && chunk.n_tokens > static_cast<size_t>(model_.options().n_ubatch)) {
      return InvalidArgument(fmt::format(
          "the model reads a picture of {} tokens at once, which needs --ubatch-size {} or more",
          chunk.n_tokens, chunk.n_tokens));
    }
  }
  return end >= model_.n_ctx() ? TooLong(end) : OkStatus();
}

Status Conversation::Impl::TooLong(int64_t end) const {
  return ResourceExhausted(
      fmt::format("the conversation would need {} positions, but the context ends at {}; shorten "
                  "the prompt or "
                  "raise --ctx-size (the model was trained for {})",
                  end + 1, model_.n_ctx(), model_.n_ctx_train()));
}

Status Conversation::Impl::AddUserMessage(std::string_view text,
                                          std::span<const std::string> files) {
  std::vector<MediaFile> media;
  for (const std::string& file : files) {
    RKV_ASSIGN_OR_RETURN(std::string bytes,
                         ReadFile(file, "picture or audio file", kMaxMediaFileBytes));
    media.push_back({.name = file, .bytes = std::move(bytes)});
  }
  return AddUserMessageWithMedia(text, media);
}

Status Conversation::Impl::AddUserMessageWithMedia(std::string_view text,
                                                   std::span<const MediaFile> files) {
  RKV_ASSIGN_OR_RETURN(const auto media, DecodeAll(files));
  std::string content;
  if (media.empty()) {
    content = BreakMarkers(text);
  } else if (CountMarkers(text) == 0) {
    for (size_t i = 0; i < media.size(); ++i) content += MediaMarker();
    content += text;
  } else if (CountMarkers(text) == media.size()) {
    content = text;
  } else {
    return InvalidArgument(fmt::format("the text marks {} pictures with {}, but {} were given",
                                       CountMarkers(text), MediaMarker(), media.size()));
  }
  std::vector<ChatMessage> messages = messages_;
  messages.push_back({.role = "user", .content = std::move(content)});
  RKV_ASSIGN_OR_RETURN(const std::string prompt, NewPromptText(messages));
  return AddTurn(std::move(messages), prompt, media);
}

Status Conversation::Impl::AddMessages(std::span<const Message> added) {
  if (added.empty()) return InvalidArgument("there are no messages");
  std::vector<MediaFile> files;
  std::vector<ChatMessage> messages = messages_;
  for (const Message& message : added) {
    std::string content;
    for (const Message::Part& part : message.parts) {
      if (part.media.has_value()) files.push_back(*part.media);
      content += part.media.has_value() ? std::string(MediaMarker()) : BreakMarkers(part.text);
    }
    messages.push_back({.role = message.role, .content = std::move(content)});
  }
  RKV_ASSIGN_OR_RETURN(const auto media, DecodeAll(files));
  RKV_ASSIGN_OR_RETURN(const std::string prompt, NewPromptText(messages));
  return AddTurn(std::move(messages), prompt, media);
}

Status Conversation::Impl::AddText(std::string_view text) {
  std::vector<ChatMessage> messages = messages_;
  messages.push_back({.role = "user", .content = std::string(text)});
  RKV_RETURN_IF_ERROR(AddTurn(std::move(messages), text, {}));
  goes_on_ = true;
  return OkStatus();
}

Result<std::vector<DecodedMedia>> Conversation::Impl::DecodeAll(
    std::span<const MediaFile> files) const {
  if (files.size() > kMaxMediaFiles) {
    return InvalidArgument(fmt::format("there are {} pictures and clips; one turn takes up to {}",
                                       files.size(), kMaxMediaFiles));
  }
  std::vector<DecodedMedia> all;
  uint64_t n_bytes = 0;
  uint64_t picture_bytes = 0;
  uint64_t file_pixels = 0;
  int64_t end = next_position_;
  for (const MediaFile& file : files) {
    RKV_ASSIGN_OR_RETURN(DecodedMedia media, DecodeMedia(model_, file.bytes, file.name));
    n_bytes += media.n_bytes;
    picture_bytes += media.is_picture ? media.n_bytes : 0;
    file_pixels += media.file_pixels;
    end += media.n_positions;
    if (n_bytes > kMaxMediaBytes || picture_bytes > kMaxPictureBytes) {
      return BadFile(fmt::format(
          "the pictures of one message take more than {} MiB when decoded; scale them down first",
          (picture_bytes > kMaxPictureBytes ? kMaxPictureBytes : kMaxMediaBytes) >> 20));
    }
    if (file_pixels > kMaxTurnPixels) {
      return BadFile(
          fmt::format("the pictures of one message have more than {} million pixels; scale them "
                      "down first",
                      kMaxTurnPixels / 1000000));
    }
    if (end >= model_.n_ctx()) return TooLong(end);
    if (!media.notice.empty() && model_.options().on_notice) {
      model_.options().on_notice(media.notice);
    }
    all.push_back(std::move(media));
  }
  return all;
}

Status Conversation::Impl::AddTurn(std::vector<ChatMessage> messages, std::string_view prompt,
                                   std::span<const DecodedMedia> media) {
  if (turn_open_) return InvalidArgument("the last message has not been answered yet");
  const bool first = cache_.tokens_seen() == 0;
  RKV_ASSIGN_OR_RETURN(std::vector<PromptChunk> chunks,
                       TokenizePrompt(model_, prompt, media, first));
  if (chunks.empty()) return InvalidArgument("the message is empty");
  RKV_RETURN_IF_ERROR(CheckLength(chunks));

  turns_.push_back({.n_messages = messages_.size(),
                    .tokens_seen = cache_.tokens_seen(),
                    .next_position = next_position_,
                    .undecoded = undecoded_});
  if (undecoded_.has_value()) {
    PromptChunk chunk;
    chunk.tokens = {*undecoded_};
    chunk.n_tokens = 1;
    chunk.n_positions = 1;
    prompt_.push_back(std::move(chunk));
    undecoded_.reset();
  }
  for (PromptChunk& chunk : chunks) prompt_.push_back(std::move(chunk));
  messages_ = std::move(messages);
  cache_.impl().BeginAnswer();
  answer_.clear();
  turn_open_ = true;
  goes_on_ = false;
  return OkStatus();
}

Result<std::unique_ptr<Conversation::Impl>> Conversation::Impl::Copy() const {
  if (turn_open_) return InvalidArgument("the last message has to be answered before copying");
  auto copy = std::make_unique<Impl>(model_, template_, cache_);
  copy->messages_ = messages_;
  copy->turns_ = turns_;
  copy->next_position_ = next_position_;
  copy->undecoded_ = undecoded_;
  copy->answer_ = answer_;
  copy->answer_begin_ = answer_begin_;
  return copy;
}

Status Conversation::Impl::Undo() {
  if (turns_.empty()) return InvalidArgument("there is no message to take back");
  RollBackTurn();
  return OkStatus();
}

void Conversation::Impl::RollBackTurn() {
  const TurnStart& start = turns_.back();
  cache_.Truncate(start.tokens_seen);
  messages_.resize(start.n_messages);
  next_position_ = start.next_position;
  undecoded_ = start.undecoded;
  prompt_.clear();
  taken_ = 0;
  embeddings_.clear();
  positions_.clear();
  answer_.clear();
  turn_open_ = false;
  turns_.pop_back();
}

size_t Conversation::Impl::max_answer_tokens() const {
  int64_t end = next_position_;
  for (const PromptChunk& chunk : prompt_) end += chunk.n_positions;
  return static_cast<size_t>(std::max<int64_t>(model_.n_ctx() - end, 0));
}

uint64_t Conversation::Impl::max_held_bytes(size_t n_answer_tokens) const {
  const auto n_media =
      std::ranges::count_if(prompt_, [](const PromptChunk& chunk) { return chunk.is_media(); });
  return cache_.impl().MaxHeldBytes(cache_.tokens_seen() + n_waiting_tokens() + n_answer_tokens,
                                    static_cast<size_t>(n_media));
}

size_t Conversation::Impl::n_waiting_tokens() const {
  size_t n = 0;
  for (const PromptChunk& chunk : prompt_) n += chunk.n_tokens;
  return n - taken_;
}

std::vector<int32_t> Conversation::Impl::waiting_tokens() const {
  std::vector<int32_t> tokens;
  for (const PromptChunk& chunk : prompt_) {
    tokens.insert(tokens.end(), chunk.tokens.begin(), chunk.tokens.end());
    if (chunk.is_media()) tokens.insert(tokens.end(), chunk.n_tokens, -1);
  }
  tokens.erase(tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(taken_));
  return tokens;
}

std::vector<Token> Conversation::Impl::TextTokens() const {
  const uint64_t n_before = turns_.empty() ? 0 : turns_.back().n_messages;
  const std::span<const ChatMessage> before(messages_.data(), n_before);
  std::vector<Token> tokens;
  if (!before.empty()) {
    // Leaves out messages that cannot be rendered any more: only penalties use this text.
    Result<std::string> text = template_.Render(before, false);
    for (size_t at = text.ok() ? text->find(MediaMarker()) : std::string::npos;
         at != std::string::npos; at = text->find(MediaMarker(), at)) {
      text->erase(at, MediaMarker().size());
    }
    Result<std::vector<Token>> read =
        text.ok() ? model_.Tokenize(*text, true) : Result<std::vector<Token>>(text.status());
    if (read.ok()) tokens = *std::move(read);
  }
  for (const PromptChunk& chunk : prompt_) {
    tokens.insert(tokens.end(), chunk.tokens.begin(), chunk.tokens.end());
  }
  return tokens;
}

std::optional<size_t> Conversation::Impl::FinishTaking(size_t row) {
  if (taken_ < prompt_.front().n_tokens) return std::nullopt;
  next_position_ += prompt_.front().is_media() ? prompt_.front().n_positions : 0;
  prompt_.pop_front();
  taken_ = 0;
  embeddings_.clear();
  positions_.clear();
  return prompt_.empty() ? std::optional(row) : std::nullopt;
}

std::optional<size_t> Conversation::Impl::TakeText(size_t index, size_t max_tokens,
                                                   Ubatch& ubatch) {
  std::optional<size_t> last_row;
  while (waiting() && !next_is_media() && max_tokens > 0) {
    const PromptChunk& chunk = prompt_.front();
    const size_t n = std::min(max_tokens, chunk.n_tokens - taken_);
    for (size_t i = 0; i < n; ++i) {
      ubatch.tokens.push_back({.cache = index,
                               .token = chunk.tokens[taken_ + i],
                               .position = {next_position_++, 0, 0, 0}});
    }
    taken_ += n;
    max_tokens -= n;
    if (n > 0 && taken_ < chunk.n_tokens) ubatch.tokens.back().next = chunk.tokens[taken_];
    last_row = FinishTaking(ubatch.tokens.size() - 1);
  }
  if (last_row.has_value()) ubatch.tokens[*last_row].output = true;
  return last_row;
}

Result<std::optional<size_t>> Conversation::Impl::TakeMedia(size_t max_tokens,
                                                            const StepWatch& watch,
                                                            Ubatch& ubatch) {
  const PromptChunk& chunk = prompt_.front();
  if (taken_ == 0) {
    RKV_ASSIGN_OR_RETURN(embeddings_, EncodeMedia(model_, chunk, watch));
    positions_ = MediaPositions(model_, chunk, next_position_);
    ubatch.media.emplace_back(0, MediaGrid(chunk, cache_.tokens_seen()));
  }
  const size_t n = std::min(max_tokens, chunk.n_tokens - taken_);
  const size_t width = model_.n_embd_input();
  for (size_t i = 0; i < n; ++i) {
    ubatch.tokens.push_back({.cache = 0, .position = positions_[taken_ + i]});
  }
  ubatch.embeddings.assign(embeddings_.begin() + static_cast<ptrdiff_t>(taken_ * width),
                           embeddings_.begin() + static_cast<ptrdiff_t>((taken_ + n) * width));
  ubatch.n_position = model_.uses_mrope() ? 4 : 1;
  ubatch.causal = chunk.causal;
  taken_ += n;
  const std::optional<size_t> last_row = FinishTaking(n - 1);
  if (last_row.has_value()) ubatch.tokens[*last_row].output = true;
  return last_row;
}

void Conversation::Impl::AddAnswerToken(Token token) {
  if (answer_.empty()) answer_begin_ = cache_.tokens_seen();
  answer_.push_back(token);
}

Inspection Conversation::Impl::Inspect() const {
  Inspection inspection = cache_.Inspect();
  // A character that several tokens spell belongs to the last of them.
  std::string text;
  size_t n_shown = 0;
  std::vector<std::string> pieces;
  for (const Token token : answer_) {
    text += model_.TokenText(token, false);
    const bool last = pieces.size() + 1 == answer_.size();
    const size_t end = last ? text.size() : CompleteUtf8Prefix(text);
    pieces.push_back(text.substr(n_shown, end - n_shown));
    n_shown = end;
  }
  for (AnswerTokenInspection& chosen : inspection.answer) {
    const uint64_t i = chosen.token - answer_begin_;
    if (i < pieces.size()) chosen.text = std::move(pieces[i]);
  }
  return inspection;
}

size_t Conversation::Impl::TakeAnswerToken(size_t index, Token token, Ubatch& ubatch) {
  ubatch.tokens.push_back(
      {.cache = index, .token = token, .position = {next_position_++, 0, 0, 0}, .output = true});
  return ubatch.tokens.size() - 1;
}

void Conversation::Impl::FinishAnswer(std::string text, std::optional<Token> undecoded) {
  messages_.push_back({.role = "assistant", .content = std::move(text)});
  undecoded_ = undecoded;
  turn_open_ = false;
}

}  // namespace rkv
