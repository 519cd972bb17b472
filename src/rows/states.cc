// Sums of states, and their clustering: pairwise merging for few states, k-means for many. Mass is
// conserved.
#include "rows/states.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/distance.h"

namespace rkv {

namespace {

// Means of many states, side by side for the distance loops.
class MeanTable {
 public:
  MeanTable(const std::vector<StateSums>& states, const StateMetric& metric)
      : d_k_(states.front().key_sum.size()), d_(d_k_ + states.front().value_sum.size()) {
    rows_.resize(states.size() * d_);
    const float k_scale = std::sqrt(metric.key_weight);
    const float v_scale = std::sqrt(metric.value_weight);
    for (size_t i = 0; i < states.size(); ++i) {
      float* row = rows_.data() + i * d_;
      states[i].Means({row, d_k_}, {row + d_k_, d_ - d_k_});
      for (size_t e = 0; e < d_; ++e) row[e] *= e < d_k_ ? k_scale : v_scale;
    }
    norms_.resize(states.size());
    SquaredNorms(rows_.data(), states.size(), d_, norms_.data());
  }
  NormedRows rows(size_t first, size_t n) const {
    return {.data = row(first), .norms = norms_.data() + first, .n = n};
  }
  NormedRows rows() const { return rows(0, norms_.size()); }
  const float* norms() const { return norms_.data(); }
  const float* row(size_t i) const { return rows_.data() + i * d_; }
  size_t d() const { return d_; }

 private:
  size_t d_k_;
  size_t d_;
  std::vector<float> rows_;   // [states, d_k + d_v]
  std::vector<float> norms_;  // [states]
};

// The nearest of the centres for every state.
void Assign(const MeanTable& table, const std::vector<float>& centres, std::vector<size_t>& nearest,
            std::vector<float>& distances) {
  std::vector<const float*> from;
  for (size_t at = 0; at < centres.size(); at += table.d()) from.push_back(centres.data() + at);
  std::vector<float> norms(from.size());
  SquaredNorms(centres.data(), norms.size(), table.d(), norms.data());
  FindNearest(table.rows(), table.d(),
              {.data = from.data(), .norms = norms.data(), .n = from.size()}, distances.data(),
              nearest.data());
}

std::vector<float> Seeds(const std::vector<StateSums>& states, const MeanTable& table,
                         size_t limit) {
  std::vector<float> centres;
  std::vector<float> distance(states.size(), std::numeric_limits<float>::infinity());
  size_t next =
      static_cast<size_t>(std::ranges::max_element(states, {}, &StateSums::mass) - states.begin());
  for (size_t c = 0; c < limit; ++c) {
    centres.insert(centres.end(), table.row(next), table.row(next) + table.d());
    float max_error = 0;
    const float* seed = table.row(next);
    LowerToSquaredDistances(table.rows(), table.d(),
                            {.data = &seed, .norms = table.norms() + next, .n = 1},
                            distance.data());
    for (size_t i = 0; i < states.size(); ++i) {
      const float error = states[i].mass * distance[i];
      if (error > max_error) {
        max_error = error;
        next = i;
      }
    }
    if (max_error == 0) break;  // The rest are copies.
  }
  return centres;
}

// The mass-weighted means of the states in each of n_clusters. An empty cluster keeps zeros.
std::vector<float> CentresOf(const std::vector<StateSums>& states, const MeanTable& table,
                             const std::vector<size_t>& cluster_of, size_t n_clusters) {
  std::vector<float> centres(n_clusters * table.d());
  std::vector<float> mass(n_clusters);
  for (size_t i = 0; i < states.size(); ++i) {
    mass[cluster_of[i]] += states[i].mass;
    float* centre = centres.data() + cluster_of[i] * table.d();
    for (size_t e = 0; e < table.d(); ++e) centre[e] += states[i].mass * table.row(i)[e];
  }
  for (size_t c = 0; c < n_clusters; ++c) {
    for (size_t e = 0; e < table.d() && mass[c] > 0; ++e) centres[c * table.d() + e] /= mass[c];
  }
  return centres;
}

// The cluster of each state, by rounds of k-means.
std::vector<size_t> FindByMeans(const std::vector<StateSums>& states, const MeanTable& table,
                                size_t limit) {
  std::vector<float> centres = Seeds(states, table, limit);
  std::vector<size_t> cluster_of(states.size());
  std::vector<float> distances(states.size());
  Assign(table, centres, cluster_of, distances);
  constexpr int kRounds = 3;
  for (int round = 1; round < kRounds; ++round) {
    centres = CentresOf(states, table, cluster_of, centres.size() / table.d());
    Assign(table, centres, cluster_of, distances);
  }
  return cluster_of;
}

// Merges the cheapest pair repeatedly, until at most `limit` states and no copies are left.
class PairMerger {
 public:
  PairMerger(const std::vector<StateSums>& states, const MeanTable& table)
      : n_(states.size()),
        costs_(n_ * n_, kNone),
        nearest_(n_),
        min_(n_),
        is_bound_(n_),
        mass_(n_),
        into_(n_) {
    std::iota(into_.begin(), into_.end(), size_t{0});
    live_ = into_;
    for (size_t i = 0; i < n_; ++i) mass_[i] = states[i].mass;
    std::vector<const float*> points;
    for (size_t i = 0; i < n_; ++i) points.push_back(table.row(i));
    std::vector<float> distances(n_ * kColumns);
    for (size_t first = 0; first < n_; first += kColumns) {
      const size_t n = std::min(kColumns, n_ - first);
      SquaredDistances(table.rows(0, first + n), table.d(),
                       {.data = points.data() + first, .norms = table.norms() + first, .n = n},
                       distances.data());
      for (size_t i = 0; i < first + n; ++i) {
        for (size_t j = std::max(first, i + 1); j < first + n; ++j) {
          const size_t f = j - first;
          SetCost(i, j, mass_[i] * mass_[j] / (mass_[i] + mass_[j]) * distances[i * n + f]);
        }
      }
    }
    for (size_t i = 0; i < n_; ++i) FindNearestOf(i);
  }

