// Bytes of a cache: held, allowed, and predicted.
#include <algorithm>

#include "cache/byte_count.h"
#include "cache/kv_cache_impl.h"

namespace rkv {

namespace {

// Maximum part of a budget above kSmallBudget that is reserved for reading a prompt of several
// ubatches, beside rows and observations. It is small compared with a process, but large compared
// with a smaller budget.
constexpr uint64_t kReadingBytes = uint64_t{4} << 20;
constexpr uint64_t kSmallBudget = uint64_t{32} << 20;

}  // namespace

uint64_t KvCache::Impl::FixedBytes() const {
  return sizeof(*this) + heads_.capacity() * sizeof(Head) + media_.held_bytes() +
         surprisals_.held_bytes();
}

uint64_t KvCache::Impl::held_bytes() const {
  uint64_t bytes = FixedBytes();
  for (const Head& head : heads_) bytes += head.held_bytes();
  return bytes;
}

uint64_t KvCache::Impl::min_budget_bytes() const {
  return FixedBytes() + TableBytes(heads_) + config_->MinRowBytes(media_.size());
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
  // A percentage of a short conversation can be below the minimum.
  return std::max(static_cast<uint64_t>(bytes), min_budget_bytes());
}

uint64_t KvCache::Impl::ReadingBudget(uint64_t budget) const {
  const bool reads = append_.prompt_follows || prompt_precedes_;
  if (budget == kNoLimit || budget <= kSmallBudget || !reads) return budget;
  // Reading takes memory too: logits, gaps between blocks, buffers of compressing, and observations
  // of the held rows. The next ubatch needs about as many observations as this one.
  const uint64_t max = budget - kSmallBudget;
  const uint64_t reading = std::min(kReadingBytes, max / 24) +
                           (append_.prompt_follows ? buffers_->observations.HeldBytes() : 0);
  return std::max(budget - std::min(max, reading), min_budget_bytes());
}

uint64_t KvCache::Impl::UncompressedBytes(size_t n) const {
  const size_t n_spare = SpareRows(heads_.front().store(0).size() + n);
  uint64_t bytes = held_bytes();
  for (const Head& head : heads_) {
    const RowStore& rows = head.store(0);
    const size_t capacity = std::max(rows.capacity(), rows.size() + n + n_spare);
    bytes += StoreBytesFor(capacity, rows.layout()) - StoreBytesFor(rows.capacity(), rows.layout());
  }
  return bytes;
}

uint64_t KvCache::Impl::MaxHeldBytes(uint64_t n_tokens, size_t n_media) const {
  // Tables that may be added; a growing vector has room for up to twice its elements.
  const size_t n_spans = media_.size() + n_media;
  uint64_t tables = 2 * n_spans * sizeof(MediaSpan);
  if (config_->needs().surprisal) {
    const size_t held = surprisals_.held_bytes();
    tables += std::max(SurprisalTable::BytesFor(n_tokens + 1), held) - held;
  }
  uint64_t exact = FixedBytes() + TableBytes(heads_);
  for (const Head& head : heads_) {
    if (config_->rotates()) tables += CentreBytes(head.shape());
    if (config_->has_matrices()) tables += MatrixBytes(head.shape());
    if (config_->absorb().has_states()) {
      tables += StoreBytesFor(n_spans, head.layout(config_->state_tier()));
    }
    exact += StoreBytesFor(n_tokens + SpareRows(n_tokens), head.layout(0));
  }
  // While they fit into the budget, all rows are on the first rung, with spare rows.
  uint64_t within = exact;
  if (const uint64_t budget = BudgetBytes(n_tokens); budget != kNoLimit) {
    uint64_t max = std::max(budget, min_budget_bytes() + tables);
    if (config_->options().compression == Compression::kPrompt) {
      // New tokens are on the first rung until the prompt has been read.
      max = std::max(max, UncompressedBytes(n_tokens - tokens_seen_) + tables);
    }
    within = std::min(exact, max);
  }
  return std::max(within + (within == exact ? tables : 0), held_bytes());
}

}  // namespace rkv
