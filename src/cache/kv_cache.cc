// KvCache: appends, observations and truncation. Once an append ends, no token is in transit.
#include "retentivekv/kv_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <utility>

#include "base/clock.h"
#include "cache/byte_count.h"
#include "cache/compressor.h"
#include "cache/kv_cache_impl.h"

namespace rkv {

namespace {

std::string FormatBytes(uint64_t bytes) {
  if (bytes < 10 * 1024) return fmt::format("{}B", bytes);
  return fmt::format("{}KiB", (bytes + 1023) / 1024);
}

}  // namespace

size_t CacheShape::full_token_bytes() const {
  size_t bytes = 0;
  for (const LayerShape& layer : layers) {
    bytes += layer.n_kv_head * (layer.d_k + layer.d_v) * sizeof(uint16_t);
  }
  return bytes;
}

KvCache::Impl::Impl(std::shared_ptr<const CacheConfig> config) : config_(std::move(config)) {
  heads_.reserve(config_->n_heads());
  for (size_t head = 0; head < config_->n_heads(); ++head) heads_.emplace_back(*config_, head);
}

// A copy has neither the original's current append nor its times.
KvCache::Impl::Impl(const Impl& other)
    : config_(other.config_),
      heads_(other.heads_),
      media_(other.media_),
      surprisals_(other.surprisals_),
      tokens_seen_(other.tokens_seen_),
      observed_queries_(other.observed_queries_),
      order_(other.order_),
      prompt_precedes_(other.prompt_precedes_),
      state_share_(other.state_share_),
      state_steps_(other.state_steps_),
      reactivations_(other.reactivations_),
      compressions_(other.compressions_),
      compress_seconds_(other.compress_seconds_),
      observe_seconds_(other.observe_seconds_) {
  if (other.trace_ != nullptr) trace_ = std::make_unique<Trace>(*other.trace_);
}

KvCache::Append KvCache::Impl::BeginAppend(const AppendInfo& info, UbatchBuffers* buffers) {
  assert(buffers_ == nullptr);
  const bool stages = buffers == nullptr;
  if (stages) {
    own_buffers_ = std::make_unique<UbatchBuffers>();
    buffers = own_buffers_.get();
  }
  append_ = info;
  buffers_ = buffers;
  buffers->rows.Begin(*config_, info.n, stages);
  buffers->observations.Begin(*config_, info.n);
  buffers->surprisals.assign(config_->needs().surprisal ? info.n + 1 : 0,
                             std::numeric_limits<float>::quiet_NaN());
  if (info.n == 1) {
    size_t n_columns = 0;
    for (size_t head = 0; head < heads_.size(); ++head) {
      n_columns = std::max(n_columns, n_observed_rows(head) + info.n);
    }
    buffers->parts.Prepare(shape(), n_columns);
  }
  PrepareObservations(info.n);
  return Append(this);
}

void KvCache::Impl::PrepareObservations(size_t n) {
  Observations& observations = buffers_->observations;
  const PolicyNeeds& needs = config_->needs();
  const bool observes = needs.queries != PolicyNeeds::Queries::kNone;
  if (tracing() && !append_.prompt_follows) observations.StartTrace();
  if (!observes && !observations.traces()) return;
  const size_t window = needs.queries == PolicyNeeds::Queries::kAll ? n : std::min(n, needs.window);
  const auto is_text = [this](size_t i) {
    return media_.token_info(static_cast<uint32_t>(tokens_seen_ + i)).modality == Modality::kText;
  };
  bool any_text = false;
  for (size_t i = 0; i < n && !any_text; ++i) any_text = is_text(i);
  const auto counts = [&](size_t i) { return !needs.only_text || !any_text || is_text(i); };
  size_t first = n;  // first observed token of the window
  for (size_t i = n, left = window; i-- > 0 && left > 0;) {
    if (!counts(i)) continue;
    first = i;
    --left;
  }
  for (size_t i = first; i < n && observes; ++i) {
    if (counts(i)) observations.Observe(i);
  }
  for (size_t head = 0; head < heads_.size(); ++head) {
    observations.Prepare(head, heads_[head].n_rows(), unobserved_columns(head));
  }
  observations.Allocate();
}

bool KvCache::Impl::AppendExact(size_t n, uint64_t budget) {
  const auto fits = [&](size_t spare) {
    uint64_t bytes = held_bytes();
    for (const Head& head : heads_) {
      const RowStore& exact = head.store(0);
      if (exact.size() + n <= exact.capacity()) continue;
      bytes += StoreBytesFor(exact.size() + n + spare, exact.layout());
      bytes -= exact.capacity() > 0 ? StoreBytes(exact) : 0;
    }
    return bytes <= budget;
  };
  // Uses the spare rows of the last compression, unless a picture's span has taken bytes since.
  const size_t tier = config_->incoming_tier();
  const auto has_room = [n, tier](const Head& head) {
    return head.store(tier).size() + n <= head.store(tier).capacity();
  };
  if (tier > 0 && held_bytes() <= budget && std::ranges::all_of(heads_, has_room)) {
    for (Head& head : heads_) AppendStaged(head, tier, n);
    return true;
  }
  size_t spare = SpareRows(heads_.front().store(0).size() + n);
  if (budget != kNoLimit && !fits(spare)) {
    spare = 0;
    if (!fits(spare)) return false;
  }
  for (Head& head : heads_) {
    head.mutable_store(0).Reserve(n, spare);
    AppendStaged(head, 0, n);
  }
  return true;
}

void KvCache::Impl::AppendStaged(Head& head, size_t tier, size_t n) const {
  RowStore& rows = head.mutable_store(tier);
  const RowLayout& layout = rows.layout();
  const UbatchRows& staged = buffers_->rows;
  const size_t number = head.number();
  const float* stats = layout.n_stats > 0 ? buffers_->observations.new_stats(number) : nullptr;
  const auto append = [&](size_t i, const void* k, const void* v) {
    rows.Append({.k = k,
                 .v = v,
                 .index = static_cast<uint32_t>(tokens_seen_ + i),
                 .stats = stats != nullptr ? stats + i * config_->n_stats() : nullptr});
  };
  if (layout.k_type == ElementType::kF16 && layout.v_type == ElementType::kF16) {
    for (size_t i = 0; i < n; ++i) append(i, staged.key(number, i), staged.value(number, i));
    return;
  }
  std::vector<float>& k = buffers_->key;
  std::vector<float>& v = buffers_->value;
  std::vector<uint8_t>& row = buffers_->encoded;
  buffers_->codec.Set(head);
  k.resize(layout.d_k);
  v.resize(layout.d_v);
  row.resize(layout.k_bytes() + layout.v_bytes());
  uint8_t* v_row = row.data() + layout.k_bytes();
  for (size_t i = 0; i < n; ++i) {
    buffers_->codec.DecodeStaged(staged.key(number, i), staged.value(number, i), k.data(),
                                 v.data());
    buffers_->codec.Encode(tier, k.data(), v.data(), row.data(), v_row);
    append(i, row.data(), v_row);
  }
}

void KvCache::Impl::CommitAppend() {
  const size_t n = append_.n;
  KeepSurprisals();
  ObserveAttention();
  TraceShares();
  const bool waits =
      append_.prompt_follows && config_->options().compression == Compression::kPrompt;
  const uint64_t budget = waits ? kNoLimit : ReadingBudget(BudgetBytes(tokens_seen_ + n));
  prompt_precedes_ = append_.prompt_follows;
  if (n > 1) buffers_->observations.Release();
  const bool appended = AppendExact(n, budget);
  tokens_seen_ += n;
  if (n > 1) order_ = {};  // A prompt may change all scores.
  if (!appended) Compress(budget, n);
  buffers_ = nullptr;
  own_buffers_.reset();
}

void KvCache::Impl::KeepSurprisals() {
  for (size_t i = 0; i < buffers_->surprisals.size(); ++i) {
    surprisals_.Set(tokens_seen_ + i, buffers_->surprisals[i]);
  }
  if (surprisals_.empty()) return;
  // A small budget that stays the same while a conversation grows is for rows.
  constexpr uint64_t kMaxShare = 64;
  const uint64_t budget = BudgetBytes(tokens_seen_ + append_.n);
  if (surprisals_.held_bytes() > budget / kMaxShare) surprisals_ = {};
}

void KvCache::Impl::AbortAppend() {
  media_.DropFrom(tokens_seen_);
  buffers_ = nullptr;
  own_buffers_.reset();
}

void KvCache::Impl::Compress(uint64_t budget, size_t n_new) {
  const Stopwatch clock;
  order_ = Compressor({.config = *config_,
                       .heads = heads_,
                       .media = media_,
                       .surprisals = SurprisalScores(surprisals_),
                       .tokens_seen = tokens_seen_,
                       .n_new = n_new,
                       .buffers = buffers_,
                       .budget = budget,
                       .fixed_bytes = FixedBytes(),
                       .order = order_,
                       .observed_queries = observed_queries_,
                       .n_threads = buffers_ != nullptr ? append_.n_threads : 1,
                       .trace = trace_.get()})
               .Run();
  ++compressions_;
  compress_seconds_ += clock.Seconds();
}

void KvCache::Impl::EnforceBudget() {
  const uint64_t budget = BudgetBytes(tokens_seen_);
  if (held_bytes() > budget) Compress(budget, 0);
}

void KvCache::Impl::Truncate(uint64_t n_tokens) {
  assert(n_tokens <= tokens_seen_);
  media_.Truncate(n_tokens);
  surprisals_.Truncate(n_tokens);
  if (trace_ != nullptr) trace_->Truncate(n_tokens, media_.n_cells());
  for (Head& head : heads_) head.Truncate(n_tokens);
  tokens_seen_ = n_tokens;
  order_ = {};
  prompt_precedes_ = false;
  EnforceBudget();  // A budget in percent shrinks with the number of tokens.
}

CacheStats KvCache::Impl::stats() const {
  CacheStats stats;
  stats.tokens_seen = tokens_seen_;
  stats.held_bytes = held_bytes();
  uint64_t n_held = 0;  // over all heads
  for (const Head& head : heads_) {
    n_held += head.n_tokens();
    for (size_t tier = 0; tier < config_->n_rungs(); ++tier) {
      const RowStore& rows = head.store(tier);
      const RowLayout& layout = rows.layout();
      stats.tokens_by_type[static_cast<size_t>(layout.k_type)] += rows.size();
      stats.bytes_by_type[static_cast<size_t>(layout.k_type)] += rows.size() * layout.k_bytes();
      stats.bytes_by_type[static_cast<size_t>(layout.v_type)] += rows.size() * layout.v_bytes();
    }
    if (!config_->absorb().has_states()) continue;
    const RowStore& states = head.states();
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

KvCache::Append::Append(Append&& other) noexcept : impl_(std::exchange(other.impl_, nullptr)) {}
KvCache::Append::~Append() {
  if (impl_ != nullptr) impl_->AbortAppend();
}
void KvCache::Append::Stage(size_t layer, size_t kv_head, size_t i, const uint16_t* k,
                            const uint16_t* v) {
  impl_->Stage(layer, kv_head, i, k, v);
}
void KvCache::Append::SetSurprisal(size_t i, float nats) { impl_->SetSurprisal(i, nats); }
void KvCache::Append::Commit() { std::exchange(impl_, nullptr)->CommitAppend(); }

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
    return InvalidArgument(fmt::format("the budget is {}; it must be above 0", budget.amount));
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
KvCache::Append KvCache::BeginAppend(const AppendInfo& info) {
  return impl_->BeginAppend(info, nullptr);
}
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
    const Head& held = impl_->head(impl_->config().head(layer, kv_head));
    ResetSoftmax(n, shape.d_v, state);
    held.Attend(head, {.rows = rows, .n = n}, {}, nullptr, {}, scratch);
    FinishSoftmax(n, shape.d_v, state, nullptr, out_rows);
    held.AddReadout({.rows = rows, .n = n}, scratch, out_rows);
  }
}

}  // namespace rkv