  // The cluster of each state.
  std::vector<size_t> Merge(size_t limit) {
    while (live_.size() > 1) {
      size_t a = IndexOfMin(min_.data(), n_);
      if (is_bound_[a]) {
        FindNearestOf(a);
        continue;
      }
      if (live_.size() <= limit && min_[a] != 0) break;
      if (min_[a] == kNone) {
        a = live_.front();
        nearest_[a] = live_[1];
      }
      MergePair(a, nearest_[a]);
    }
    // Clusters are numbered without gaps.
    std::vector<size_t> number(n_);
    for (size_t c = 0; c < live_.size(); ++c) number[live_[c]] = c;
    std::vector<size_t> cluster_of(n_);
    for (size_t i = 0; i < n_; ++i) {
      size_t at = i;
      while (into_[at] != at) at = into_[at];
      cluster_of[i] = number[at];
    }
    return cluster_of;
  }

 private:
  static constexpr size_t kColumns = 16;
  // Cost of a state with itself and with merged states. All costs of a state that is not finite are
  // kNone, so it is merged last.
  static constexpr float kNone = std::numeric_limits<float>::infinity();

  float* costs_of(size_t i) { return costs_.data() + i * n_; }

  void SetCost(size_t i, size_t j, float cost) {
    if (!std::isfinite(cost)) cost = kNone;
    costs_of(i)[j] = costs_of(j)[i] = cost;
  }

  void FindNearestOf(size_t i) {
    nearest_[i] = IndexOfMin(costs_of(i), n_);
    min_[i] = costs_of(i)[nearest_[i]];
    is_bound_[i] = false;
  }

