// Attention of a segment: softmax over the held rows and the ubatch, then output and observations.
// Results do not depend on the number of threads.
#include "cache/ubatch_attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <span>

namespace rkv {

namespace {

// Query rows of one kernel call: (token, query head) pairs of one group.
struct RowBlock {
  const float* q[kMaxQueryRows];
  float* out[kMaxQueryRows];
  size_t token[kMaxQueryRows];  // place in the segment
  float sink[kMaxQueryRows];
  size_t n = 0;
};

// Maximum logits that a thread keeps at once (512 KiB). After a long prompt, fewer observed queries
// share a pass over the keys.
constexpr size_t kMaxLogits = size_t{1} << 17;

// The attention of one observed token.
struct Observed {
  size_t number = 0;  // of the token
  const float* mean =
      nullptr;  // [observed columns] over its query group, or over its part in one call
};

// One KV head's work for one segment.
class HeadAttention {
 public:
  HeadAttention(const Segment& segment, size_t layer, size_t kv_head, const UbatchTensors& tensors,
                AttentionScratch& scratch)
      : segment_(segment),
        cache_(*segment.cache),
        head_(cache_.config().head(layer, kv_head)),
        held_(cache_.head(head_)),
        observations_(cache_.buffers().observations),
        kv_head_(kv_head),
        tensors_(tensors),
        scratch_(scratch),
        n_held_observed_(cache_.n_observed_rows(head_)) {
    const LayerShape& layer_shape = cache_.shape().layers[layer];
    shape_ = {.d_k = layer_shape.d_k,
              .d_v = layer_shape.d_v,
              .scale = tensors.scale,
              .softcap = tensors.softcap};
    group_ = layer_shape.n_head / layer_shape.n_kv_head;
    const CacheConfig& config = cache_.config();
    const bool attended = config.n_attended_tiers() > config.n_rungs();
    n_states_ = attended ? held_.n_states() : 0;
  }

  void AttendTokens(size_t first, size_t n) {
    const size_t max_rows = Observes(first, first + n - 1) ? MaxObservedRows() : kMaxQueryRows;
    RowBlock block;
    for (size_t token = first; token < first + n; ++token) {
      if (block.n > 0 && block.n + group_ > max_rows) {
        AttendRows(block);
        block.n = 0;
      }
      for (size_t g = 0; g < group_; ++g) {
        Add(block, token, g);
        if (block.n == kMaxQueryRows) {
          AttendRows(block);
          block.n = 0;
        }
      }
      KeepToken(token);
    }
    if (block.n > 0) AttendRows(block);
    cache_.CountAttended(head_, n);
  }

  // Attends the only token of the segment over part `part` of `n_parts` of the head's pages. The
  // last part to end merges all parts, in their order, and writes the output.
  void AttendPart(size_t part, size_t n_parts) {
    RowBlock block;
    for (size_t g = 0; g < group_; ++g) Add(block, 0, g);
    SoftmaxParts& parts = cache_.buffers().parts;
    const LayerShape& layer = cache_.config().layer_shape(head_);
    const bool observe = Observes(block);
    float* logits[kMaxQueryRows];
    for (size_t g = 0; g < group_; ++g) logits[g] = parts.logits(layer, kv_head_, g);
    const size_t n_pages = held_.n_pages();
    AttendPages(block, observe ? logits : nullptr,
                {.begin = part * n_pages / n_parts, .end = (part + 1) * n_pages / n_parts},
                part + 1 == n_parts);
    const SoftmaxState state = scratch_.state();
    const SoftmaxState own = PartState(parts.part(layer, kv_head_, part));
    CopySoftmax(state, own);
    // The thread that counts last sees all writes of the others.
    const std::atomic_ref done(observations_.head(head_).parts_done);
    if (done.fetch_add(1, std::memory_order_acq_rel) + 1 < n_parts) return;
    CopySoftmax(PartState(parts.part(layer, kv_head_, 0)), state);
    for (size_t i = 1; i < n_parts; ++i) {
      MergeSoftmax(group_, shape_.d_v, PartState(parts.part(layer, kv_head_, i)), state);
    }
    KeepToken(0);
    FinishRows(block, observe ? logits : nullptr);
    cache_.CountAttended(head_, 1);
  }

