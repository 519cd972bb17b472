#include "cache/ubatch_attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

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

// One KV head's work for one segment.
class HeadAttention {
 public:
  HeadAttention(const Segment& segment, size_t layer, size_t kv_head, const UbatchTensors& tensors,
                AttentionScratch& scratch)
      : segment_(segment),
        memory_(*segment.memory),
        head_(memory_.config().head(layer, kv_head)),
        kv_head_(kv_head),
        tensors_(tensors),
        scratch_(scratch),
        n_held_(memory_.n_rows(head_)) {
    const LayerShape& layer_shape = memory_.shape().layers[layer];
    shape_ = {.d_k = layer_shape.d_k,
              .d_v = layer_shape.d_v,
              .scale = tensors.scale,
              .softcap = tensors.softcap};
    group_ = layer_shape.n_head / layer_shape.n_kv_head;
    const CacheConfig& config = memory_.config();
    const bool attended = config.n_attended_tiers() > config.n_rungs();
    n_states_ = attended ? memory_.store(head_, config.state_tier()).size() : 0;
  }

  void AttendTokens(size_t first, size_t n) {
    RowBlock block;
    for (size_t token = first; token < first + n; ++token) {
      const size_t row = segment_.rows[token];
      memory_.transit().Stage(head_, token, tensors_.k.row(row, kv_head_),
                              tensors_.v.row(row, kv_head_));
      for (size_t g = 0; g < group_; ++g) {
        const size_t q_head = kv_head_ * group_ + g;
        block.q[block.n] = tensors_.q.row(row, q_head);
        block.out[block.n] = tensors_.out.row(row, q_head);
        block.token[block.n] = token;
        block.sink[block.n] = tensors_.sinks != nullptr ? tensors_.sinks[q_head] : 0.0f;
        KeepQuery(token, g, block.q[block.n]);
        if (++block.n == kMaxQueryRows) {
          AttendRows(block);
          block.n = 0;
        }
      }
    }
    if (block.n > 0) AttendRows(block);
  }

 private:
  void KeepQuery(size_t token, size_t g, const float* q) {
    const int32_t observed = memory_.transit().observed(token);
    if (observed < 0 || !memory_.config().needs().expected) return;
    HeadObservation& observation = memory_.transit().observation(head_);
    observation.scale = shape_.scale;
    std::copy_n(
        q, shape_.d_k,
        observation.queries.data() + (static_cast<size_t>(observed) * group_ + g) * shape_.d_k);
  }

  void AttendRows(const RowBlock& block) {
    const SoftmaxState state = scratch_.state();
    // A step of decoding tells what states are worth; a prompt's tokens would race for the
    // counters.
    const bool watch_states = n_states_ > 0 && segment_.rows.size() == 1;
    const bool trace = memory_.transit().traces();
    bool observe = watch_states || trace;
    for (size_t i = 0; i < block.n && !observe; ++i) {
      observe =
          memory_.transit().observed(block.token[i]) >= 0 && !memory_.config().needs().expected;
    }
    const size_t n_columns = n_held_ + segment_.rows.size();
    float* logits[kMaxQueryRows];
    if (observe) {
      std::vector<float>& buffer = scratch_.logits();
      if (buffer.size() < kMaxQueryRows * n_columns) buffer.resize(kMaxQueryRows * n_columns);
      for (size_t i = 0; i < block.n; ++i) logits[i] = buffer.data() + i * n_columns;
    }
    ResetSoftmax(block.n, shape_.d_v, state);
    memory_.Attend(head_, shape_, {.rows = block.q, .n = block.n}, scratch_,
                   observe ? logits : nullptr);
    AttendOwnUbatch(block, state, observe ? logits : nullptr);
    FinishSoftmax(block.n, shape_.d_v, state, tensors_.sinks != nullptr ? block.sink : nullptr,
                  block.out);
    memory_.AddReadout(head_, {.rows = block.q, .n = block.n}, scratch_, block.out);
    if (!observe) return;
    for (size_t i = 0; i < block.n; ++i) ToWeights(block, i, state, n_columns, logits[i]);
    if (watch_states) WatchStates(block, logits);
    for (size_t i = 0; i < block.n && trace; ++i)
      AddTo(memory_.transit().observation(head_).traced.data(), logits[i], n_columns);
    if (memory_.config().needs().expected) return;  // It is shown queries instead.
    // The queries of a token are next to each other; their first row becomes the group's mean.
    for (size_t i = 0; i < block.n;) {
      float* mean = logits[i];
      const size_t token = block.token[i++];
      const int32_t observed = memory_.transit().observed(token);
      if (observed >= 0) {
        for (size_t c = 0; c < n_columns; ++c) mean[c] *= 1.0f / static_cast<float>(group_);
      }
      for (; i < block.n && block.token[i] == token; ++i) {
        if (observed >= 0) AddTo(mean, logits[i], n_columns);
      }
      if (observed >= 0) Observe(static_cast<size_t>(observed), mean, n_columns);
    }
  }

