#include "retentivekv/memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/bytes.h"
#include "cache/memory_impl.h"

namespace rkv {

namespace {

constexpr float kAlwaysKeep = std::numeric_limits<float>::infinity();
constexpr uint64_t kNoLimit = std::numeric_limits<uint64_t>::max();
constexpr uint32_t kSaveVersion = 1;

// Working memory of one eviction, reused by every conversation on this thread.
struct EvictionScratch {
  std::vector<uint32_t> token_index;
  std::vector<float> scores;
  std::vector<uint32_t> slots;
};

// The slots of the `n` lowest scores, at the front of scratch.slots. Ties: the older token goes.
std::span<uint32_t> LowestSlots(EvictionScratch& scratch, size_t n) {
  const auto before = [&scratch](uint32_t a, uint32_t b) {
    if (scratch.scores[a] != scratch.scores[b]) return scratch.scores[a] < scratch.scores[b];
    return scratch.token_index[a] < scratch.token_index[b];
  };
  scratch.slots.resize(scratch.scores.size());
  if (n == 1) {  // A decode step: one token makes room for one.
    uint32_t lowest = 0;
    for (uint32_t slot = 1; slot < scratch.slots.size(); ++slot) {
      if (before(slot, lowest)) lowest = slot;
    }
    scratch.slots[0] = lowest;
  } else {
    std::iota(scratch.slots.begin(), scratch.slots.end(), 0u);
    std::nth_element(scratch.slots.begin(), scratch.slots.begin() + static_cast<ptrdiff_t>(n),
                     scratch.slots.end(), before);
  }
  const auto keep = [&scratch](uint32_t slot) { return scratch.scores[slot] == kAlwaysKeep; };
  const auto end = scratch.slots.begin() + static_cast<ptrdiff_t>(n);
  return {scratch.slots.begin(), std::remove_if(scratch.slots.begin(), end, keep)};
}

std::string FormatBytes(uint64_t bytes) {
  if (bytes < 10 * 1024) return fmt::format("{}B", bytes);
  return fmt::format("{}KiB", (bytes + 1023) / 1024);
}

}  // namespace

size_t MemoryShape::full_token_bytes() const {
  size_t bytes = 0;
  for (const LayerShape& layer : layers) {
    bytes += layer.n_kv_head * (layer.d_k + layer.d_v) * sizeof(uint16_t);
  }
  return bytes;
}

Memory::Impl::Impl(const MemoryShape& shape, const MemoryOptions& options, PolicyChoice policy)
    : shape_(shape), options_(options), policy_(std::move(policy)) {
  size_t n_stores = 0;
  first_store_.reserve(shape_.layers.size());
  for (const LayerShape& layer : shape_.layers) {
    first_store_.push_back(n_stores);
    n_stores += layer.n_kv_head;
  }
  stores_.reserve(n_stores);
  for (const LayerShape& layer : shape_.layers) {
    for (size_t h = 0; h < layer.n_kv_head; ++h) stores_.emplace_back(layer.d_k, layer.d_v);
  }
}

uint64_t Memory::Impl::FixedBytes() const {
  return sizeof(*this) + stores_.capacity() * sizeof(ExactStore) +
         first_store_.capacity() * sizeof(size_t) + shape_.layers.capacity() * sizeof(LayerShape);
}

uint64_t Memory::Impl::BytesFor(size_t tokens_per_head) const {
  uint64_t bytes = FixedBytes();
  for (const LayerShape& layer : shape_.layers) {
    bytes += layer.n_kv_head * ExactStore::BytesFor(tokens_per_head, layer.d_k, layer.d_v);
  }
  return bytes;
}

uint64_t Memory::Impl::smallest_budget_bytes() const {
  return BytesFor(policy_.keep.sinks + policy_.keep.window);
}

uint64_t Memory::Impl::BudgetBytes(uint64_t tokens_seen) const {
  const Budget& budget = options_.budget;
  if (budget.unlimited()) return kNoLimit;
  double bytes = budget.amount;
  if (budget.unit != Budget::Unit::kBytes) {
    const auto token_bytes = static_cast<double>(shape_.full_token_bytes());
    bytes *= token_bytes;
    if (budget.unit == Budget::Unit::kPercent) bytes *= static_cast<double>(tokens_seen) / 100.0;
  }
  if (bytes >= 0x1p63) return kNoLimit;  // More than any machine has.
  // A share of a short conversation can be less than the policy's minimum.
  return std::max(static_cast<uint64_t>(bytes), smallest_budget_bytes());
}

size_t Memory::Impl::TokensThatFit(uint64_t bytes) const {
  if (bytes == kNoLimit) return ExactStore::kUnlimited;
  size_t low = 0;  // BytesFor(low) <= bytes
  size_t high = bytes / std::max<size_t>(1, shape_.full_token_bytes()) + 1;
  while (high - low > 1) {
    const size_t middle = low + (high - low) / 2;
    (BytesFor(middle) <= bytes ? low : high) = middle;
  }
  return low;
}

void Memory::Impl::EvictDownTo(size_t tokens_per_head) {
  static thread_local EvictionScratch scratch;
  for (ExactStore& store : stores_) {
    if (store.size() <= tokens_per_head) continue;
    scratch.token_index.resize(store.size());
    scratch.scores.resize(store.size());
    for (size_t slot = 0; slot < store.size(); ++slot) {
      scratch.token_index[slot] = store.token_index(slot);
    }
    ScoreContext context;
    context.token_index = scratch.token_index;
    context.tokens_seen = tokens_seen_;
    policy_.policy->Score(context, scratch.scores);
    for (size_t slot = 0; slot < store.size(); ++slot) {
      const uint32_t index = scratch.token_index[slot];
      if (index < policy_.keep.sinks || index + policy_.keep.window > tokens_seen_) {
        scratch.scores[slot] = kAlwaysKeep;
      }
    }
    store.Remove(LowestSlots(scratch, store.size() - tokens_per_head));
  }
}

void Memory::Impl::BeginAppend(size_t n) {
  assert(n_staged_ == 0);
  const size_t limit = TokensThatFit(BudgetBytes(tokens_seen_ + n));
  // A decoded token takes the place of one that leaves, so the budget holds at every moment. A
  // prompt's ubatch is evicted from after it has been seen.
  if (n == 1 && limit != ExactStore::kUnlimited) EvictDownTo(limit - 1);
  for (ExactStore& store : stores_) store.Reserve(n, limit);
  n_staged_ = n;
}

void Memory::Impl::CommitAppend() {
  for (ExactStore& store : stores_) store.Commit(n_staged_);
  tokens_seen_ += n_staged_;
  n_staged_ = 0;
  EnforceBudget();
}

void Memory::Impl::AbortAppend() {
  n_staged_ = 0;
  EnforceBudget();  // Gives back the room that was made.
}

void Memory::Impl::EnforceBudget() {
  const size_t limit = TokensThatFit(BudgetBytes(tokens_seen_));
  if (limit == ExactStore::kUnlimited) return;
  EvictDownTo(limit);
  for (ExactStore& store : stores_) {
    if (store.capacity() > limit) store.Shrink(limit - std::min(limit, store.size()));
  }
}

void Memory::Impl::Truncate(uint64_t n_tokens) {
  assert(n_tokens <= tokens_seen_);
  std::vector<uint32_t> slots;
  for (ExactStore& store : stores_) {
    slots.clear();
    for (uint32_t slot = 0; slot < store.size(); ++slot) {
      if (store.token_index(slot) >= n_tokens) slots.push_back(slot);
    }
    store.Remove(slots);
    if (!slots.empty()) store.Shrink(ExactStore::Slack(store.size()));
  }
  tokens_seen_ = n_tokens;
  EnforceBudget();  // A share of fewer tokens is less.
}

void Memory::Impl::Attend(size_t layer, size_t kv_head, const HeadShape& head,
                          const QueryBlock& queries, const SoftmaxState& state,
                          float* scratch) const {
  const ExactStore& tokens = store(layer, kv_head);
  for (size_t page = 0; page < tokens.n_spans(); ++page) {
    AttendF16(head, queries, tokens.span(page), nullptr, state, scratch);
  }
}

MemoryStats Memory::Impl::stats() const {
  MemoryStats stats;
  stats.tokens_seen = tokens_seen_;
  stats.held_bytes = FixedBytes();
  for (size_t l = 0; l < shape_.layers.size(); ++l) {
    const LayerShape& layer = shape_.layers[l];
    for (size_t h = 0; h < layer.n_kv_head; ++h) {
      const ExactStore& tokens = store(l, h);
      stats.tokens_exact = std::max<uint64_t>(stats.tokens_exact, tokens.size());
      stats.held_bytes += tokens.held_bytes();
      stats.exact_bytes += tokens.size() * (layer.d_k + layer.d_v) * sizeof(uint16_t);
    }
  }
  stats.tokens_evicted = tokens_seen_ - stats.tokens_exact;
  stats.full_bytes = tokens_seen_ * shape_.full_token_bytes();
  const uint64_t budget = BudgetBytes(tokens_seen_);
  stats.budget_bytes = budget == kNoLimit ? 0 : budget;
  return stats;
}

void Memory::Impl::Save(ByteWriter& writer) const {
  writer.Write(kSaveVersion);
  writer.WriteString(ToString(options_.policy));
  writer.Write(options_.budget.unit);
  writer.Write(options_.budget.amount);
  writer.Write(tokens_seen_);
  writer.Write<uint64_t>(shape_.layers.size());
  for (const LayerShape& layer : shape_.layers) {
    for (const size_t x : {layer.n_head, layer.n_kv_head, layer.d_k, layer.d_v}) {
      writer.Write<uint64_t>(x);
    }
  }
  for (const ExactStore& tokens : stores_) tokens.Save(writer);
}

bool Memory::Impl::LoadTokens(ByteReader& reader) {
  for (ExactStore& tokens : stores_) {
    if (!tokens.Load(reader)) return false;
    for (size_t slot = 0; slot < tokens.size(); ++slot) {
      if (tokens.token_index(slot) >= tokens_seen_) return false;
    }
  }
  return reader.ok();
}

Memory::Memory(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Memory::Memory(const Memory& other) : impl_(std::make_unique<Impl>(*other.impl_)) {}
Memory& Memory::operator=(const Memory& other) {
  if (this != &other) impl_ = std::make_unique<Impl>(*other.impl_);
  return *this;
}
Memory::Memory(Memory&&) noexcept = default;
Memory& Memory::operator=(Memory&&) noexcept = default;
Memory::~Memory() = default;

Result<Memory> Memory::Create(const MemoryShape& shape, const MemoryOptions& options) {
  if (shape.layers.empty()) return InvalidArgument("the model has no attention layers");
  for (const LayerShape& layer : shape.layers) {
    if (layer.n_kv_head == 0 || layer.n_head % layer.n_kv_head != 0 || layer.d_k == 0 ||
        layer.d_v == 0) {
      return InvalidArgument(
          fmt::format("{} query heads cannot share {} KV heads of {} + {} elements", layer.n_head,
                      layer.n_kv_head, layer.d_k, layer.d_v));
    }
  }
  RKV_ASSIGN_OR_RETURN(PolicyChoice policy, MakePolicy(options.policy));
  const PolicyInfo* info = policy.info;
  if (!info->evicts && !options.budget.unlimited()) {
    return InvalidArgument(
        fmt::format("policy '{}' keeps every token and cannot meet the budget {}; choose another "
                    "policy or leave the budget out",
                    info->name, ToString(options.budget)));
  }
  auto impl = std::make_unique<Impl>(shape, options, std::move(policy));
  const uint64_t smallest = impl->smallest_budget_bytes();
  const Budget& budget = options.budget;
  const auto token_bytes = static_cast<double>(shape.full_token_bytes());
  const double bytes =
      budget.unit == Budget::Unit::kTokens ? budget.amount * token_bytes : budget.amount;
  if (budget.unit != Budget::Unit::kPercent && bytes < static_cast<double>(smallest)) {
    return InvalidArgument(fmt::format(
        "budget {} is too small for policy '{}' with this model; the smallest possible is {} ({}t)",
        ToString(budget), info->name, FormatBytes(smallest),
        static_cast<uint64_t>(static_cast<double>(smallest) / token_bytes) + 1));
  }
  return Memory(std::move(impl));
}

const MemoryShape& Memory::shape() const { return impl_->shape(); }
const MemoryOptions& Memory::options() const { return impl_->options(); }
uint64_t Memory::tokens_seen() const { return impl_->tokens_seen(); }
MemoryStats Memory::stats() const { return impl_->stats(); }
void Memory::BeginAppend(size_t n) { impl_->BeginAppend(n); }
void Memory::Stage(size_t layer, size_t kv_head, size_t i, const uint16_t* k, const uint16_t* v) {
  impl_->Stage(layer, kv_head, i, k, v);
}
void Memory::CommitAppend() { impl_->CommitAppend(); }
void Memory::AbortAppend() { impl_->AbortAppend(); }
void Memory::Truncate(uint64_t n_tokens) { impl_->Truncate(n_tokens); }

void Memory::Attend(size_t layer, size_t kv_head, const float* q, size_t n_queries, float scale,
                    float softcap, float* out) const {
  const LayerShape& shape = impl_->shape().layers[layer];
  const HeadShape head{.d_k = shape.d_k, .d_v = shape.d_v, .scale = scale, .softcap = softcap};
  std::vector<float> acc(kMaxQueryRows * shape.d_v), max(kMaxQueryRows), sum(kMaxQueryRows);
  std::vector<float> scratch(AttentionScratchFloats(shape.d_k, shape.d_v));
  const SoftmaxState state{.acc = acc.data(), .max = max.data(), .sum = sum.data()};
  for (size_t begin = 0; begin < n_queries; begin += kMaxQueryRows) {
    const size_t n = std::min(kMaxQueryRows, n_queries - begin);
    const float* rows[kMaxQueryRows];
    float* out_rows[kMaxQueryRows];
    for (size_t i = 0; i < n; ++i) {
      rows[i] = q + (begin + i) * shape.d_k;
      out_rows[i] = out + (begin + i) * shape.d_v;
    }
    ResetSoftmax(n, shape.d_v, state);
    impl_->Attend(layer, kv_head, head, {.rows = rows, .n = n}, state, scratch.data());
    FinishSoftmax(n, shape.d_v, state, nullptr, out_rows);
  }
}

std::string Memory::Save() const {
  ByteWriter writer;
  impl_->Save(writer);
  return writer.buffer();
}

Result<Memory> Memory::Load(const MemoryShape& shape, std::string_view bytes) {
  const Status damaged = BadFile("the saved cache is damaged");
  ByteReader reader(bytes);
  if (reader.Read<uint32_t>() != kSaveVersion) {
    return BadFile("the saved cache was written by another version of RetentiveKV");
  }
  MemoryOptions options;
  const Result<PolicySpec> policy = ParsePolicySpec(reader.ReadString());
  if (!policy.ok()) return damaged;
  options.policy = *policy;
  options.budget.unit = reader.Read<Budget::Unit>();
  options.budget.amount = reader.Read<double>();
  const uint64_t tokens_seen = reader.Read<uint64_t>();
  MemoryShape saved;
  saved.layers.resize(reader.ReadCount(4 * sizeof(uint64_t)));
  for (LayerShape& layer : saved.layers) {
    for (size_t* x : {&layer.n_head, &layer.n_kv_head, &layer.d_k, &layer.d_v}) {
      *x = reader.Read<uint64_t>();
    }
  }
  const Budget& budget = options.budget;
  const bool sane = budget.unit <= Budget::Unit::kBytes && budget.amount > 0 &&
                    std::isfinite(budget.amount) &&
                    tokens_seen <= std::numeric_limits<uint32_t>::max();
  if (!reader.ok() || !sane) return damaged;
  if (saved != shape) return BadFile("the saved cache belongs to a model of another shape");
  RKV_ASSIGN_OR_RETURN(Memory memory, Create(shape, options));
  memory.impl_->set_tokens_seen(tokens_seen);
  if (!memory.impl_->LoadTokens(reader) || reader.remaining() != 0) return damaged;
  return memory;
}

}  // namespace rkv
