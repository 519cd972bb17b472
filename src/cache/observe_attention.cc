// From the attention that a ubatch showed to what policies score by.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <span>
#include <utility>

#include "base/clock.h"
#include "cache/compressor.h"
#include "cache/kv_cache_impl.h"

namespace rkv {

namespace {

// Into `weights`, of the observed queries, first to last: what text gives each of them of its own
// attention (TGV-KV), relative to the mean; the last, which nobody after it could see, counts as
// the mean. REQUIRES: at least two of them.
void SetTextWeights(const HeadObservation& observation, const Transit& transit,
                    std::span<double> weights) {
  const size_t n = weights.size();
  const size_t n_observed_columns = observation.n_observed_columns();
  std::ranges::fill(weights, 1.0);
  double total = 0;
  for (size_t token = 0; token < transit.n(); ++token) {
    const int32_t observed = transit.observed(token);
    if (observed < 0 || static_cast<size_t>(observed) + 1 == n) continue;
    const auto i = static_cast<size_t>(observed);
    weights[i] = 0;
    for (size_t later = i + 1; later < n; ++later) {
      weights[i] += static_cast<double>(
          observation.rows[(later + 1) * n_observed_columns - transit.n() + token]);
    }
    weights[i] /= static_cast<double>(n - 1 - i);
    total += weights[i];
  }
  const double mean = total / static_cast<double>(n - 1);
  for (size_t i = 0; i + 1 < n; ++i) weights[i] = mean > 0 ? weights[i] / mean : 1.0;
}

// One row of weights from the Gaussian that the observed queries follow (Expected Attention):
// log E exp(s q.k) = s mu.k + s^2 k^T Sigma k / 2, as a softmax over all columns.
class ExpectedAttention {
 public:
  ExpectedAttention(const HeadObservation& observation, size_t d_k)
      : observation_(observation), d_k_(d_k), n_(observation.queries.size() / d_k) {}

