// Saved conversations; docs/formats.md describes the file.
#include <fmt/format.h>

#include <algorithm>

#include "base/bytes.h"
#include "base/file.h"
#include "engine/conversation_impl.h"

namespace rkv {

namespace {

constexpr std::string_view kMagic = "RKVCONV\n";
constexpr uint32_t kVersion = 1;

void WriteToken(ByteWriter& writer, const std::optional<Token>& token) {
  writer.Write<int32_t>(token.value_or(kNoToken));
}

std::optional<Token> ReadToken(ByteReader& reader, int n_vocab) {
  const int32_t token = reader.Read<int32_t>();
  if (token == kNoToken) return std::nullopt;
  if (token < 0 || token >= n_vocab) reader.Fail();
  return token;
}

}  // namespace

std::string Conversation::Impl::SavePayload() const {
  ByteWriter writer;
  writer.Write<uint64_t>(messages_.size());
  for (const ChatMessage& message : messages_) {
    writer.WriteString(message.role);
    writer.WriteString(message.content);
  }
  writer.Write<uint64_t>(turns_.size());
  for (const TurnStart& turn : turns_) {
    writer.Write(turn.n_messages);
    writer.Write(turn.tokens_seen);
    writer.Write(turn.next_position);
    WriteToken(writer, turn.undecoded);
  }
  writer.Write(next_position_);
  WriteToken(writer, undecoded_);
  return writer.buffer();
}

bool Conversation::Impl::LoadPayload(ByteReader& reader) {
  messages_.resize(reader.ReadCount(2 * sizeof(uint64_t)));
  for (ChatMessage& message : messages_) {
    message.role = reader.ReadString();
    message.content = reader.ReadString();
  }
  turns_.resize(reader.ReadCount(2 * sizeof(uint64_t) + 2 * sizeof(int32_t)));
  TurnStart before;
  for (TurnStart& turn : turns_) {
    turn.n_messages = reader.Read<uint64_t>();
    turn.tokens_seen = reader.Read<uint64_t>();
    turn.next_position = reader.Read<Position>();
    turn.undecoded = ReadToken(reader, model_.n_vocab());
    const bool follows = turn.n_messages >= before.n_messages &&
                         turn.tokens_seen >= before.tokens_seen &&
                         turn.next_position >= before.next_position;
    if (!follows) reader.Fail();
    before = turn;
  }
  next_position_ = reader.Read<Position>();
  undecoded_ = ReadToken(reader, model_.n_vocab());
  return reader.ok() && before.n_messages <= messages_.size() &&
         before.tokens_seen <= cache_.tokens_seen() && before.next_position <= next_position_ &&
         PositionsFitTokens();
}

bool Conversation::Impl::PositionsFitTokens() const {
  const uint64_t n_tokens = cache_.tokens_seen();
  uint64_t min_positions = n_tokens;
  for (const MediaSpan& span : cache_.impl().media().spans()) {
    if (span.first_token + span.n_tokens() > n_tokens)
      return false;  // No turn ends inside a picture or clip.
    // With M-RoPE a picture takes as many positions as cells along its longer side.
    if (model_.uses_mrope() && span.modality == Modality::kImage) {
      min_positions -= span.n_tokens() - std::max(span.rows, span.columns);
    }
  }
  const auto n_positions = static_cast<uint64_t>(next_position_);
  return min_positions <= n_positions && n_positions <= n_tokens;
}

Status Conversation::Impl::Save(const std::string& path) const {
  if (turn_open_) return InvalidArgument("the last message has to be answered before saving");
  const std::string cache = cache_.Save();
  const std::string payload = SavePayload();
  ByteWriter writer;
  writer.WriteRaw(kMagic.data(), kMagic.size());
  writer.Write(kVersion);
  writer.Write(model_.fingerprint());
  writer.WriteString(model_.Description());
  writer.Write<uint64_t>(Hash64(cache, Hash64(payload)));
  writer.WriteString(cache);
  writer.WriteString(payload);
  return WriteFileAtomically(path, writer.buffer(), Access::kPrivate);
}

Result<std::unique_ptr<Conversation::Impl>> Conversation::Impl::Load(
    const Model& model, const ChatTemplate& chat_template, const std::string& path) {
  RKV_ASSIGN_OR_RETURN(const std::string bytes,
                       ReadFile(path, "saved conversation", kMaxFileBytes, FileKind::kRegular));
  const auto refuse = [&path](std::string_view why) {
    return BadFile(fmt::format("cannot load conversation '{}': {}", path, why));
  };
  if (!std::string_view(bytes).starts_with(kMagic)) return refuse("it is not a saved conversation");
  ByteReader reader(std::string_view(bytes).substr(kMagic.size()));
  const uint32_t version = reader.Read<uint32_t>();
  if (reader.ok() && version != kVersion) {
    return refuse(
        fmt::format("its format is version {}, and this program reads {}", version, kVersion));
  }
  const uint64_t fingerprint = reader.Read<uint64_t>();
  const std::string description = reader.ReadString();
  const uint64_t hash = reader.Read<uint64_t>();
  const std::string memory_bytes = reader.ReadString();
  const std::string payload = reader.ReadString();
  if (!reader.ok()) return refuse("it is truncated");
  if (reader.remaining() != 0 || Hash64(memory_bytes, Hash64(payload)) != hash) {
    return refuse("it is damaged");
  }
  if (fingerprint != model.fingerprint()) {
    return refuse(fmt::format("it was saved with another model ({})", description));
  }
  Result<KvCache> cache = KvCache::Load(model.shape(), memory_bytes);
  if (!cache.ok()) return refuse(cache.status().message());
  auto impl = std::make_unique<Impl>(model, chat_template, *std::move(cache));
  ByteReader payload_reader(payload);
  if (!impl->LoadPayload(payload_reader) || payload_reader.remaining() != 0) {
    return refuse("it is damaged");
  }
  if (impl->next_position_ > model.n_ctx()) {
    return refuse(fmt::format("it takes {} positions, but the context ends at {}; raise --ctx-size",
                              impl->next_position_, model.n_ctx()));
  }
  return impl;
}

}  // namespace rkv
