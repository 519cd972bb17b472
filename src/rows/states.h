// States, which absorb forgotten tokens. In fp32 while they change; stored as rows of means.
#ifndef RETENTIVEKV_ROWS_STATES_H_
#define RETENTIVEKV_ROWS_STATES_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace rkv {

// The sums of one state over the tokens it absorbed (method section 2): mass n, key sum z, value
// sum u, and the diagonal second moment D of the keys. Sums make every step invertible: an absorbed
// token can be subtracted again, up to fp32 rounding.
struct StateSums {
  StateSums() = default;
  StateSums(size_t d_k, size_t d_v) : key_sum(d_k), value_sum(d_v), key_square(d_k) {}
  // From means, and a variance that is the same for every key element.
  static StateSums FromMeans(std::span<const float> key, std::span<const float> value, float mass,
                             float spread);

  // X <- X + a x for the pairs (n, 1), (z, k), (u, v), (D, k^2).
  void Absorb(std::span<const float> key, std::span<const float> value, float a = 1.0f);
  void Subtract(std::span<const float> key, std::span<const float> value, float a = 1.0f) {
    Absorb(key, value, -a);
  }
  // X <- h X: the recurrence's retention.
  void Retain(float h);
  void Merge(const StateSums& other);

  // REQUIRES: mass > 0.
  void Means(std::span<float> key, std::span<float> value) const;
  float Spread() const;  // mean over the key's elements of their variance; never negative

  float mass = 0;
  std::vector<float> key_sum, value_sum, key_square;
  uint32_t index = 0;  // its place: index of a token in the conversation
};

// How far two rows are apart: key_weight |dk|^2 + value_weight |dv|^2.
struct StateMetric {
  float key_weight = 1.0f;
  float value_weight = 1.0f;
};

// The increase of squared error when two states become one (Ward 1963): n m / (n + m) times the
// squared distance of their means.
float MergeCost(const StateSums& a, const StateSums& b, const StateMetric& metric);

// Sums `states` up in at most `limit` states by similarity. If there are at most 4 * limit, and at
// most 1024, the pair with the minimum MergeCost() is merged repeatedly, below the limit only if
// that costs nothing. Otherwise the heaviest state is the first seed. Each next seed is the state
// with the maximum error against the seeds so far (the most novel one); three rounds of k-means
// follow. Mass is conserved. Returns the new index of each state.
// REQUIRES: limit > 0.
std::vector<size_t> Cluster(std::vector<StateSums>& states, size_t limit,
                            const StateMetric& metric);

// The error that Cluster() would leave for each state: mass times the squared distance to the mean
// of its cluster.
std::vector<float> ClusterErrors(const std::vector<StateSums>& states, size_t limit,
                                 const StateMetric& metric);

// Merges the cheapest pair of neighbours until at most `limit` states are left. Neighbours are
// consecutive in order of `index`. Pairs for which `may_merge(a, b)` of their indices is true go
// before all others. Returns the new index of each state. REQUIRES: limit > 0.
std::vector<size_t> MergeNeighbours(std::vector<StateSums>& states, size_t limit,
                                    const StateMetric& metric,
                                    bool (*may_merge)(const void* context, uint32_t a, uint32_t b),
                                    const void* context);

}  // namespace rkv

#endif  // RETENTIVEKV_ROWS_STATES_H_
