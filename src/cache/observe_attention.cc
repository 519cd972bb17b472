// Turns the observed attention of a ubatch into the statistics by which policies score.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <span>
#include <utility>

#include "base/clock.h"
#include "cache/kv_cache_impl.h"
#include "kernels/element.h"

namespace rkv {

namespace {

// Sets the weights of the observed queries, in order: the attention that later text gives each of
// them (TGV-KV), relative to the mean. The last query is not visible to any later token and gets
// the mean. REQUIRES: at least two queries.
void SetTextWeights(const HeadObservation& observation, const Observations& observations,
                    size_t n_tokens, std::span<double> weights) {
  const size_t n = weights.size();
  const size_t n_observed_columns = observation.n_observed_columns();
  std::ranges::fill(weights, 1.0);
  double total = 0;
  for (size_t token = 0; token < n_tokens; ++token) {
    const int32_t observed = observations.number(token);
    if (observed < 0 || static_cast<size_t>(observed) + 1 == n) continue;
    const auto i = static_cast<size_t>(observed);
    weights[i] = 0;
    for (size_t later = i + 1; later < n; ++later) {
      weights[i] += static_cast<double>(
          observation.rows[(later + 1) * n_observed_columns - n_tokens + token]);
    }
    weights[i] /= static_cast<double>(n - 1 - i);
    total += weights[i];
  }
  const double mean = total / static_cast<double>(n - 1);
  for (size_t i = 0; i + 1 < n; ++i) weights[i] = mean > 0 ? weights[i] / mean : 1.0;
}

// One row of weights for each query head, from the Gaussian that its observed queries follow
// (Expected Attention): log E exp(s q.k) = s mu.k + s^2 k^T Sigma k / 2, as a softmax over all
// columns.
class ExpectedAttention {
 public:
  ExpectedAttention(const HeadObservation& observation, size_t group, size_t d_k)
      : observation_(observation),
        group_(group),
        d_k_(d_k),
        n_(observation.queries.size() / (group * d_k)) {}

  // g: query head of the group.
  double Logit(size_t g, const float* k) const {
    double sum = 0;
    double square = 0;
    for (size_t q = 0; q < n_; ++q) {
      double dot = 0;
      const float* query = observation_.queries.data() + (q * group_ + g) * d_k_;
      for (size_t e = 0; e < d_k_; ++e) dot += static_cast<double>(query[e] * k[e]);
      dot *= static_cast<double>(observation_.scale);
      sum += dot;
      square += dot * dot;
    }
    const double mean = sum / static_cast<double>(n_);
    return mean + 0.5 * (square / static_cast<double>(n_) - mean * mean);
  }

 private:
  const HeadObservation& observation_;
  size_t group_;
  size_t d_k_;
  size_t n_;
};

void Normalise(std::span<double> logits) {
  const double max = *std::ranges::max_element(logits);
  double sum = 0;
  for (double& x : logits) {
    x = std::exp(x - max);
    sum += x;
  }
  for (double& x : logits) x /= sum;
}

// Adds the weights of the last n queries to `sum`.
void AddQueries(double decay, size_t n, double& sum) {
  for (size_t q = 0; q < n; ++q) sum += std::pow(decay, static_cast<double>(q));
}

// Updates the statistics of a head's columns with a ubatch's observed queries.
class HeadStatistics {
 public:
  HeadStatistics(const CacheConfig& config, const UbatchBuffers& buffers,
                 HeadObservation& observation)
      : needs_(config.needs()),
        n_stats_(config.n_stats()),
        buffers_(buffers),
        observation_(observation),
        by_query_(!needs_.expected && buffers.observations.by_query()),
        n_queries_(needs_.expected ? 1 : buffers.observations.n_queries()),
        retained_(std::pow(needs_.decay,
                           static_cast<double>(needs_.expected ? buffers.rows.n() : n_queries_))),
        log_retained_(retained_ > 0 ? static_cast<double>(n_queries_) * std::log(needs_.decay)
                                    : 0.0) {
    // The row stands for all queries of the ubatch.
    if (needs_.expected) {
      AddQueries(needs_.decay, buffers.observations.n_queries(), expected_weight_);
    }
    if (!by_query_) return;
    std::fill_n(factors_, n_queries_, 1.0);
    if (needs_.text_weighted && n_queries_ > 1) {
      SetTextWeights(observation, buffers.observations, buffers.rows.n(),
                     std::span(factors_, n_queries_));
    }
    for (size_t q = 0; q < n_queries_; ++q) {
      factors_[q] *= std::pow(needs_.decay, static_cast<double>(n_queries_ - 1 - q));
    }
  }