  void AttendOwnUbatch(const RowBlock& block, const SoftmaxState& state, float* const* logits) {
    size_t before = 0;  // tokens in earlier runs
    for (const Segment::Run& run : segment_.runs) {
      size_t visible[kMaxQueryRows];
      float* run_logits[kMaxQueryRows];
      for (size_t i = 0; i < block.n; ++i) {
        const size_t seen = segment_.causal ? block.token[i] + 1 : segment_.rows.size();
        visible[i] = seen > before ? std::min(seen - before, run.n) : 0;
        if (logits != nullptr) run_logits[i] = logits[i] + n_held_ + before;
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

  // Logits to softmax weights, in place.
  void ToWeights(const RowBlock& block, size_t i, const SoftmaxState& state, size_t n_columns,
                 float* logits) const {
    double sum = static_cast<double>(state.sum[i]);
    if (tensors_.sinks != nullptr) {
      sum += std::exp(static_cast<double>(block.sink[i]) - static_cast<double>(state.max[i]));
    }
    const float max = state.max[i];
    const auto factor = static_cast<float>(1.0 / sum);
    for (size_t c = 0; c < n_columns; ++c) logits[c] = factor * std::exp(logits[c] - max);
  }

  void WatchStates(const RowBlock& block, float* const* weights) {
    HeadObservation& observation = memory_.transit().observation(head_);
    for (size_t c = 0; c < n_states_; ++c) {
      double share = 0;
      for (size_t i = 0; i < block.n; ++i) share += static_cast<double>(weights[i][c]);
      share /= static_cast<double>(group_);
      observation.state_share += share;
      if (share > static_cast<double>(kReactivationShare)) ++observation.reactivated;
    }
  }

  // Adds a query's weights to the mean over its group.
  void AddTo(float* mean, const float* weights, size_t n_columns) const {
    const float share = 1.0f / static_cast<float>(group_);
    for (size_t c = 0; c < n_columns; ++c) mean[c] += share * weights[c];
  }

  // `mean` is over the token's query group (over a part of it, if it is larger than a kernel call).
  void Observe(size_t observed, const float* mean, size_t n_columns) {
    Transit& transit = memory_.transit();
    HeadObservation& observation = transit.observation(head_);
    if (transit.observes_rows()) {  // All of a token's queries are this thread's.
      float* row = observation.rows.data() + observed * n_columns;
      for (size_t c = 0; c < n_columns; ++c) row[c] += mean[c];
      return;
    }
    const PolicyNeeds& needs = memory_.config().needs();
    const auto age = static_cast<double>(transit.n_observed() - 1 - observed);
    const auto decay = static_cast<float>(std::pow(needs.decay, age));
    for (size_t c = 0; c < n_columns; ++c) {
      const float p = decay * mean[c];
      if (p <= 0) continue;
      std::atomic_ref(observation.sum[c]).fetch_add(p, std::memory_order_relaxed);
      if (!needs.entropy) continue;
      std::atomic_ref(observation.sum_log[c]).fetch_add(p * std::log(p), std::memory_order_relaxed);
    }
  }

  const Segment& segment_;
  Memory::Impl& memory_;
  size_t head_;
  size_t kv_head_;
  const UbatchTensors& tensors_;
  AttentionScratch& scratch_;
  HeadShape shape_;
  size_t n_held_;
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

}  // namespace rkv
