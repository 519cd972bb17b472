#include "retentivekv/kv_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>
#include <limits>
#include <type_traits>

#include "base/bytes.h"
#include "base/clock.h"
#include "cache/compressor.h"
#include "cache/kv_cache_impl.h"

namespace rkv {

namespace {

constexpr uint64_t kNoLimit = std::numeric_limits<uint64_t>::max();
constexpr uint32_t kSaveVersion = 4;
// Without what a conversation goes on by: it starts with exactly the room for its rows, whose order
// has no meaning.
constexpr uint32_t kRowsOnlyVersion = 3;

// Of a picture, and of a clip, at the most: the engine takes none that have as many.
constexpr uint64_t kMaxPictureCells = uint64_t{1} << 17;
constexpr uint64_t kMaxClipCells = uint64_t{1} << 20;

// Of a state: no number of tokens is as large, and none as small that is stored.
constexpr float kMaxLogMass = 64.0f;
constexpr float kMinLogMass = -104.0f;

// Of a budget of more than kSmallBudget, at most, for what reading a prompt of several ubatches
// needs beside rows and what they are observed by. It is little beside a process, but much beside a
// smaller budget.
constexpr uint64_t kReadingBytes = uint64_t{4} << 20;
constexpr uint64_t kSmallBudget = uint64_t{32} << 20;

std::string FormatBytes(uint64_t bytes) {
  if (bytes < 10 * 1024) return fmt::format("{}B", bytes);
  return fmt::format("{}KiB", (bytes + 1023) / 1024);
}

uint64_t StoreBytes(const RowStore& rows) { return sizeof(RowStore) + rows.held_bytes(); }

// Spare rows that a store of `n` rows may have: a sixteenth bounds both the waste and how often
// appending allocates.
size_t Spare(size_t n) { return std::clamp<size_t>(n / 16, 4, RowStore::kPageRows); }

// The most that any store has.
constexpr uint64_t kMaxSpare = std::max<uint64_t>(RowStore::kPageRows, Compressor::kMaxSpareRows);

bool ReadBool(ByteReader& reader) {
  const uint8_t value = reader.Read<uint8_t>();
  if (value > 1) reader.Fail();
  return value == 1;
}

template <typename T>
constexpr bool kMayBeUnset = false;
template <typename T>
constexpr bool kMayBeUnset<std::optional<T>> = true;

// The options as a saved cache has them: first those that always have a value, then those that may
// be unset, whose text is empty then. A budget is its unit and amount, all others are texts.
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

}  // namespace

size_t CacheShape::full_token_bytes() const {
  size_t bytes = 0;
  for (const LayerShape& layer : layers) {
    bytes += layer.n_kv_head * (layer.d_k + layer.d_v) * sizeof(uint16_t);
  }
  return bytes;
}

KvCache::Impl::Impl(std::shared_ptr<const CacheConfig> config)
    : config_(std::move(config)),
      stores_(config_->n_heads() * config_->n_tiers()),
      centres_(config_->rotates() ? config_->n_heads() : 0),
      matrices_(config_->absorb().has_states() && config_->absorb().matrix != 0 ? config_->n_heads()
                                                                                : 0) {}

KvCache::Impl::Impl(const Impl& other)
    : config_(other.config_),
      stores_(other.stores_.size()),
      centres_(other.centres_.size()),
      matrices_(other.matrices_.size()),
      media_(other.media_),
      tokens_seen_(other.tokens_seen_),
      observed_queries_(other.observed_queries_),
      order_(other.order_),
      prompt_follows_(other.prompt_follows_),
      prompt_precedes_(other.prompt_precedes_),
      state_share_(other.state_share_),
      state_steps_(other.state_steps_),
      reactivations_(other.reactivations_),
      compressions_(other.compressions_),
      compress_seconds_(other.compress_seconds_),
      observe_seconds_(other.observe_seconds_) {
  FitMedia();
  if (other.trace_ != nullptr) trace_ = std::make_unique<Trace>(*other.trace_);
  for (size_t i = 0; i < stores_.size(); ++i) {
    if (other.stores_[i] != nullptr) stores_[i] = std::make_unique<RowStore>(*other.stores_[i]);
  }
  for (size_t head = 0; head < centres_.size(); ++head) {
    if (other.centres_[head] == nullptr) continue;
    const size_t bytes = CentreBytes(config_->layer_shape(head));
    centres_[head] = std::make_unique_for_overwrite<uint8_t[]>(bytes);
    std::copy_n(other.centres_[head].get(), bytes, centres_[head].get());
  }
  for (size_t head = 0; head < matrices_.size(); ++head) {
    if (other.matrices_[head] == nullptr) continue;
    const size_t n = MatrixElements(config_->layer_shape(head));
    matrices_[head] = std::make_unique_for_overwrite<uint16_t[]>(n);
    std::copy_n(other.matrices_[head].get(), n, matrices_[head].get());
  }
}

void KvCache::Impl::AddMedia(const MediaSpan& span) {
  if (media_.size() == media_.capacity()) media_.reserve(std::bit_ceil(media_.size() + 1));
  media_.push_back(span);
}

void KvCache::Impl::FitMedia() {
  std::vector<MediaSpan> fitted;
  if (!media_.empty()) fitted.reserve(std::bit_ceil(media_.size()));
  fitted.assign(media_.begin(), media_.end());
  media_ = std::move(fitted);
}

TokenInfo KvCache::Impl::token_info(uint32_t index) const {
  const auto after = std::ranges::upper_bound(media_, uint64_t{index}, {}, &MediaSpan::first_token);
  if (after == media_.begin()) return {};
  const MediaSpan& span = *(after - 1);
  const uint64_t cell = index - span.first_token;
  if (cell >= span.n_tokens()) return {};
  return {.modality = span.modality,
          .media = static_cast<uint32_t>(after - 1 - media_.begin()),
          .row = static_cast<uint16_t>(cell / span.columns),
          .column = static_cast<uint16_t>(cell % span.columns)};
}

uint64_t KvCache::Impl::FixedBytes() const {
  uint64_t bytes = sizeof(*this) + stores_.capacity() * sizeof(stores_[0]) +
                   centres_.capacity() * sizeof(centres_[0]) +
                   matrices_.capacity() * sizeof(matrices_[0]) +
                   media_.capacity() * sizeof(MediaSpan);
  for (size_t head = 0; head < centres_.size(); ++head) {
    if (centres_[head] != nullptr) bytes += CentreBytes(config_->layer_shape(head));
  }
  for (size_t head = 0; head < matrices_.size(); ++head) {
    if (matrices_[head] != nullptr) bytes += MatrixBytes(config_->layer_shape(head));
  }
  return bytes;
}

void KvCache::Impl::SetCapacity(size_t head, size_t tier, size_t rows) {
  if (rows > 0) {
    mutable_store(head, tier).SetCapacity(rows);
  } else {
    stores_[head * config_->n_tiers() + tier].reset();
  }
}

uint64_t KvCache::Impl::held_bytes() const {
  uint64_t bytes = FixedBytes();
  for (const auto& rows : stores_) bytes += rows != nullptr ? StoreBytes(*rows) : 0;
  return bytes;
}

uint64_t KvCache::Impl::min_budget_bytes() const {
  const AlwaysKeep& keep = config_->policy().keep;
  uint64_t bytes = FixedBytes();
  for (size_t head = 0; head < config_->n_heads(); ++head) {
    bytes += StoreBytesFor(keep.sinks + keep.window, config_->layout(head, config_->n_rungs() - 1));
    if (config_->absorb().has_states()) {
      bytes += StoreBytesFor(std::max<size_t>(1, media_.size()),
                             config_->layout(head, config_->state_tier()));
    }
  }
  return bytes;
}

uint64_t KvCache::Impl::BudgetBytes(uint64_t tokens_seen) const {
  const Budget& budget = config_->options().budget;
  if (budget.unlimited()) return kNoLimit;
  double bytes = budget.amount;
  if (budget.unit != Budget::Unit::kBytes) {
    const auto token_bytes = static_cast<double>(shape().full_token_bytes());
    bytes *= token_bytes;
    if (budget.unit == Budget::Unit::kPercent) bytes *= static_cast<double>(tokens_seen) / 100.0;
  }
  if (bytes >= 0x1p63) return kNoLimit;  // More than any machine has.
  // A share of a short conversation can be less than the least possible.
  return std::max(static_cast<uint64_t>(bytes), min_budget_bytes());
}

uint64_t KvCache::Impl::MaxHeldBytes(uint64_t n_tokens, size_t n_media) const {
  // Tables that may still come; a vector that grows has room for up to twice its elements.
  uint64_t tables = 2 * (media_.size() + n_media) * sizeof(MediaSpan);
  uint64_t exact = FixedBytes();
  for (size_t head = 0; head < config_->n_heads(); ++head) {
    if (!centres_.empty()) tables += CentreBytes(config_->layer_shape(head));
    if (!matrices_.empty()) tables += MatrixBytes(config_->layer_shape(head));
    if (config_->absorb().has_states()) {
      const RowLayout& states = config_->layout(head, config_->state_tier());
      tables += StoreBytesFor(media_.size() + n_media, states) - StoreBytesFor(0, states);
    }
    exact += StoreBytesFor(n_tokens + Spare(n_tokens), config_->layout(head, 0));
  }
  // Within the budget the rows are as on the first rung, with room to spare.
  uint64_t within = exact;
  if (const uint64_t budget = BudgetBytes(n_tokens); budget != kNoLimit) {
    uint64_t most = std::max(budget, min_budget_bytes() + tables);
    if (config_->options().compression == Compression::kPrompt) {
      // What comes is on the first rung until the prompt has been read.
      const size_t n_new = n_tokens - tokens_seen_;
      const size_t n_spare = Spare(store(0, 0).size() + n_new);
      uint64_t grown = held_bytes() + tables;
      for (size_t head = 0; head < config_->n_heads(); ++head) {
        const RowStore& rows = store(head, 0);
        const size_t capacity = std::max(rows.capacity(), rows.size() + n_new + n_spare);
        grown +=
            StoreBytesFor(capacity, rows.layout()) - StoreBytesFor(rows.capacity(), rows.layout());
      }
      most = std::max(most, grown);
    }
    within = std::min(exact, most);
  }
  return std::max(within + (within == exact ? tables : 0), held_bytes());
}

void KvCache::Impl::BeginAppend(size_t n, Transit* transit) {
  assert(transit_ == nullptr);
  const bool stages = transit == nullptr;
  if (stages) {
    own_transit_ = std::make_unique<Transit>();
    transit = own_transit_.get();
  }
  transit_ = transit;
  transit->Begin(*config_, n, stages);
  const PolicyNeeds& needs = config_->needs();
  if (n == 1) {
    size_t n_columns = 0;
    for (size_t head = 0; head < config_->n_heads(); ++head) {
      n_columns = std::max(n_columns, n_observed_rows(head) + n);
    }
    transit->PrepareParts(n_columns);
  }
  if (tracing() && !prompt_follows_) transit->StartTrace();
  if (needs.queries == PolicyNeeds::Queries::kNone && !transit->traces()) return;
  const size_t window = needs.queries == PolicyNeeds::Queries::kAll ? n : std::min(n, needs.window);
  const auto is_text = [this](size_t i) {
    return token_info(static_cast<uint32_t>(tokens_seen_ + i)).modality == Modality::kText;
  };
  bool any_text = false;
  for (size_t i = 0; i < n && !any_text; ++i) any_text = is_text(i);
  const auto counts = [&](size_t i) { return !needs.only_text || !any_text || is_text(i); };
  size_t first = n;  // of the window's tokens that count
  for (size_t i = n, left = window; i-- > 0 && left > 0;) {
    if (!counts(i)) continue;
    first = i;
    --left;
  }
  for (size_t i = first; i < n && needs.queries != PolicyNeeds::Queries::kNone; ++i) {
    if (counts(i)) transit->Observe(i);
  }
  for (size_t head = 0; head < config_->n_heads(); ++head) {
    const Columns unobserved = unobserved_columns(head);
    transit->PrepareObservation(head, n_rows(head), unobserved.begin, unobserved.end);
  }
  transit->AllocateObservations();
}

bool KvCache::Impl::AppendExact(size_t n, uint64_t budget) {
  const auto fits = [&](size_t spare) {
    uint64_t bytes = held_bytes();
    for (size_t head = 0; head < config_->n_heads(); ++head) {
      const RowStore& exact = store(head, 0);
      if (exact.size() + n <= exact.capacity()) continue;
      bytes += StoreBytesFor(exact.size() + n + spare, exact.layout());
      bytes -= exact.capacity() > 0 ? StoreBytes(exact) : 0;
    }
    return bytes <= budget;
  };
  // What compression left free, unless a picture's span has taken bytes since.
  const size_t tier = config_->incoming_tier();
  bool has_room = tier > 0 && held_bytes() <= budget;
  for (size_t head = 0; has_room && head < config_->n_heads(); ++head) {
    has_room = store(head, tier).size() + n <= store(head, tier).capacity();
  }
  if (has_room) {
    for (size_t head = 0; head < config_->n_heads(); ++head) AppendStaged(head, tier, n);
    return true;
  }
  size_t spare = Spare(store(0, 0).size() + n);
  if (budget != kNoLimit && !fits(spare)) {
    spare = 0;
    if (!fits(spare)) return false;
  }
  for (size_t head = 0; head < config_->n_heads(); ++head) {
    mutable_store(head, 0).Reserve(n, spare);
    AppendStaged(head, 0, n);
  }
  return true;
}

void KvCache::Impl::AppendStaged(size_t head, size_t tier, size_t n) {
  RowStore& rows = mutable_store(head, tier);
  const RowLayout& layout = rows.layout();
  const float* stats = layout.n_stats > 0 ? transit_->new_stats(head) : nullptr;
  const auto append = [&](size_t i, const void* k, const void* v) {
    rows.Append({.k = k,
                 .v = v,
                 .index = static_cast<uint32_t>(tokens_seen_ + i),
                 .stats = stats != nullptr ? stats + i * config_->n_stats() : nullptr});
  };
  if (layout.k_type == ElementType::kF16 && layout.v_type == ElementType::kF16) {
    for (size_t i = 0; i < n; ++i) append(i, transit_->key(head, i), transit_->value(head, i));
    return;
  }
  RowCodec& codec = transit_->codec();
  std::vector<float>& k = transit_->key_row();
  std::vector<float>& v = transit_->value_row();
  std::vector<uint8_t>& row = transit_->encoded_row();
  codec.Set(*this, head);
  k.resize(layout.d_k);
  v.resize(layout.d_v);
  row.resize(layout.k_bytes() + layout.v_bytes());
  uint8_t* v_row = row.data() + layout.k_bytes();
  for (size_t i = 0; i < n; ++i) {
    codec.DecodeStaged(transit_->key(head, i), transit_->value(head, i), k.data(), v.data());
    codec.Encode(layout, config_->rotated(tier), k.data(), v.data(), row.data(), v_row);
    append(i, row.data(), v_row);
  }
}

void KvCache::Impl::CommitAppend() {
  const size_t n = transit_->n();
  ObserveAttention();
  TraceShares();
  const bool waits = prompt_follows_ && config_->options().compression == Compression::kPrompt;
  uint64_t budget = waits ? kNoLimit : BudgetBytes(tokens_seen_ + n);
  if (budget != kNoLimit && budget > kSmallBudget && (prompt_follows_ || prompt_precedes_)) {
    // Reading takes memory too: logits, gaps between blocks, what compressing needs, and what is
    // observed of the rows that are held, by the next ubatch about as much as by this.
    const uint64_t most = budget - kSmallBudget;
    const uint64_t reading = std::min(kReadingBytes, most / 24) +
                             (prompt_follows_ ? transit_->HeldObservationBytes() : 0);
    budget = std::max(budget - std::min(most, reading), min_budget_bytes());
  }
  prompt_precedes_ = prompt_follows_;
  if (n > 1) transit_->ReleaseObservations();
  const bool appended = AppendExact(n, budget);
  tokens_seen_ += n;
  if (n > 1) order_ = {};  // A prompt may change what everything is worth.
  if (!appended) Compressor(*this, budget).Run(n);
  transit_ = nullptr;
  own_transit_.reset();
}

void KvCache::Impl::AbortAppend() {
  std::erase_if(media_, [this](const MediaSpan& span) { return span.first_token >= tokens_seen_; });
  FitMedia();
  transit_ = nullptr;
  own_transit_.reset();
}

void KvCache::Impl::EnforceBudget() {
  const uint64_t budget = BudgetBytes(tokens_seen_);
  if (held_bytes() > budget) Compressor(*this, budget).Run(0);
}

void KvCache::Impl::Truncate(uint64_t n_tokens) {
  assert(n_tokens <= tokens_seen_);
  std::erase_if(media_, [n_tokens](const MediaSpan& span) { return span.first_token >= n_tokens; });
  if (!media_.empty() && media_.back().n_tokens() > n_tokens - media_.back().first_token) {
    // A part of a picture has no grid.
    media_.back().rows = 1;
    media_.back().columns = static_cast<uint32_t>(n_tokens - media_.back().first_token);
  }
  FitMedia();
  if (trace_ != nullptr) trace_->Truncate(n_tokens, n_cells());
  std::vector<uint32_t> slots;
  for (size_t head = 0; head < config_->n_heads(); ++head) {
    for (size_t tier = 0; tier < config_->n_tiers(); ++tier) {
      if (store(head, tier).capacity() == 0) continue;
      RowStore& rows = mutable_store(head, tier);
      // States cannot be taken apart; without any token before them they are gone altogether.
      if (tier == config_->state_tier() && n_tokens > 0) {
        const auto last = static_cast<uint32_t>(n_tokens - 1);
        for (size_t slot = 0; slot < rows.size(); ++slot) {
          rows.SetIndex(slot, std::min(rows.index(slot), last));
        }
        continue;
      }
      slots.clear();
      for (uint32_t slot = 0; slot < rows.size(); ++slot) {
        if (rows.index(slot) >= n_tokens || tier == config_->state_tier()) slots.push_back(slot);
      }
      rows.Remove(slots);
      if (!slots.empty()) {
        SetCapacity(head, tier, std::min(rows.capacity(), rows.size() + Spare(rows.size())));
      }
    }
  }
  if (n_tokens == 0) {
    std::ranges::for_each(centres_, [](auto& centre) { centre.reset(); });
    std::ranges::for_each(matrices_, [](auto& matrix) { matrix.reset(); });
  }
  tokens_seen_ = n_tokens;
  order_ = {};
  prompt_precedes_ = false;
  EnforceBudget();  // A share of fewer tokens is less.
}

CacheStats KvCache::Impl::stats() const {
  CacheStats stats;
  stats.tokens_seen = tokens_seen_;
  stats.held_bytes = held_bytes();
  uint64_t n_held = 0;  // over all heads
  for (size_t head = 0; head < config_->n_heads(); ++head) {
    uint64_t n_tokens = 0;
    for (size_t tier = 0; tier < config_->n_rungs(); ++tier) {
      const RowStore& rows = store(head, tier);
      const RowLayout& layout = rows.layout();
      n_tokens += rows.size();
      stats.tokens_by_type[static_cast<size_t>(layout.k_type)] += rows.size();
      stats.bytes_by_type[static_cast<size_t>(layout.k_type)] += rows.size() * layout.k_bytes();
      stats.bytes_by_type[static_cast<size_t>(layout.v_type)] += rows.size() * layout.v_bytes();
    }
    n_held += n_tokens;
    if (!config_->absorb().has_states()) continue;
    const RowStore& states = store(head, config_->state_tier());
    double mass = 0;
    for (size_t slot = 0; slot < states.size(); ++slot) {
      mass += std::exp(static_cast<double>(states.row(slot).log_mass));
    }
    stats.tokens_absorbed =
        std::max(stats.tokens_absorbed, static_cast<uint64_t>(std::llround(mass)));
    stats.states += states.size();
    stats.state_bytes += states.size() * states.layout().row_bytes();
  }
  for (const uint64_t bytes : stats.bytes_by_type) stats.exact_bytes += bytes;
  stats.tokens_exact = (n_held + config_->n_heads() - 1) / config_->n_heads();
  stats.metadata_bytes = stats.held_bytes - stats.exact_bytes - stats.state_bytes;
  stats.tokens_evicted = tokens_seen_ - stats.tokens_exact;
  stats.full_bytes = tokens_seen_ * shape().full_token_bytes();
  const uint64_t budget = BudgetBytes(tokens_seen_);
  stats.budget_bytes = budget == kNoLimit ? 0 : budget;
  stats.state_share = state_steps_ == 0 ? 0 : state_share_ / static_cast<double>(state_steps_);
  stats.reactivations = reactivations_;
  stats.compressions = compressions_;
  stats.compress_seconds = compress_seconds_;
  stats.observe_seconds = observe_seconds_;
  return stats;
}

void KvCache::Impl::Save(ByteWriter& writer) const {
  writer.Write(kSaveVersion);
  WriteOptions(writer, config_->options());
  writer.Write<uint64_t>(shape().layers.size());
  for (const LayerShape& layer : shape().layers) {
    for (const size_t x : {layer.n_head, layer.n_kv_head, layer.d_k, layer.d_v}) {
      writer.Write<uint64_t>(x);
    }
  }
  writer.Write(tokens_seen_);
  writer.Write(observed_queries_);
  writer.Write(order_.tokens_seen);
  for (const bool is : {order_.pooled, prompt_follows_, prompt_precedes_}) {
    writer.Write<uint8_t>(is ? 1 : 0);
  }
  writer.Write(state_share_);
  for (const uint64_t n : {state_steps_, reactivations_, compressions_}) writer.Write(n);
  writer.Write<uint64_t>(media_.size());
  for (const MediaSpan& span : media_) {
    writer.Write(span.first_token);
    writer.Write(span.modality);
    writer.Write(span.rows);
    writer.Write(span.columns);
  }
  for (size_t head = 0; head < centres_.size(); ++head) {
    writer.Write<uint8_t>(centres_[head] != nullptr ? 1 : 0);
    if (centres_[head] == nullptr) continue;
    writer.WriteRaw(centres_[head].get(), CentreBytes(config_->layer_shape(head)));
  }
  for (size_t head = 0; head < matrices_.size(); ++head) {
    writer.Write<uint8_t>(matrices_[head] != nullptr ? 1 : 0);
    if (matrices_[head] == nullptr) continue;
    writer.WriteRaw(matrices_[head].get(), MatrixBytes(config_->layer_shape(head)));
  }
  for (size_t head = 0; head < config_->n_heads(); ++head) {
    for (size_t tier = 0; tier < config_->n_tiers(); ++tier) {
      const RowStore& rows = store(head, tier);
      rows.Save(writer);
      writer.Write(static_cast<uint32_t>(rows.capacity() - rows.size()));
    }
  }
}

bool KvCache::Impl::LoadTokens(ByteReader& reader, uint32_t version) {
  tokens_seen_ = reader.Read<uint64_t>();
  observed_queries_ = reader.Read<double>();
  const bool sane = tokens_seen_ <= std::numeric_limits<uint32_t>::max() &&
                    observed_queries_ >= 0 && std::isfinite(observed_queries_);
  if (!sane) return false;
  if (version != kRowsOnlyVersion && !LoadProgress(reader)) return false;
  if (!LoadMedia(reader)) return false;
  uint64_t end_of_roots = tokens_seen_;
  if (!media_.empty()) {
    end_of_roots = std::max(end_of_roots, media_.back().first_token + media_.back().n_tokens());
  }
  for (size_t head = 0; head < centres_.size(); ++head) {
    if (!ReadBool(reader)) continue;
    const size_t bytes = CentreBytes(config_->layer_shape(head));
    if (bytes > reader.remaining()) return false;
    centres_[head] = std::make_unique_for_overwrite<uint8_t[]>(bytes);
    reader.ReadRaw(centres_[head].get(), bytes);
  }
  for (size_t head = 0; head < matrices_.size(); ++head) {
    if (!ReadBool(reader)) continue;
    const LayerShape& layer = config_->layer_shape(head);
    if (MatrixBytes(layer) > reader.remaining()) return false;
    matrices_[head] = std::make_unique_for_overwrite<uint16_t[]>(MatrixElements(layer));
    reader.ReadRaw(matrices_[head].get(), MatrixBytes(layer));
  }
  for (size_t head = 0; head < config_->n_heads(); ++head) {
    if (!LoadRows(head, end_of_roots, version != kRowsOnlyVersion, reader)) return false;
  }
  return reader.ok();
}

bool KvCache::Impl::LoadProgress(ByteReader& reader) {
  order_.tokens_seen = reader.Read<uint64_t>();
  for (bool* is : {&order_.pooled, &prompt_follows_, &prompt_precedes_}) *is = ReadBool(reader);
  state_share_ = reader.Read<double>();
  for (uint64_t* n : {&state_steps_, &reactivations_, &compressions_}) {
    *n = reader.Read<uint64_t>();
  }
  return reader.ok() && order_.tokens_seen <= tokens_seen_ && state_share_ >= 0 &&
         std::isfinite(state_share_);
}

bool KvCache::Impl::LoadMedia(ByteReader& reader) {
  media_.resize(reader.ReadCount(sizeof(uint64_t) + 1 + 2 * sizeof(uint32_t)));
  FitMedia();
  uint64_t end = 0;
  for (MediaSpan& span : media_) {
    span.first_token = reader.Read<uint64_t>();
    span.modality = reader.Read<Modality>();
    span.rows = reader.Read<uint32_t>();
    span.columns = reader.Read<uint32_t>();
    // The last one may be yet to come, in part or altogether.
    const bool is_picture = span.modality == Modality::kImage;
    const bool sane = span.first_token >= end && end <= tokens_seen_ && span.rows > 0 &&
                      span.columns > 0 && (is_picture || span.modality == Modality::kAudio) &&
                      span.n_tokens() <= (is_picture ? kMaxPictureCells : kMaxClipCells) &&
                      span.first_token <= tokens_seen_ + kMaxClipCells &&
                      span.first_token <= std::numeric_limits<uint32_t>::max() - kMaxClipCells;
    if (!sane) return false;
    end = span.first_token + span.n_tokens();
  }
  return true;
}

bool KvCache::Impl::LoadRows(size_t head, uint64_t end_of_roots, bool with_room,
                             ByteReader& reader) {
  std::vector<uint32_t> tokens;
  for (size_t tier = 0; tier < config_->n_tiers(); ++tier) {
    RowStore rows(config_->layout(head, tier));
    if (!rows.Load(reader)) return false;
    const uint32_t spare = with_room ? reader.Read<uint32_t>() : 0;
    if (spare > kMaxSpare) return false;
    for (size_t slot = 0; slot < rows.size(); ++slot) {
      if (!rows.layout().is_state) {
        tokens.push_back(rows.index(slot));
        continue;
      }
      const RowView state = rows.row(slot);
      const bool sane = state.index < end_of_roots && state.log_mass >= kMinLogMass &&
                        state.log_mass <= kMaxLogMass && state.spread >= 0;
      if (!sane) return false;
    }
    rows.SetCapacity(rows.size() + spare);
    if (rows.capacity() > 0) mutable_store(head, tier) = std::move(rows);
  }
  // None twice, and all where none is ever forgotten.
  std::ranges::sort(tokens);
  return std::ranges::adjacent_find(tokens) == tokens.end() &&
         (tokens.empty() || tokens.back() < tokens_seen_) &&
         (!config_->options().budget.unlimited() || tokens.size() == tokens_seen_);
}

KvCache::KvCache(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
KvCache::KvCache(const KvCache& other) : impl_(std::make_unique<Impl>(*other.impl_)) {}
KvCache& KvCache::operator=(const KvCache& other) {
  if (this != &other) impl_ = std::make_unique<Impl>(*other.impl_);
  return *this;
}
KvCache::KvCache(KvCache&&) noexcept = default;
KvCache& KvCache::operator=(KvCache&&) noexcept = default;
KvCache::~KvCache() = default;

Result<KvCache> KvCache::Create(const CacheShape& shape, const CacheOptions& options) {
  RKV_ASSIGN_OR_RETURN(auto config, CacheConfig::Create(shape, options));
  auto impl = std::make_unique<Impl>(std::move(config));
  const uint64_t smallest = impl->min_budget_bytes();
  const Budget& budget = options.budget;
  if (!budget.unlimited() && !(budget.amount > 0 && std::isfinite(budget.amount))) {
    return InvalidArgument(
        fmt::format("a budget of {} is none: it must be above 0", budget.amount));
  }
  const auto token_bytes = static_cast<double>(shape.full_token_bytes());
  const double bytes =
      budget.unit == Budget::Unit::kTokens ? budget.amount * token_bytes : budget.amount;
  if (budget.unit != Budget::Unit::kPercent && bytes < static_cast<double>(smallest)) {
    return InvalidArgument(fmt::format(
        "budget {} is too small for policy '{}' with this model; the smallest possible is {} ({}t)",
        ToString(budget), ChosenPolicy(options).name, FormatBytes(smallest),
        static_cast<uint64_t>(static_cast<double>(smallest) / token_bytes) + 1));
  }
  return KvCache(std::move(impl));
}

const CacheShape& KvCache::shape() const { return impl_->shape(); }
const CacheOptions& KvCache::options() const { return impl_->config().options(); }
uint64_t KvCache::tokens_seen() const { return impl_->tokens_seen(); }
CacheStats KvCache::stats() const { return impl_->stats(); }
void KvCache::AddMedia(const MediaSpan& span) { impl_->AddMedia(span); }
void KvCache::BeginAppend(size_t n) { impl_->BeginAppend(n, nullptr); }
void KvCache::Stage(size_t layer, size_t kv_head, size_t i, const uint16_t* k, const uint16_t* v) {
  impl_->transit().Stage(impl_->config().head(layer, kv_head), i, k, v);
}
void KvCache::CommitAppend() { impl_->CommitAppend(); }
void KvCache::AbortAppend() { impl_->AbortAppend(); }
void KvCache::StartTracing() { impl_->StartTracing(); }
Inspection KvCache::Inspect() const { return impl_->Inspect(); }
void KvCache::Truncate(uint64_t n_tokens) { impl_->Truncate(n_tokens); }

void KvCache::Attend(size_t layer, size_t kv_head, const float* q, size_t n_queries, float scale,
                     float softcap, float* out) const {
  const LayerShape& shape = impl_->shape().layers[layer];
  const HeadShape head{.d_k = shape.d_k, .d_v = shape.d_v, .scale = scale, .softcap = softcap};
  AttentionScratch scratch;
  scratch.Resize(impl_->shape());
  const SoftmaxState state = scratch.state();
  for (size_t begin = 0; begin < n_queries; begin += kMaxQueryRows) {
    const size_t n = std::min(kMaxQueryRows, n_queries - begin);
    const float* rows[kMaxQueryRows];
    float* out_rows[kMaxQueryRows];
    for (size_t i = 0; i < n; ++i) {
      rows[i] = q + (begin + i) * shape.d_k;
      out_rows[i] = out + (begin + i) * shape.d_v;
    }
    const size_t number = impl_->config().head(layer, kv_head);
    ResetSoftmax(n, shape.d_v, state);
    impl_->Attend(number, head, {.rows = rows, .n = n}, scratch, nullptr, {});
    FinishSoftmax(n, shape.d_v, state, nullptr, out_rows);
    impl_->AddReadout(number, {.rows = rows, .n = n}, scratch, out_rows);
  }
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
  if (version != kSaveVersion && version != kRowsOnlyVersion) {
    return BadFile("the saved cache was written by another version of RetentiveKV");
  }
  CacheOptions options;
  if (!ReadOptions(reader, options)) return damaged;
  CacheShape saved;
  saved.layers.resize(reader.ReadCount(4 * sizeof(uint64_t)));
  for (LayerShape& layer : saved.layers) {
    for (size_t* x : {&layer.n_head, &layer.n_kv_head, &layer.d_k, &layer.d_v}) {
      *x = reader.Read<uint64_t>();
    }
  }
  if (!reader.ok()) return damaged;
  if (saved != shape) return BadFile("the saved cache belongs to a model of another shape");
  RKV_ASSIGN_OR_RETURN(KvCache cache, Create(shape, options));
  if (!cache.impl_->LoadTokens(reader, version) || reader.remaining() != 0) return damaged;
  return cache;
}

}  // namespace rkv