 private:
  void KeepQuery(size_t token, size_t g, const float* q) {
    const int32_t observed = observations_.number(token);
    if (observed < 0 || !cache_.config().needs().expected) return;
    HeadObservation& observation = observations_.head(head_);
    observation.scale = shape_.scale;
    std::copy_n(
        q, shape_.d_k,
        observation.queries.data() + (static_cast<size_t>(observed) * group_ + g) * shape_.d_k);
  }

  void Add(RowBlock& block, size_t token, size_t g) const {
    const size_t row = segment_.rows[token];
    const size_t q_head = kv_head_ * group_ + g;
    block.q[block.n] = tensors_.q.row(row, q_head);
    block.out[block.n] = tensors_.out.row(row, q_head);
    block.token[block.n] = token;
    block.sink[block.n] = tensors_.sinks != nullptr ? tensors_.sinks[q_head] : 0.0f;
    ++block.n;
  }

  // Records the location of a token's rows for the append, and its queries for observations.
  void KeepToken(size_t token) {
    const size_t row = segment_.rows[token];
    if (token == 0) {
      cache_.buffers().rows.ReadFrom(head_, RowsOfSegment(segment_, tensors_, kv_head_));
    }
    for (size_t g = 0; g < group_; ++g) {
      KeepQuery(token, g, tensors_.q.row(row, kv_head_ * group_ + g));
    }
  }

  SoftmaxState PartState(float* part) const {
    return {.acc = part + 2 * group_, .max = part, .sum = part + group_};
  }
  void CopySoftmax(const SoftmaxState& from, const SoftmaxState& to) const {
    std::copy_n(from.acc, group_ * shape_.d_v, to.acc);
    std::copy_n(from.max, group_, to.max);
    std::copy_n(from.sum, group_, to.sum);
  }

  // Only a decoding step counts the use of states: the threads of a prompt would race for the
  // counters.
  bool ObservesStates() const { return n_states_ > 0 && segment_.rows.size() == 1; }
  // The next token of the answer is chosen with the ubatch's last one, whose weights are traced.
  bool IsLast(size_t token) const { return token == segment_.rows.size() - 1; }
  // True if any token of [first, last] is observed.
  bool Observes(size_t first, size_t last) const {
    if (ObservesStates() || (observations_.traces() && IsLast(last))) return true;
    if (cache_.config().needs().expected) return false;  // The policy gets queries instead.
    for (size_t token = first; token <= last; ++token) {
      if (observations_.number(token) >= 0) return true;
    }
    return false;
  }
  bool Observes(const RowBlock& block) const {
    return Observes(block.token[0], block.token[block.n - 1]);
  }

  size_t n_observed_columns() const { return n_held_observed_ + segment_.rows.size(); }
  // Query rows of whole tokens, at least one token.
  size_t MaxObservedRows() const {
    return std::clamp(kMaxLogits / n_observed_columns(), std::min(group_, kMaxQueryRows),
                      kMaxQueryRows);
  }

  void AttendRows(const RowBlock& block) {
    const bool observe = Observes(block);
    float* logits[kMaxQueryRows];
    if (observe) {
      std::vector<float>& buffer = scratch_.logits();
      const size_t n = MaxObservedRows() * n_observed_columns();
      if (buffer.capacity() < n) {  // Freed first, because its old contents are not needed.
        std::vector<float>().swap(buffer);
        buffer.reserve(n + n / 8);
      }
      buffer.resize(n);
      for (size_t i = 0; i < block.n; ++i) logits[i] = buffer.data() + i * n_observed_columns();
    }
    AttendPages(block, observe ? logits : nullptr, {}, true);
    FinishRows(block, observe ? logits : nullptr);
  }

  void AttendPages(const RowBlock& block, float* const* logits, Head::Pages pages,
                   bool own_ubatch) {
    const SoftmaxState state = scratch_.state();
    ResetSoftmax(block.n, shape_.d_v, state);
    held_.Attend(shape_, {.rows = block.q, .n = block.n}, cache_.unobserved_columns(head_), logits,
                 pages, scratch_);
    if (own_ubatch) AttendOwnUbatch(block, state, logits);
  }

