// The saved form of a cache (docs/formats.md).
#include <cmath>
#include <limits>
#include <type_traits>

#include "base/bytes.h"
#include "cache/kv_cache_impl.h"

namespace rkv {

namespace {

constexpr uint32_t kSaveVersion = 6;
// The version before has no surprisals.
constexpr uint32_t kNoSurprisalsVersion = 5;
// The one before that has no layout of RoPE, and another ladder of its own.
constexpr uint32_t kOldLadderVersion = 4;
constexpr std::string_view kOldLadder = "f16,q8_0,q4_0,q2";
// The one before that also lacks the progress of a conversation. Such a cache starts with exactly
// the room for its rows, and their order has no meaning.
constexpr uint32_t kRowsOnlyVersion = 3;

template <typename T>
constexpr bool kMayBeUnset = false;
template <typename T>
constexpr bool kMayBeUnset<std::optional<T>> = true;

// The options in a saved cache. First those that always have a value, then those that may be unset;
// their text is then empty. A budget is saved as unit and amount, all others as texts.
void WriteOptions(ByteWriter& writer, const CacheOptions& options) {
  for (const bool unset : {false, true}) {
    ForEachOption(options, [&](const auto&, const auto& value) {
      using T = std::remove_cvref_t<decltype(value)>;
      if (kMayBeUnset<T> != unset) return;
      if constexpr (std::is_same_v<T, Budget>) {
        writer.Write(value.unit);
        writer.Write(value.amount);
      } else if constexpr (kMayBeUnset<T>) {
        writer.WriteString(value.has_value() ? ToString(*value) : "");
      } else {
        writer.WriteString(ToString(value));
      }
    });
  }
}

bool ReadOption(ByteReader& reader, const CacheOption<Budget>&, Budget& budget) {
  budget.unit = reader.Read<Budget::Unit>();
  budget.amount = reader.Read<double>();
  return budget.unit <= Budget::Unit::kBytes && budget.amount > 0 && std::isfinite(budget.amount);
}

template <typename T, typename Field>
bool ReadOption(ByteReader& reader, const CacheOption<T>& option, Field& field) {
  const std::string text = reader.ReadString();
  if (kMayBeUnset<Field> && text.empty()) return true;
  Result<T> parsed = option.parse(text);
  if (!parsed.ok()) return false;
  field = *std::move(parsed);
  return true;
}

bool ReadOptions(ByteReader& reader, CacheOptions& options) {
  bool good = true;
  for (const bool unset : {false, true}) {
    ForEachOption(options, [&](const auto& option, auto& field) {
      if (kMayBeUnset<std::remove_cvref_t<decltype(field)>> != unset) return;
      good = good && ReadOption(reader, option, field);
    });
  }
  return good && reader.ok();
}

bool ReadShape(ByteReader& reader, uint32_t version, CacheShape& shape) {
  shape.layers.resize(reader.ReadCount(4 * sizeof(uint64_t)));
  for (LayerShape& layer : shape.layers) {
    for (size_t* x : {&layer.n_head, &layer.n_kv_head, &layer.d_k, &layer.d_v}) {
      *x = reader.Read<uint64_t>();
    }
  }
  if (version <= kOldLadderVersion) return reader.ok();
  shape.rope.pairs = reader.Read<RopePairs>();
  shape.rope.n_rot = reader.Read<uint64_t>();
  return reader.ok();
}

// Rows are on the rungs of the ladder that the policy had.
Status KeepOldLadder(CacheOptions& options) {
  if (options.ladder.has_value() || options.type_k.has_value()) return OkStatus();
  RKV_ASSIGN_OR_RETURN(const PolicyChoice policy, MakePolicy(options.policy));
  if (policy.info->ladder == "auto") options.ladder = *ParseLadder(kOldLadder);
  return OkStatus();
}

}  // namespace

void KvCache::Impl::Save(ByteWriter& writer) const {
  writer.Write(kSaveVersion);
  WriteOptions(writer, config_->options());
  writer.Write<uint64_t>(shape().layers.size());
  for (const LayerShape& layer : shape().layers) {
    for (const size_t x : {layer.n_head, layer.n_kv_head, layer.d_k, layer.d_v}) {
      writer.Write<uint64_t>(x);
    }
  }
  writer.Write(shape().rope.pairs);
  writer.Write<uint64_t>(shape().rope.n_rot);
  writer.Write(tokens_seen_);
  writer.Write(observed_queries_);
  writer.Write(order_.tokens_seen);
  // The format has two flags for a prompt that continues; between appends both are the same.
  for (const bool is : {order_.pooled, prompt_precedes_, prompt_precedes_}) {
    writer.Write<uint8_t>(is ? 1 : 0);
  }
  writer.Write(state_share_);
  for (const uint64_t n : {state_steps_, reactivations_, compressions_}) writer.Write(n);
  media_.Save(writer);
  surprisals_.Save(writer);
  if (config_->rotates()) {
    for (const Head& head : heads_) head.SaveCentre(writer);
  }
  if (config_->has_matrices()) {
    for (const Head& head : heads_) head.SaveMatrix(writer);
  }
  for (const Head& head : heads_) head.SaveRows(writer);
}

bool KvCache::Impl::LoadTokens(ByteReader& reader, uint32_t version) {
  tokens_seen_ = reader.Read<uint64_t>();
  observed_queries_ = reader.Read<double>();
  const bool sane = tokens_seen_ <= std::numeric_limits<uint32_t>::max() &&
                    observed_queries_ >= 0 && std::isfinite(observed_queries_);
  if (!sane) return false;
  const bool has_progress = version != kRowsOnlyVersion;
  if (has_progress && !LoadProgress(reader)) return false;
  if (!media_.Load(tokens_seen_, reader)) return false;
  if (version > kNoSurprisalsVersion && !surprisals_.Load(tokens_seen_, reader)) return false;
  for (Head& head : heads_) {
    if (config_->rotates() && !head.LoadCentre(reader)) return false;
  }
  for (Head& head : heads_) {
    if (config_->has_matrices() && !head.LoadMatrix(reader)) return false;
  }
  const uint64_t end_of_roots = std::max(tokens_seen_, media_.end());
  for (Head& head : heads_) {
    if (!head.LoadRows(tokens_seen_, end_of_roots, has_progress, reader)) return false;
  }
  return reader.ok();
}

bool KvCache::Impl::LoadProgress(ByteReader& reader) {
  order_.tokens_seen = reader.Read<uint64_t>();
  order_.pooled = reader.ReadBool();
  reader.ReadBool();
  prompt_precedes_ = reader.ReadBool();
  state_share_ = reader.Read<double>();
  for (uint64_t* n : {&state_steps_, &reactivations_, &compressions_}) {
    *n = reader.Read<uint64_t>();
  }
  return reader.ok() && order_.tokens_seen <= tokens_seen_ && state_share_ >= 0 &&
         std::isfinite(state_share_);
}

std::string KvCache::Save() const {
  ByteWriter writer;
  impl_->Save(writer);
  return writer.buffer();
}

Result<KvCache> KvCache::Load(const CacheShape& shape, std::string_view bytes) {
  const Status damaged = BadFile("the saved cache is damaged");
  ByteReader reader(bytes);
  const uint32_t version = reader.Read<uint32_t>();
  if (version < kRowsOnlyVersion || version > kSaveVersion) {
    return BadFile("the saved cache was written by another version of RetentiveKV");
  }
  CacheOptions options;
  CacheShape saved;
  if (!ReadOptions(reader, options) || !ReadShape(reader, version, saved)) return damaged;
  if (version <= kOldLadderVersion) {
    saved.rope = shape.rope;
    RKV_RETURN_IF_ERROR(KeepOldLadder(options));
  }
  if (saved != shape) return BadFile("the saved cache belongs to a model of another shape");
  RKV_ASSIGN_OR_RETURN(KvCache cache, Create(shape, options));
  if (!cache.impl_->LoadTokens(reader, version) || reader.remaining() != 0) return damaged;
  return cache;
}

}  // namespace rkv