  // Merges b into a. The new costs of a follow from the old costs of both (Lance and Williams
  // 1967), and are not below the smaller of them. So if the nearest state of k was a or b, min_[k]
  // remains a lower bound of its minimum cost. Merge() computes the cost only when this bound is
  // the minimum of all.
  void MergePair(size_t a, size_t b) {
    std::erase(live_, b);
    into_[b] = a;
    min_[b] = kNone;
    is_bound_[b] = false;
    const float both = costs_of(a)[b];
    SetCost(a, b, kNone);
    const float pair = mass_[a] + mass_[b];
    for (const size_t k : live_) {
      if (k == a) continue;
      const float merged = ((mass_[a] + mass_[k]) * costs_of(a)[k] +
                            (mass_[b] + mass_[k]) * costs_of(b)[k] - mass_[k] * both) /
                           (pair + mass_[k]);
      SetCost(a, k, std::max(merged, 0.0f));
      costs_of(k)[b] = kNone;
      if (nearest_[k] == a || nearest_[k] == b) is_bound_[k] = true;
    }
    mass_[a] = pair;
    FindNearestOf(a);
  }

  size_t n_;
  std::vector<float> costs_;       // [states, states]
  std::vector<size_t> nearest_;    // the first with the minimum cost
  std::vector<float> min_;         // the minimum cost,
  std::vector<uint8_t> is_bound_;  // or a lower bound of it
  std::vector<float> mass_;
  std::vector<size_t> into_;  // itself: not merged
  std::vector<size_t> live_;
};

// Limits for PairMerger. With more states per cluster, comparing all pairs costs more than rounds
// of k-means. With more states, the costs of the pairs take more than 4 MB.
constexpr size_t kFewPerCluster = 4;
constexpr size_t kMaxPaired = 1024;

std::vector<size_t> FindClusters(const std::vector<StateSums>& states, const MeanTable& table,
                                 size_t limit) {
  if (states.size() > std::min(kFewPerCluster * limit, kMaxPaired)) {
    return FindByMeans(states, table, limit);
  }
  return PairMerger(states, table).Merge(limit);
}

}  // namespace

StateSums StateSums::FromMeans(std::span<const float> key, std::span<const float> value, float mass,
                               float spread) {
  StateSums sums(key.size(), value.size());
  sums.mass = mass;
  for (size_t i = 0; i < key.size(); ++i) {
    sums.key_sum[i] = mass * key[i];
    sums.key_square[i] = mass * (key[i] * key[i] + spread);
  }
  for (size_t i = 0; i < value.size(); ++i) sums.value_sum[i] = mass * value[i];
  return sums;
}

void StateSums::Absorb(std::span<const float> key, std::span<const float> value, float a) {
  mass += a;
  for (size_t i = 0; i < key.size(); ++i) {
    key_sum[i] += a * key[i];
    key_square[i] += a * key[i] * key[i];
  }
  for (size_t i = 0; i < value.size(); ++i) value_sum[i] += a * value[i];
}

void StateSums::Retain(float h) {
  mass *= h;
  for (std::vector<float>* sum : {&key_sum, &value_sum, &key_square}) {
    for (float& x : *sum) x *= h;
  }
}

void StateSums::Merge(const StateSums& other) {
  if (other.mass > mass) index = other.index;
  mass += other.mass;
  const auto add = [](std::vector<float>& to, const std::vector<float>& from) {
    for (size_t i = 0; i < to.size(); ++i) to[i] += from[i];
  };
  add(key_sum, other.key_sum);
  add(value_sum, other.value_sum);
  add(key_square, other.key_square);
}

void StateSums::Means(std::span<float> key, std::span<float> value) const {
  assert(mass > 0);
  const float scale = 1.0f / mass;
  for (size_t i = 0; i < key.size(); ++i) key[i] = scale * key_sum[i];
  for (size_t i = 0; i < value.size(); ++i) value[i] = scale * value_sum[i];
}

float StateSums::Spread() const {
  const double share = 1.0 / static_cast<double>(mass);
  double sum = 0;
  for (size_t i = 0; i < key_sum.size(); ++i) {
    const double mean = share * static_cast<double>(key_sum[i]);
    sum += share * static_cast<double>(key_square[i]) - mean * mean;
  }
  return static_cast<float>(std::max(0.0, sum / static_cast<double>(key_sum.size())));
}

float MergeCost(const StateSums& a, const StateSums& b, const StateMetric& metric) {
  const auto distance = [&a, &b](const std::vector<float>& x, const std::vector<float>& y) {
    float sum = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const float difference = x[i] / a.mass - y[i] / b.mass;
      sum += difference * difference;
    }
    return sum;
  };
  return a.mass * b.mass / (a.mass + b.mass) *
         (metric.key_weight * distance(a.key_sum, b.key_sum) +
          metric.value_weight * distance(a.value_sum, b.value_sum));
}