  double Logit(const float* k) const {
    double sum = 0;
    double square = 0;
    for (size_t q = 0; q < n_; ++q) {
      double dot = 0;
      const float* query = observation_.queries.data() + q * d_k_;
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
  size_t d_k_;
  size_t n_;
};

void Normalise(std::vector<double>& logits) {
  const double max = *std::ranges::max_element(logits);
  double sum = 0;
  for (double& x : logits) {
    x = std::exp(x - max);
    sum += x;
  }
  for (double& x : logits) x /= sum;
}

}  // namespace

void KvCache::Impl::ExpectedWeights(size_t head) {
  HeadObservation& observation = transit_->observation(head);
  const LayerShape& layer = config_->layer_shape(head);
  const RowCodec codec(*this, head);
  if (config_->rotates()) {
    for (size_t q = 0; q < observation.queries.size(); q += layer.d_k) {
      RotateRow(observation.queries.data() + q, layer.d_k);
    }
  }
  const ExpectedAttention expected(observation, layer.d_k);
  std::vector<float>& k = transit_->key_row();
  std::vector<float>& v = transit_->value_row();
  k.resize(layer.d_k);
  v.resize(layer.d_v);
  std::vector<double>& weights = transit_->column_sums();
  size_t column = 0;
  VisitRows(head, [&](size_t tier, size_t slot) {
    codec.DecodeStored(store(head, tier), config_->rotated(tier), slot, k.data(), v.data());
    weights[column++] = expected.Logit(k.data());
  });
  for (size_t i = 0; i < transit_->n(); ++i) {
    codec.DecodeStaged(transit_->key(head, i), transit_->value(head, i), k.data(), v.data());
    weights[column++] = expected.Logit(k.data());
  }
  Normalise(weights);
}

double KvCache::Impl::Entropy(std::span<const float> stats) const {
  if (stats.size() < 2 || !(stats[0] > 0) || !(observed_queries_ > 1)) return 0;
  // -sum p ln p of p = a / s, from s = sum a and e = sum a ln a.
  const auto s = static_cast<double>(stats[0]);
  const double h = (std::log(s) - static_cast<double>(stats[1]) / s) / std::log(observed_queries_);
  return std::clamp(h, 0.0, 1.0);
}

void KvCache::Impl::ObserveHead(size_t head) const {
  const Stopwatch clock;
  HeadObservation& observation = transit_->observation(head);
  const PolicyNeeds& needs = config_->needs();
  const bool by_query = !needs.expected && transit_->observes_rows();
  const size_t n_queries = needs.expected ? 1 : transit_->n_observed();
  const double retained = std::pow(needs.decay, static_cast<double>(n_queries));
  const double log_retained =
      retained > 0 ? static_cast<double>(n_queries) * std::log(needs.decay) : 0.0;
  double factors[Transit::kMaxObservedRows];
  if (by_query) {
    std::fill_n(factors, n_queries, 1.0);
    if (needs.text_weighted && n_queries > 1) {
      SetTextWeights(observation, *transit_, std::span(factors, n_queries));
    }
    for (size_t q = 0; q < n_queries; ++q) {
      factors[q] *= std::pow(needs.decay, static_cast<double>(n_queries - 1 - q));
    }
  }
  // Of a column over the observed queries: p, and p ln p if a policy wants it.
  const auto sums_of = [&](size_t column, size_t place) {
    std::pair<double, double> sums;
    const auto add = [&](double p) {
      if (p <= 0) return;
      sums.first += p;
      if (needs.entropy) sums.second += p * std::log(p);
    };
    if (needs.expected) {
      add(transit_->column_sums()[column]);
    } else if (by_query) {
      const float* weight = observation.rows + place;
      for (size_t q = 0; q < n_queries; ++q, weight += observation.n_observed_columns()) {
        add(factors[q] * static_cast<double>(*weight));
      }
    } else {
      constexpr double kUnit = 1.0 / Transit::kSumUnits;
      sums.first = kUnit * static_cast<double>(observation.sum[place]);
      if (needs.entropy) sums.second = kUnit * static_cast<double>(observation.sum_log[place]);
    }
    return sums;
  };
  const size_t n_stats = config_->n_stats();
  const auto observe = [&](std::span<const float> before, size_t column) {
    const size_t place = observation.place(column);
    const auto [p, p_log] = sums_of(column, place);
    const auto sum = before.empty() ? 0.0 : static_cast<double>(before[0]);
    float* after = observation.stats.data() + place * n_stats;
    after[0] = static_cast<float>(retained * sum + p);
    if (n_stats == 1) return;
    const auto entropy = before.empty() ? 0.0 : static_cast<double>(before[1]);
    after[1] = static_cast<float>(retained * (entropy + log_retained * sum) + p_log);
  };
  size_t column = 0;
  for (size_t tier = config_->n_attended_tiers(); tier-- > 0;) {
    const RowStore& rows = store(head, tier);
    const size_t n = rows.size();
    if (n > 0 && config_->layout(head, tier).n_stats > 0) {
      for (size_t slot = 0; slot < n; ++slot) observe(rows.stats(slot), column + slot);
    }
    column += n;
  }
  for (size_t i = 0; i < transit_->n(); ++i) observe({}, column + i);
  // For the next layer.
  if (by_query) {
    std::fill_n(observation.rows, n_queries * observation.n_observed_columns(), 0.0f);
  } else if (!needs.expected) {
    std::fill_n(observation.sum, observation.n_observed_columns(), int64_t{0});
    if (needs.entropy)
      std::fill_n(observation.sum_log, observation.n_observed_columns(), int64_t{0});
  }
  observation.has_stats = true;
  observation.observe_seconds += clock.Seconds();
}

void KvCache::Impl::CountAttended(size_t head, size_t n) const {
  if (config_->n_stats() == 0 || transit_->n_observed() == 0 || config_->needs().expected) return;
  // What the others wrote is seen by who counts last.
  const std::atomic_ref done(transit_->observation(head).tokens_done);
  if (done.fetch_add(static_cast<uint32_t>(n), std::memory_order_acq_rel) + n == transit_->n()) {
    ObserveHead(head);
  }
}

void KvCache::Impl::ObserveAttention() {
  if (transit_->n() == 1 && config_->absorb().has_states()) {
    double share = 0;
    for (size_t head = 0; head < config_->n_heads(); ++head) {
      share += transit_->observation(head).state_share;
      reactivations_ += transit_->observation(head).reactivated;
    }
    state_share_ += share / static_cast<double>(config_->n_heads());
    ++state_steps_;
  }
  if (config_->n_stats() == 0 || transit_->n_observed() == 0) return;
  const Stopwatch clock;
  const PolicyNeeds& needs = config_->needs();
  for (size_t head = 0; head < config_->n_heads(); ++head) {
    HeadObservation& observation = transit_->observation(head);
    observe_seconds_ += observation.observe_seconds;
    if (needs.expected) {
      Transit::SetZeros(transit_->column_sums(), observation.n_columns);
      ExpectedWeights(head);
    }
    if (!observation.has_stats) ObserveHead(head);
    const float* stats = observation.stats.data();
    size_t column = 0;
    for (size_t tier = config_->n_attended_tiers(); tier-- > 0;) {
      const size_t n = store(head, tier).size();
      if (n > 0 && config_->layout(head, tier).n_stats > 0) {
        RowStore& rows = mutable_store(head, tier);
        const float* from = stats + observation.place(column) * config_->n_stats();
        for (size_t slot = 0; slot < n; ++slot, from += config_->n_stats()) {
          std::ranges::copy_n(from, static_cast<ptrdiff_t>(config_->n_stats()),
                              rows.stats(slot).begin());
        }
      }
      column += n;
    }
    transit_->KeepNewStats(head);
  }
  const size_t n_queries = needs.expected ? 1 : transit_->n_observed();
  observed_queries_ *= std::pow(needs.decay, static_cast<double>(n_queries));
  for (size_t q = 0; q < n_queries; ++q) observed_queries_ += std::pow(needs.decay, q);
  observe_seconds_ += clock.Seconds();
}

}  // namespace rkv
