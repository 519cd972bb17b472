// Reading a KvCache: attention over everything a head holds.
#include <algorithm>
#include <cmath>

#include "cache/compressor.h"
#include "cache/kv_cache_impl.h"
#include "kernels/element.h"

namespace rkv {

namespace {

float SquaredNorm(const float* x, size_t n) {
  float sum = 0;
  for (size_t i = 0; i < n; ++i) sum += x[i] * x[i];
  return sum;
}

float Dot(const float* a, const float* b, size_t n) {
  float sum = 0;
  for (size_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace

void AttentionScratch::Resize(const CacheShape& shape) {
  size_t d_k = 0;
  size_t d_v = 0;
  for (const LayerShape& layer : shape.layers) {
    d_k = std::max(d_k, layer.d_k);
    d_v = std::max(d_v, layer.d_v);
  }
  acc_.resize(kMaxQueryRows * d_v);
  max_.resize(kMaxQueryRows);
  sum_.resize(kMaxQueryRows);
  kernel_.resize(AttentionScratchFloats(d_k, d_v));
  rotated_.q.resize(kMaxQueryRows * d_k);
  rotated_.centre.resize(std::max(d_k, d_v));
  rotated_.row.resize(std::max(d_k, d_v));
}

size_t KvCache::Impl::n_rows(size_t head) const {
  size_t n = 0;
  for (size_t tier = 0; tier < config_->n_attended_tiers(); ++tier) n += store(head, tier).size();
  return n;
}

size_t KvCache::Impl::n_pages(size_t head) const {
  size_t n = 0;
  for (size_t tier = 0; tier < config_->n_attended_tiers(); ++tier) {
    n += store(head, tier).n_spans();
  }
  return n;
}

KvCache::Impl::Columns KvCache::Impl::unobserved_columns(size_t head) const {
  const size_t lowest = config_->n_rungs() - 1;
  if (tracing() || config_->layout(head, lowest).n_stats > 0) return {};
  Columns columns;
  for (size_t tier = config_->n_attended_tiers(); tier > lowest + 1; --tier) {
    columns.begin += store(head, tier - 1).size();
  }
  columns.end = columns.begin + store(head, lowest).size();
  return columns;
}

size_t KvCache::Impl::n_observed_rows(size_t head) const {
  const Columns unobserved = unobserved_columns(head);
  return n_rows(head) - (unobserved.end - unobserved.begin);
}

void KvCache::Impl::Attend(size_t head, const HeadShape& shape, const QueryBlock& queries,
                           AttentionScratch& scratch, float* const* logits, Pages pages) const {
  const SoftmaxState state = scratch.state();
  AttentionScratch::Rotated& rotated = scratch.rotated();
  QueryBlock block = queries;
  const Columns unobserved = unobserved_columns(head);
  size_t column = 0;
  size_t observed = 0;  // of the columns before
  size_t page = 0;      // number of the tier's first
  float* columns[kMaxQueryRows];
  const auto attend_tier = [&](size_t tier) {
    const RowStore& rows = store(head, tier);
    const size_t end = std::min(pages.end, page + rows.n_spans());
    const bool is_unobserved = column >= unobserved.begin && column < unobserved.end;
    for (size_t at = std::max(page, pages.begin); at < end;) {
      KvSpan spans[kSpansPerCall];
      const size_t first_row = (at - page) * RowStore::kPageRows;
      size_t n = 0;
      for (; n < kSpansPerCall && at < end; ++at) spans[n++] = rows.span(at - page);
      block.logits = nullptr;
      if (logits != nullptr && !is_unobserved) {
        for (size_t i = 0; i < queries.n; ++i) columns[i] = logits[i] + observed + first_row;
        block.logits = columns;
      }
      AttendSpans(shape, block, {spans, n}, state, scratch.kernel());
    }
    column += rows.size();
    if (!is_unobserved) observed += rows.size();
    const bool any = page < pages.end && pages.begin < page + rows.n_spans();
    page += rows.n_spans();
    if (tier == config_->state_tier() && any && matrix(head) != nullptr) {
      AddMatrix(head, shape, block, state, rotated.row);
    }
  };
  size_t tier = config_->n_attended_tiers();
  if (tier > config_->n_rungs() && config_->absorb().variance != 0 &&
      store(head, config_->state_tier()).size() > 0) {
    for (size_t i = 0; i < queries.n; ++i) {
      rotated.half_norm[i] =
          0.5f * shape.scale * shape.scale * SquaredNorm(queries.rows[i], shape.d_k);
    }
    block.half_norm = rotated.half_norm;
  }
  if (config_->rotates()) {
    size_t n_rotated = 0;
    for (size_t t = 0; t < tier; ++t) n_rotated += config_->rotated(t) ? store(head, t).size() : 0;
    if (n_rotated > 0) {
      const float* rows[kMaxQueryRows];
      for (size_t i = 0; i < queries.n; ++i) {
        float* row = rotated.q.data() + i * shape.d_k;
        std::copy_n(queries.rows[i], shape.d_k, row);
        RotateRow(row, shape.d_k);
        rows[i] = row;
      }
      block.rows = rows;
      const uint8_t* centre = centres_[head].get();
      if (centre != nullptr) {  // q.(k - c) + q.c
        DecodeRow(ElementType::kQ8_0, centre, shape.d_k, rotated.centre.data());
        for (size_t i = 0; i < queries.n; ++i) {
          rotated.bias[i] = Dot(rows[i], rotated.centre.data(), shape.d_k);
        }
        block.bias = rotated.bias;
      }
      while (tier > 0 && config_->rotated(tier - 1)) attend_tier(--tier);
      // Everything so far is in the rotated basis, and its values lack the centre.
      if (centre != nullptr) {
        DecodeRow(ElementType::kQ8_0, centre + RowBytes(ElementType::kQ8_0, shape.d_k), shape.d_v,
                  rotated.centre.data());
      }
      for (size_t i = 0; i < queries.n; ++i) {
        float* acc = state.acc + i * shape.d_v;
        for (size_t j = 0; j < shape.d_v && centre != nullptr; ++j) {
          acc[j] += state.sum[i] * rotated.centre[j];
        }
        RotateRow(acc, shape.d_v);
      }
      block.rows = queries.rows;
      block.bias = nullptr;
    }
  }
  while (tier > 0) attend_tier(--tier);
}

void KvCache::Impl::AddMatrix(size_t head, const HeadShape& shape, const QueryBlock& queries,
                              const SoftmaxState& state, std::vector<float>& row) const {
  // E[v e^(s q.k)] / E[e^(s q.k)] = v_c + s C q where keys and values of a state are jointly
  // Gaussian. States are read first, so the sums are theirs alone. A softcap bends the logits that
  // this is linear in.
  if (shape.softcap != 0) return;
  for (size_t e = 0; e < shape.d_v; ++e) {
    DecodeRow(ElementType::kF16, matrix(head) + e * shape.d_k, shape.d_k, row.data());
    for (size_t i = 0; i < queries.n; ++i) {
      state.acc[i * shape.d_v + e] +=
          state.sum[i] * shape.scale * Dot(queries.rows[i], row.data(), shape.d_k);
    }
  }
}

void KvCache::Impl::AddReadout(size_t head, const QueryBlock& queries, AttentionScratch& scratch,
                               float* const* out) const {
  if (config_->absorb().additive == 0) return;
  const size_t tier = config_->state_tier();
  const RowStore& states = store(head, tier);
  if (states.size() == 0) return;
  const LayerShape& shape = config_->layer_shape(head);
  AttentionScratch::Rotated& rotated = scratch.rotated();
  float* q = rotated.q.data();
  float* row = rotated.row.data();
  float* centre = rotated.centre.data();
  float* sum = scratch.state().acc;  // which the softmax is done with
  const uint8_t* centre_row = config_->rotated(tier) ? this->centre(head) : nullptr;
  for (size_t i = 0; i < queries.n; ++i) {
    std::copy_n(queries.rows[i], shape.d_k, q);
    if (config_->rotates()) RotateRow(q, shape.d_k);
    float bias = 0;
    if (centre_row != nullptr) {
      DecodeRow(ElementType::kQ8_0, centre_row, shape.d_k, centre);
      bias = Dot(q, centre, shape.d_k);
    }
    std::fill_n(sum, shape.d_v, 0.0f);
    float normaliser = 0;
    float total = 0;  // of the weights
    float mass = 0;
    for (size_t slot = 0; slot < states.size(); ++slot) {
      states.DecodeKey(slot, row);
      const float n = std::exp(states.row(slot).log_mass);
      const float weight = n * (Dot(q, row, shape.d_k) + bias);
      mass += n;
      total += weight;
      normaliser += std::abs(weight);
      states.DecodeValue(slot, row);
      for (size_t e = 0; e < shape.d_v; ++e) sum[e] += weight * row[e];
    }
    if (centre_row != nullptr) {
      DecodeRow(ElementType::kQ8_0, centre_row + RowBytes(ElementType::kQ8_0, shape.d_k), shape.d_v,
                centre);
      for (size_t e = 0; e < shape.d_v; ++e) sum[e] += total * centre[e];
    }
    for (size_t e = 0; e < shape.d_v && matrix(head) != nullptr; ++e) {
      DecodeRow(ElementType::kF16, matrix(head) + e * shape.d_k, shape.d_k, row);
      sum[e] += mass * Dot(q, row, shape.d_k);
    }
    if (config_->rotates()) RotateRow(sum, shape.d_v);
    const float scale = static_cast<float>(config_->absorb().additive) / (normaliser + 1e-6f);
    for (size_t e = 0; e < shape.d_v; ++e) out[i][e] += scale * sum[e];
  }
}

}  // namespace rkv
