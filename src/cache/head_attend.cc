// Reads a head: attention over all its rows, and the readout of its matrix.
#include <algorithm>
#include <cmath>

#include "cache/head.h"
#include "kernels/element.h"

namespace rkv {

namespace {

float SquaredNorm(const float* x, size_t n) {
  float sum = 0;
  for (size_t i = 0; i < n; ++i) sum += x[i] * x[i];
  return sum;
}

// Maximum pages in one kernel call.
constexpr size_t kSpansPerCall = 64;

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

size_t Head::n_rows() const {
  size_t n = 0;
  for (size_t tier = 0; tier < config().n_attended_tiers(); ++tier) n += store(tier).size();
  return n;
}

size_t Head::n_pages() const {
  size_t n = 0;
  for (size_t tier = 0; tier < config().n_attended_tiers(); ++tier) n += store(tier).n_spans();
  return n;
}

Head::Columns Head::unobserved_columns() const {
  const size_t lowest = config().n_rungs() - 1;
  if (layout(lowest).n_stats > 0) return {};
  Columns columns;
  for (size_t tier = config().n_attended_tiers(); tier > lowest + 1; --tier) {
    columns.begin += store(tier - 1).size();
  }
  columns.end = columns.begin + store(lowest).size();
  return columns;
}

// Visits a head's tiers from the states up, and counts columns and pages.
class Head::RowReader {
 public:
  RowReader(const Head& head, const HeadShape& shape, const QueryBlock& queries,
            const Columns& unobserved, float* const* logits, Pages pages, AttentionScratch& scratch)
      : head_(head),
        shape_(shape),
        queries_(queries),
        unobserved_(unobserved),
        logits_(logits),
        pages_(pages),
        scratch_(scratch),
        block_(queries),
        tier_(head.config().n_attended_tiers()) {}

  void Read() {
    AddHalfNorms();
    if (ReadsRotated()) ReadRotated();
    while (tier_ > 0) ReadTier(--tier_);
  }

 private:
  // Norms of the queries, for the variance term of states.
  void AddHalfNorms() {
    const CacheConfig& config = head_.config();
    const bool has_states = tier_ > config.n_rungs() && head_.n_states() > 0;
    if (!has_states || config.absorb().variance == 0) return;
    float* half_norm = scratch_.rotated().half_norm;
    for (size_t i = 0; i < queries_.n; ++i) {
      half_norm[i] = 0.5f * shape_.scale * shape_.scale * SquaredNorm(queries_.rows[i], shape_.d_k);
    }
    block_.half_norm = half_norm;
  }

  bool ReadsRotated() const {
    if (!head_.config().rotates()) return false;
    for (size_t tier = 0; tier < tier_; ++tier) {
      if (head_.config().rotated(tier) && head_.store(tier).size() > 0) return true;
    }
    return false;
  }

  // The tiers that are kept rotated, relative to the centre: q.(k - c) + q.c.
  void ReadRotated() {
    AttentionScratch::Rotated& rotated = scratch_.rotated();
    const SoftmaxState state = scratch_.state();
    const RowBasis& k_basis = head_.config().k_basis(head_.layer());
    const RowBasis& v_basis = head_.config().v_basis(head_.layer());
    const float* rows[kMaxQueryRows];
    for (size_t i = 0; i < queries_.n; ++i) {
      float* row = rotated.q.data() + i * shape_.d_k;
      std::copy_n(queries_.rows[i], shape_.d_k, row);
      k_basis.To(row);
      rows[i] = row;
    }
    block_.rows = rows;
    const uint8_t* centre = head_.centre();
    if (centre != nullptr) {
      DecodeRow(ElementType::kQ8_0, centre, shape_.d_k, rotated.centre.data());
      for (size_t i = 0; i < queries_.n; ++i) {
        rotated.bias[i] = Dot(rows[i], rotated.centre.data(), shape_.d_k);
      }
      block_.bias = rotated.bias;
    }
    while (tier_ > 0 && head_.config().rotated(tier_ - 1)) ReadTier(--tier_);
    // The sums so far are in the rotated basis, and lack the centre of V.
    if (centre != nullptr) {
      DecodeRow(ElementType::kQ8_0, centre + RowBytes(ElementType::kQ8_0, shape_.d_k), shape_.d_v,
                rotated.centre.data());
    }
    for (size_t i = 0; i < queries_.n; ++i) {
      float* acc = state.acc + i * shape_.d_v;
      for (size_t j = 0; j < shape_.d_v && centre != nullptr; ++j) {
        acc[j] += state.sum[i] * rotated.centre[j];
      }
      v_basis.From(acc);
    }
    block_.rows = queries_.rows;
    block_.bias = nullptr;
  }