std::vector<size_t> Cluster(std::vector<StateSums>& states, size_t limit,
                            const StateMetric& metric) {
  assert(limit > 0);
  std::vector<size_t> went(states.size());
  std::iota(went.begin(), went.end(), size_t{0});
  if (states.size() <= limit) return went;
  went = FindClusters(states, MeanTable(states, metric), limit);
  // Empty clusters leave no gap.
  std::vector<size_t> place(states.size(), states.size());
  std::vector<StateSums> clusters;
  for (size_t i = 0; i < states.size(); ++i) {
    size_t& at = place[went[i]];
    if (at == states.size()) {
      at = clusters.size();
      clusters.push_back(std::move(states[i]));
    } else {
      clusters[at].Merge(states[i]);
    }
    went[i] = at;
  }
  states = std::move(clusters);
  return went;
}

std::vector<float> ClusterErrors(const std::vector<StateSums>& states, size_t limit,
                                 const StateMetric& metric) {
  assert(limit > 0);
  if (states.size() <= limit) return std::vector<float>(states.size(), 0.0f);
  const MeanTable table(states, metric);
  const std::vector<size_t> cluster_of = FindClusters(states, table, limit);
  std::vector<float> norms(1 + *std::ranges::max_element(cluster_of));
  const std::vector<float> centres = CentresOf(states, table, cluster_of, norms.size());
  SquaredNorms(centres.data(), norms.size(), table.d(), norms.data());
  std::vector<float> errors;
  for (size_t i = 0; i < states.size(); ++i) {
    const size_t cluster = cluster_of[i];
    const float* centre = centres.data() + cluster * table.d();
    float distance = std::numeric_limits<float>::infinity();
    LowerToSquaredDistances(table.rows(i, 1), table.d(),
                            {.data = &centre, .norms = norms.data() + cluster, .n = 1}, &distance);
    errors.push_back(states[i].mass * distance);
  }
  return errors;
}

std::vector<size_t> MergeNeighbours(std::vector<StateSums>& states, size_t limit,
                                    const StateMetric& metric,
                                    bool (*may_merge)(const void* context, uint32_t a, uint32_t b),
                                    const void* context) {
  assert(limit > 0);
  std::vector<size_t> order(states.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, {}, [&states](size_t i) { return states[i].index; });
  std::vector<StateSums> merged;
  std::vector<std::vector<size_t>> members;
  for (const size_t i : order) {
    merged.push_back(std::move(states[i]));
    members.push_back({i});
  }
  while (merged.size() > limit) {
    size_t best = 0;
    float min_cost = std::numeric_limits<float>::infinity();
    bool allowed = false;
    for (size_t i = 0; i + 1 < merged.size(); ++i) {
      const bool may = may_merge(context, merged[i].index, merged[i + 1].index);
      const float cost = MergeCost(merged[i], merged[i + 1], metric);
      if ((may && !allowed) || (may == allowed && cost < min_cost)) {
        allowed = allowed || may;
        min_cost = cost;
        best = i;
      }
    }
    const auto next = static_cast<ptrdiff_t>(best) + 1;
    merged[best].Merge(merged[best + 1]);
    members[best].insert(members[best].end(), members[best + 1].begin(), members[best + 1].end());
    merged.erase(merged.begin() + next);
    members.erase(members.begin() + next);
  }
  std::vector<size_t> went(states.size());
  for (size_t m = 0; m < members.size(); ++m) {
    for (const size_t i : members[m]) went[i] = m;
  }
  states = std::move(merged);
  return went;
}

}  // namespace rkv