  // Turns the complete softmax, in the scratch, into output and observations.
  void FinishRows(const RowBlock& block, float* const* logits) {
    const SoftmaxState state = scratch_.state();
    FinishSoftmax(block.n, shape_.d_v, state, tensors_.sinks != nullptr ? block.sink : nullptr,
                  block.out);
    if (logits != nullptr) ObserveRows(block, state, logits);
    held_.AddReadout({.rows = block.q, .n = block.n}, scratch_, block.out);
  }

  void ObserveRows(const RowBlock& block, const SoftmaxState& state, float* const* logits) {
    for (size_t i = 0; i < block.n; ++i) ToWeights(block, i, state, logits[i]);
    if (ObservesStates()) ObserveStates(block, logits);
    for (size_t i = 0; i < block.n && observations_.traces(); ++i) {
      if (!IsLast(block.token[i])) continue;
      AddTo(observations_.head(head_).traced.data(), logits[i]);
    }
    if (cache_.config().needs().expected) return;
    // The queries of a token are adjacent; their first row becomes the group's mean.
    Observed seen[kMaxQueryRows];
    size_t n_seen = 0;
    for (size_t i = 0; i < block.n;) {
      float* mean = logits[i];
      const size_t token = block.token[i++];
      const int32_t observed = observations_.number(token);
      if (observed >= 0) {
        const float share = 1.0f / static_cast<float>(group_);
        for (size_t c = 0; c < n_observed_columns(); ++c) mean[c] *= share;
      }
      for (; i < block.n && block.token[i] == token; ++i) {
        if (observed >= 0) AddTo(mean, logits[i]);
      }
      if (observed >= 0) seen[n_seen++] = {static_cast<size_t>(observed), mean};
    }
    if (n_seen > 0) Observe({seen, n_seen});
  }

  void AttendOwnUbatch(const RowBlock& block, const SoftmaxState& state, float* const* logits) {
    size_t before = 0;  // tokens in earlier runs
    for (const Segment::Run& run : segment_.runs) {
      size_t visible[kMaxQueryRows];
      float* run_logits[kMaxQueryRows];
      for (size_t i = 0; i < block.n; ++i) {
        const size_t seen = segment_.causal ? block.token[i] + 1 : segment_.rows.size();
        visible[i] = seen > before ? std::min(seen - before, run.n) : 0;
        if (logits != nullptr) run_logits[i] = logits[i] + n_held_observed_ + before;
      }
      const KvSpan span{.k = tensors_.k.row(run.first_row, kv_head_),
                        .v = tensors_.v.row(run.first_row, kv_head_),
                        .k_stride = tensors_.k.token_stride * sizeof(uint16_t),
                        .v_stride = tensors_.v.token_stride * sizeof(uint16_t),
                        .n = run.n};
      AttendSpan(
          shape_,
          {.rows = block.q, .n = block.n, .logits = logits != nullptr ? run_logits : nullptr}, span,
          visible, state, scratch_.kernel());
      before += run.n;
    }
  }

  // Turns logits into softmax weights, in place.
  void ToWeights(const RowBlock& block, size_t i, const SoftmaxState& state, float* logits) const {
    double sum = static_cast<double>(state.sum[i]);
    if (!(sum > 0)) {  // All keys that it saw gave logits that are not finite.
      std::fill_n(logits, n_observed_columns(), 0.0f);
      return;
    }
    if (tensors_.sinks != nullptr) {
      sum += std::exp(static_cast<double>(block.sink[i]) - static_cast<double>(state.max[i]));
    }
    const auto factor = static_cast<float>(1.0 / sum);
    LogitsToShares(state.max[i], factor, {logits, n_observed_columns()});
  }

  void ObserveStates(const RowBlock& block, float* const* weights) {
    HeadObservation& observation = observations_.head(head_);
    for (size_t c = 0; c < n_states_; ++c) {
      double share = 0;
      for (size_t i = 0; i < block.n; ++i) share += static_cast<double>(weights[i][c]);
      share /= static_cast<double>(group_);
      observation.state_share += share;
      if (share > static_cast<double>(kReactivationShare)) ++observation.reactivated;
    }
  }