  void ReadTier(size_t tier) {
    const RowStore& rows = head_.store(tier);
    const size_t end = std::min(pages_.end, page_ + rows.n_spans());
    const bool is_unobserved = column_ >= unobserved_.begin && column_ < unobserved_.end;
    float* columns[kMaxQueryRows];
    for (size_t at = std::max(page_, pages_.begin); at < end;) {
      KvSpan spans[kSpansPerCall];
      const size_t first_row = (at - page_) * RowStore::kPageRows;
      size_t n = 0;
      for (; n < kSpansPerCall && at < end; ++at) spans[n++] = rows.span(at - page_);
      block_.logits = nullptr;
      if (logits_ != nullptr && !is_unobserved) {
        for (size_t i = 0; i < queries_.n; ++i) columns[i] = logits_[i] + n_observed_ + first_row;
        block_.logits = columns;
      }
      AttendSpans(shape_, block_, {spans, n}, scratch_.state(), scratch_.kernel());
    }
    column_ += rows.size();
    if (!is_unobserved) n_observed_ += rows.size();
    const bool any = page_ < pages_.end && pages_.begin < page_ + rows.n_spans();
    page_ += rows.n_spans();
    if (tier == head_.config().state_tier() && any && head_.matrix() != nullptr) {
      head_.AddMatrix(shape_, block_, scratch_.state(), scratch_.rotated().row);
    }
  }

  const Head& head_;
  const HeadShape& shape_;
  const QueryBlock& queries_;
  const Columns& unobserved_;
  float* const* logits_;
  Pages pages_;
  AttentionScratch& scratch_;
  QueryBlock block_;
  size_t tier_;            // the last one read, or beyond the first
  size_t column_ = 0;      // column of the tier's first row
  size_t n_observed_ = 0;  // of the columns before
  size_t page_ = 0;        // number of the tier's first page
};

void Head::Attend(const HeadShape& shape, const QueryBlock& queries, const Columns& unobserved,
                  float* const* logits, Pages pages, AttentionScratch& scratch) const {
  RowReader(*this, shape, queries, unobserved, logits, pages, scratch).Read();
}

void Head::AddMatrix(const HeadShape& shape, const QueryBlock& queries, const SoftmaxState& state,
                     std::vector<float>& row) const {
  // E[v e^(s q.k)] / E[e^(s q.k)] = v_c + s C q if keys and values of a state are jointly Gaussian.
  // States are read first, so the sums contain only states. The formula is linear in the logits, so
  // it does not hold with a softcap.
  if (shape.softcap != 0) return;
  for (size_t e = 0; e < shape.d_v; ++e) {
    DecodeRow(ElementType::kF16, matrix() + e * shape.d_k, shape.d_k, row.data());
    for (size_t i = 0; i < queries.n; ++i) {
      state.acc[i * shape.d_v + e] +=
          state.sum[i] * shape.scale * Dot(queries.rows[i], row.data(), shape.d_k);
    }
  }
}

void Head::AddReadout(const QueryBlock& queries, AttentionScratch& scratch,
                      float* const* out) const {
  if (config().absorb().additive == 0) return;
  const size_t tier = config().state_tier();
  const RowStore& states = store(tier);
  if (states.size() == 0) return;
  const LayerShape& shape = this->shape();
  AttentionScratch::Rotated& rotated = scratch.rotated();
  float* q = rotated.q.data();
  float* row = rotated.row.data();
  float* centre = rotated.centre.data();
  float* sum = scratch.state().acc;  // free: the softmax is finished
  const uint8_t* centre_row = config().rotated(tier) ? this->centre() : nullptr;
  for (size_t i = 0; i < queries.n; ++i) {
    std::copy_n(queries.rows[i], shape.d_k, q);
    if (config().rotates()) config().k_basis(layer()).To(q);
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
    for (size_t e = 0; e < shape.d_v && matrix() != nullptr; ++e) {
      DecodeRow(ElementType::kF16, matrix() + e * shape.d_k, shape.d_k, row);
      sum[e] += mass * Dot(q, row, shape.d_k);
    }
    if (config().rotates()) config().v_basis(layer()).From(sum);
    const float scale = static_cast<float>(config().absorb().additive) / (normaliser + 1e-6f);
    for (size_t e = 0; e < shape.d_v; ++e) out[i][e] += scale * sum[e];
  }
}

}  // namespace rkv