  // `before`: the old statistics of the column's row; empty: none.
  void Update(std::span<const float> before, size_t column) {
    const size_t place = observation_.place(column);
    const auto [p, p_log] = Sums(column, place);
    const auto sum = before.empty() ? 0.0 : static_cast<double>(before[0]);
    float* after = observation_.stats.data() + place * n_stats_;
    after[0] = static_cast<float>(retained_ * sum + p);
    if (n_stats_ == 1) return;
    const auto entropy = before.empty() ? 0.0 : static_cast<double>(before[1]);
    after[1] = static_cast<float>(retained_ * (entropy + log_retained_ * sum) + p_log);
  }

  // Frees the memory of weights and sums for the next layer.
  void Clear() {
    const size_t n_columns = observation_.n_observed_columns();
    if (by_query_) {
      std::fill_n(observation_.rows, n_queries_ * n_columns, 0.0f);
    } else if (!needs_.expected) {
      std::fill_n(observation_.sum, n_columns, int64_t{0});
      if (needs_.entropy) std::fill_n(observation_.sum_log, n_columns, int64_t{0});
    }
  }

 private:
  // Sums of a column over the observed queries: p, and p ln p if a policy needs it.
  std::pair<double, double> Sums(size_t column, size_t place) const {
    std::pair<double, double> sums;
    const auto add = [&](double p) {
      if (p <= 0) return;
      sums.first += p;
      if (needs_.entropy) sums.second += p * std::log(p);
    };
    if (needs_.expected) {
      add(expected_weight_ * buffers_.column_sums[column]);
    } else if (by_query_) {
      const float* weight = observation_.rows + place;
      for (size_t q = 0; q < n_queries_; ++q, weight += observation_.n_observed_columns()) {
        add(factors_[q] * static_cast<double>(*weight));
      }
    } else {
      constexpr double kUnit = 1.0 / Observations::kSumUnits;
      sums.first = kUnit * static_cast<double>(observation_.sum[place]);
      if (needs_.entropy) sums.second = kUnit * static_cast<double>(observation_.sum_log[place]);
    }
    return sums;
  }