  // Adds a query's weights to the mean over its group.
  void AddTo(float* mean, const float* weights) const {
    const float share = 1.0f / static_cast<float>(group_);
    for (size_t c = 0; c < n_observed_columns(); ++c) mean[c] += share * weights[c];
  }

  void Observe(std::span<const Observed> seen) {
    HeadObservation& observation = observations_.head(head_);
    if (observations_.by_query()) {  // One thread has all of a token's queries.
      for (const Observed& query : seen) {
        float* row = observation.rows + query.number * n_observed_columns();
        for (size_t c = 0; c < n_observed_columns(); ++c) row[c] += query.mean[c];
      }
      return;
    }
    const PolicyNeeds& needs = cache_.config().needs();
    double decay[kMaxQueryRows];
    for (size_t i = 0; i < seen.size(); ++i) {
      decay[i] = std::pow(needs.decay,
                          static_cast<double>(observations_.n_queries() - 1 - seen[i].number));
    }
    for (size_t c = 0; c < n_observed_columns(); ++c) {
      int64_t sum = 0;
      int64_t sum_log = 0;
      for (size_t i = 0; i < seen.size(); ++i) {
        const double p = decay[i] * static_cast<double>(seen[i].mean[c]);
        if (!(p > 0)) continue;
        sum += static_cast<int64_t>(Observations::kSumUnits * p);
        if (needs.entropy)
          sum_log += static_cast<int64_t>(Observations::kSumUnits * p * std::log(p));
      }
      if (sum == 0) continue;
      std::atomic_ref(observation.sum[c]).fetch_add(sum, std::memory_order_relaxed);
      if (!needs.entropy) continue;
      std::atomic_ref(observation.sum_log[c]).fetch_add(sum_log, std::memory_order_relaxed);
    }
  }

  const Segment& segment_;
  KvCache::Impl& cache_;
  size_t head_;
  const Head& held_;
  Observations& observations_;
  size_t kv_head_;
  const UbatchTensors& tensors_;
  AttentionScratch& scratch_;
  HeadShape shape_;
  size_t n_held_observed_;  // rows
  size_t group_ = 1;
  size_t n_states_ = 0;
};

}  // namespace

void Segment::AddRow(uint32_t row) {
  if (runs.empty() || runs.back().first_row + runs.back().n != row) {
    runs.push_back({.first_row = row, .n = 0});
  }
  ++runs.back().n;
  rows.push_back(row);
}

size_t TokensPerWorkItem(const LayerShape& shape) {
  return std::max<size_t>(1, kMaxQueryRows / (shape.n_head / shape.n_kv_head));
}

void AttendSegment(const Segment& segment, size_t layer, size_t kv_head, size_t first_token,
                   size_t n_tokens, const UbatchTensors& tensors, AttentionScratch& scratch) {
  HeadAttention(segment, layer, kv_head, tensors, scratch).AttendTokens(first_token, n_tokens);
}

size_t PartsOfPages(size_t n_pages) {
  const size_t shortest = (n_pages + kPagesPerPart - 1) / kPagesPerPart;
  const size_t longest = (n_pages + 2 * kPagesPerPart - 1) / (2 * kPagesPerPart);
  return std::clamp(std::max(std::min(shortest, kFewParts), longest), size_t{1},
                    SoftmaxParts::kMaxParts);
}

size_t NumParts(const Segment& segment, size_t layer, size_t kv_head) {
  const CacheConfig& config = segment.cache->config();
  const size_t head = config.head(layer, kv_head);
  if (segment.rows.size() != 1 || config.group(head) > kMaxQueryRows) return 1;
  return PartsOfPages(segment.cache->head(head).n_pages());
}

void AttendSegmentPart(const Segment& segment, size_t layer, size_t kv_head, size_t part,
                       size_t n_parts, const UbatchTensors& tensors, AttentionScratch& scratch) {
  HeadAttention(segment, layer, kv_head, tensors, scratch).AttendPart(part, n_parts);
}

}  // namespace rkv