  const PolicyNeeds& needs_;
  size_t n_stats_;
  const UbatchBuffers& buffers_;
  HeadObservation& observation_;
  bool by_query_;
  size_t n_queries_;
  double retained_;
  double log_retained_;
  double expected_weight_ = 0;                 // expected: of the ubatch's row
  double factors_[Observations::kMaxQueries];  // by_query_: of each query's weights
};

}  // namespace

double AttentionEntropy(std::span<const float> stats, double observed_queries) {
  if (stats.size() < 2 || !(stats[0] > 0) || !(observed_queries > 1)) return 0;
  // -sum p ln p of p = a / s, from s = sum a and e = sum a ln a.
  const auto s = static_cast<double>(stats[0]);
  const double h = (std::log(s) - static_cast<double>(stats[1]) / s) / std::log(observed_queries);
  return std::clamp(h, 0.0, 1.0);
}

void KvCache::Impl::ExpectedWeights(size_t head) {
  HeadObservation& observation = buffers_->observations.head(head);
  const LayerShape& layer = config_->layer_shape(head);
  const RowCodec codec(heads_[head]);
  if (config_->rotates()) {
    for (size_t q = 0; q < observation.queries.size(); q += layer.d_k) {
      config_->k_basis(config_->layer_of(head)).To(observation.queries.data() + q);
    }
  }
  const size_t group = config_->group(head);
  const ExpectedAttention expected(observation, group, layer.d_k);
  std::vector<float>& k = buffers_->key;
  std::vector<float>& v = buffers_->value;
  k.resize(layer.d_k);
  v.resize(layer.d_v);
  std::vector<double>& weights = buffers_->column_sums;
  const size_t n = observation.n_columns;
  SetZeros(weights, group * n);
  size_t column = 0;
  const auto add_column = [&] {
    for (size_t g = 0; g < group; ++g) weights[g * n + column] = expected.Logit(g, k.data());
    ++column;
  };
  heads_[head].VisitRows([&](size_t tier, size_t slot) {
    codec.DecodeStored(tier, slot, k.data(), v.data());
    add_column();
  });
  for (size_t i = 0; i < append_.n; ++i) {
    codec.DecodeStaged(buffers_->rows.key(head, i), buffers_->rows.value(head, i), k.data(),
                       v.data());
    add_column();
  }
  for (size_t g = 0; g < group; ++g) Normalise(std::span(weights).subspan(g * n, n));
  // The mean of the query heads' softmaxes.
  for (size_t i = 0; i < n; ++i) {
    for (size_t g = 1; g < group; ++g) weights[i] += weights[g * n + i];
    weights[i] /= static_cast<double>(group);
  }
}

void KvCache::Impl::ObserveHead(size_t head) const {
  const Stopwatch clock;
  HeadObservation& observation = buffers_->observations.head(head);
  HeadStatistics statistics(*config_, *buffers_, observation);
  size_t column = 0;
  for (size_t tier = config_->n_attended_tiers(); tier-- > 0;) {
    const RowStore& rows = heads_[head].store(tier);
    const size_t n = rows.size();
    if (n > 0 && rows.layout().n_stats > 0) {
      for (size_t slot = 0; slot < n; ++slot) statistics.Update(rows.stats(slot), column + slot);
    }
    column += n;
  }
  for (size_t i = 0; i < append_.n; ++i) statistics.Update({}, column + i);
  statistics.Clear();
  observation.has_stats = true;
  observation.observe_seconds += clock.Seconds();
}

void KvCache::Impl::CountAttended(size_t head, size_t n) const {
  Observations& observations = buffers_->observations;
  if (config_->n_stats() == 0 || observations.n_queries() == 0 || config_->needs().expected) return;
  // The last thread to count sees all writes of the others.
  const std::atomic_ref done(observations.head(head).tokens_done);
  if (done.fetch_add(static_cast<uint32_t>(n), std::memory_order_acq_rel) + n == append_.n) {
    ObserveHead(head);
  }
}

void KvCache::Impl::StoreStats(size_t head) {
  const HeadObservation& observation = buffers_->observations.head(head);
  const float* stats = observation.stats.data();
  size_t column = 0;
  for (size_t tier = config_->n_attended_tiers(); tier-- > 0;) {
    const size_t n = heads_[head].store(tier).size();
    if (n > 0 && heads_[head].layout(tier).n_stats > 0) {
      RowStore& rows = heads_[head].mutable_store(tier);
      const float* from = stats + observation.place(column) * config_->n_stats();
      for (size_t slot = 0; slot < n; ++slot, from += config_->n_stats()) {
        std::ranges::copy_n(from, static_cast<ptrdiff_t>(config_->n_stats()),
                            rows.stats(slot).begin());
      }
    }
    column += n;
  }
  buffers_->observations.KeepNewStats(head);
}

void KvCache::Impl::ObserveAttention() {
  Observations& observations = buffers_->observations;
  if (append_.n == 1 && config_->absorb().has_states()) {
    double share = 0;
    for (size_t head = 0; head < heads_.size(); ++head) {
      share += observations.head(head).state_share;
      reactivations_ += observations.head(head).reactivated;
    }
    state_share_ += share / static_cast<double>(heads_.size());
    ++state_steps_;
  }
  if (config_->n_stats() == 0 || observations.n_queries() == 0) return;
  const Stopwatch clock;
  const PolicyNeeds& needs = config_->needs();
  for (size_t head = 0; head < heads_.size(); ++head) {
    observe_seconds_ += observations.head(head).observe_seconds;
    if (needs.expected) ExpectedWeights(head);
    if (!observations.head(head).has_stats) ObserveHead(head);
    StoreStats(head);
  }
  const size_t n_queries = needs.expected ? 1 : observations.n_queries();
  observed_queries_ *= std::pow(needs.decay, static_cast<double>(n_queries));
  AddQueries(needs.decay, n_queries, observed_queries_);
  observe_seconds_ += clock.Seconds();
}

}  // namespace rkv
