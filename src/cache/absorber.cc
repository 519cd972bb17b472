// The absorbers: none, merging into tokens, and states by similarity or by place.
#include "cache/absorber.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "cache/state_rows.h"

namespace rkv {

namespace {

class NoAbsorber : public Absorber {
 public:
  void Take(const CompressionTask&, const HeadPlan&, Forgotten, Head&) const override {}
};

// Merges tokens into the most similar remaining token (LOOK-M).
class MergeAbsorber : public Absorber {
 public:
  void Take(const CompressionTask& task, const HeadPlan& plan, Forgotten forgotten,
            Head& head) const override;

 private:
  struct Kept {
    size_t tier = 0;
    size_t slot = 0;
    std::vector<float> k = {}, v = {}, k_merged = {}, v_merged = {};
    float norm = 0;
    float n = 0;
  };
  static std::vector<Kept> DecodeKept(const Head& head, const RowCodec& codec);
  // Null if its key is not finite, so that no token is similar.
  static Kept* MostSimilar(std::vector<Kept>& kept, const StateSums& token);
};

std::vector<MergeAbsorber::Kept> MergeAbsorber::DecodeKept(const Head& head,
                                                           const RowCodec& codec) {
  std::vector<Kept> kept;
  for (size_t tier = 0; tier < head.config().n_rungs(); ++tier) {
    for (size_t slot = 0; slot < head.store(tier).size(); ++slot) {
      Kept& row = kept.emplace_back(Kept{.tier = tier, .slot = slot});
      row.k.resize(head.shape().d_k);
      row.v.resize(head.shape().d_v);
      codec.DecodeStored(tier, slot, row.k.data(), row.v.data());
      float sum = 0;
      for (const float e : row.k) sum += e * e;
      row.norm = std::sqrt(sum);
    }
  }
  return kept;
}

MergeAbsorber::Kept* MergeAbsorber::MostSimilar(std::vector<Kept>& kept, const StateSums& token) {
  Kept* pivot = nullptr;
  float max = -std::numeric_limits<float>::infinity();
  for (Kept& row : kept) {
    float dot = 0;
    for (size_t e = 0; e < row.k.size(); ++e) dot += row.k[e] * token.key_sum[e];
    const float cosine = row.norm > 0 ? dot / row.norm : 0.0f;
    if (cosine > max) {
      max = cosine;
      pivot = &row;
    }
  }
  return pivot;
}

void MergeAbsorber::Take(const CompressionTask&, const HeadPlan& plan, Forgotten forgotten,
                         Head& head) const {
  if (forgotten.tokens.empty()) return;
  const LayerShape& shape = head.shape();
  const RowCodec& codec = plan.reader().codec();
  std::vector<Kept> kept = DecodeKept(head, codec);
  // Each evicted token is averaged with its pivot. The pivot becomes the mean of itself and these
  // averages.
  for (const StateSums& token : forgotten.tokens) {
    Kept* pivot = MostSimilar(kept, token);
    if (pivot == nullptr) continue;
    if (pivot->n == 0) {
      pivot->k_merged = pivot->k;
      pivot->v_merged = pivot->v;
      pivot->n = 1;
    }
    for (size_t e = 0; e < shape.d_k; ++e) {
      pivot->k_merged[e] += 0.5f * (token.key_sum[e] + pivot->k[e]);
    }
    for (size_t e = 0; e < shape.d_v; ++e) {
      pivot->v_merged[e] += 0.5f * (token.value_sum[e] + pivot->v[e]);
    }
    pivot->n += 1;
  }
  for (Kept& row : kept) {
    if (row.n == 0) continue;
    for (float& e : row.k_merged) e /= row.n;
    for (float& e : row.v_merged) e /= row.n;
    const RowLayout& layout = head.layout(row.tier);
    std::vector<uint8_t> k_row(layout.k_bytes()), v_row(layout.v_bytes());
    codec.Encode(row.tier, row.k_merged.data(), row.v_merged.data(), k_row.data(), v_row.data());
    head.mutable_store(row.tier).SetKeyAndValue(row.slot, k_row.data(), v_row.data());
  }
}

// Absorbs tokens into states, which every query reads.
class StateAbsorber : public Absorber {
 public:
  void Take(const CompressionTask& task, const HeadPlan& plan, Forgotten forgotten,
            Head& head) const override;

 protected:
  // Puts the tokens into at most `limit` of the states. Returns the new index of each state, and
  // then of each token. REQUIRES: limit > 0.
  virtual std::vector<size_t> Place(const CompressionTask& task, size_t limit,
                                    const StateMetric& metric, std::vector<StateSums>& states,
                                    std::vector<StateSums>& tokens) const = 0;

 private:
  // The old place of each of `states`, or kChanged. `went`: the result of Place() for the n_before
  // old states and the absorbed tokens.
  static std::vector<uint32_t> SameAs(std::span<const size_t> went, size_t n_before,
                                      const std::vector<StateSums>& states, double retention);
  // Adds to the matrix the deviations of the points from the head's states as stored now. `before`:
  // the old mass of the states. `retention`: the share of it that they kept.
  static void UpdateMatrix(const RowCodec& codec, const std::vector<StateSums>& points,
                           const std::vector<size_t>& went, double before, double retention,
                           Head& head);
};

void StateAbsorber::Take(const CompressionTask& task, const HeadPlan& plan, Forgotten forgotten,
                         Head& head) const {
  const size_t limit = plan.n_states();
  const RowCodec& codec = plan.reader().codec();
  if (forgotten.tokens.empty() && limit >= head.n_states()) return;
  std::vector<StateSums> states = LoadStates(head, codec);
  double mass = 0;
  for (const StateSums& state : states) mass += static_cast<double>(state.mass);
  double retention = 1.0;
  if (task.config.absorb().kappa != 0 && !forgotten.tokens.empty()) {
    // The minimum keeps the mass of a state above zero.
    retention = std::max(1.0 - task.config.absorb().kappa * (1.0 - forgotten.entropy), 1e-3);
    for (StateSums& state : states) state.Retain(static_cast<float>(retention));
  }
  std::vector<StateSums> points;  // for the matrix
  if (head.matrix() != nullptr) {
    points = states;
    points.insert(points.end(), forgotten.tokens.begin(), forgotten.tokens.end());
  }
  // For the trace: roots of the old states, and indices of the tokens.
  std::vector<uint32_t> roots_before;
  for (const StateSums& state : states) roots_before.push_back(state.index);
  std::vector<uint32_t> tokens;
  for (const StateSums& token : forgotten.tokens) tokens.push_back(token.index);
  std::vector<size_t> went;
  if (limit == 0) {
    states.clear();
  } else {
    went = Place(task, limit, plan.metric(), states, forgotten.tokens);
  }
  StoreStates(head, codec, states, SameAs(went, roots_before.size(), states, retention));
  if (head.matrix() != nullptr) UpdateMatrix(codec, points, went, mass, retention, head);
  if (task.trace == nullptr) return;
  task.trace->heads[head.number()].Move(task.tokens_seen, roots_before, tokens, [&](size_t point) {
    return point < went.size() ? static_cast<int64_t>(states[went[point]].index) : int64_t{-1};
  });
}

std::vector<uint32_t> StateAbsorber::SameAs(std::span<const size_t> went, size_t n_before,
                                            const std::vector<StateSums>& states,
                                            double retention) {
  std::vector<uint32_t> same_as(states.size(), kChanged);
  if (retention != 1.0) return same_as;
  std::vector<uint32_t> n_points(states.size());
  for (const size_t state : went) ++n_points[state];
  for (uint32_t i = 0; i < std::min(n_before, went.size()); ++i) {
    if (n_points[went[i]] == 1) same_as[went[i]] = i;
  }
  return same_as;
}

void StateAbsorber::UpdateMatrix(const RowCodec& codec, const std::vector<StateSums>& points,
                                 const std::vector<size_t>& went, double before, double retention,
                                 Head& head) {
  const LayerShape& shape = head.shape();
  uint16_t* matrix = head.matrix();
  const std::vector<StateSums> states = LoadStates(head, codec);
  std::vector<float> k(shape.d_k), v(shape.d_v), k_state(shape.d_k), v_state(shape.d_v);
  std::vector<float> sum(MatrixElements(shape));
  DecodeRow(ElementType::kF16, matrix, sum.size(), sum.data());
  const auto held = static_cast<float>(before * retention);
  for (float& x : sum) x *= held;
  double mass = 0;
  for (size_t i = 0; i < went.size(); ++i) {
    points[i].Means(k, v);
    states[went[i]].Means(k_state, v_state);
    for (size_t e = 0; e < shape.d_k; ++e) k[e] -= k_state[e];
    for (size_t e = 0; e < shape.d_v; ++e) v[e] = points[i].mass * (v[e] - v_state[e]);
    mass += static_cast<double>(points[i].mass);
    for (size_t row = 0; row < shape.d_v; ++row) {
      float* out = sum.data() + row * shape.d_k;
      for (size_t e = 0; e < shape.d_k; ++e) out[e] += v[row] * k[e];
    }
  }
  const auto factor = static_cast<float>(mass > 0 ? 1.0 / mass : 0.0);
  for (float& x : sum) x *= factor;
  EncodeRow(ElementType::kF16, sum.data(), sum.size(), matrix);
}

// Places tokens by similarity of keys and values.
class ClusterAbsorber : public StateAbsorber {
 protected:
  std::vector<size_t> Place(const CompressionTask&, size_t limit, const StateMetric& metric,
                            std::vector<StateSums>& states,
                            std::vector<StateSums>& tokens) const override {
    for (StateSums& token : tokens) states.push_back(std::move(token));
    return Cluster(states, limit, metric);
  }
};

// Places tokens into root patches of a picture's grid, and time segments of text and audio.
class PlaceAbsorber : public StateAbsorber {
 protected:
  std::vector<size_t> Place(const CompressionTask& task, size_t limit, const StateMetric& metric,
                            std::vector<StateSums>& states,
                            std::vector<StateSums>& tokens) const override {
    const std::vector<size_t> placed = IntoRoots(task, states, tokens);
    const auto same_media = [](const void* context, uint32_t a, uint32_t b) {
      const auto* media = static_cast<const MediaTable*>(context);
      const TokenInfo x = media->token_info(a);
      const TokenInfo y = media->token_info(b);
      return x.modality == y.modality && x.media == y.media;
    };
    const std::vector<size_t> merged =
        MergeNeighbours(states, limit, metric, same_media, &task.media);
    std::vector<size_t> went;
    for (const size_t i : placed) went.push_back(merged[i]);
    return went;
  }

 private:
  static uint32_t RootOf(const CompressionTask& task, uint32_t index);
  static std::vector<size_t> IntoRoots(const CompressionTask& task, std::vector<StateSums>& states,
                                       std::vector<StateSums>& tokens);
};

uint32_t PlaceAbsorber::RootOf(const CompressionTask& task, uint32_t index) {
  const AbsorbChoice& absorb = task.config.absorb();
  const TokenInfo cell = task.media.token_info(index);
  if (cell.modality != Modality::kImage) {
    const auto segment = static_cast<uint32_t>(absorb.segment);
    uint32_t root = index / segment * segment;
    // A segment does not extend back into a picture.
    while (task.media.token_info(root).modality == Modality::kImage) ++root;
    return root;
  }
  // The grid is cut into about `roots` blocks; a block's middle cell is its root.
  const MediaSpan& span = task.media.spans()[cell.media];
  const auto n_roots = static_cast<double>(absorb.roots);
  const double side = std::sqrt(n_roots * span.rows / static_cast<double>(span.columns));
  const auto block_rows =
      static_cast<uint32_t>(std::clamp(std::round(side), 1.0, static_cast<double>(span.rows)));
  const auto block_columns = static_cast<uint32_t>(
      std::clamp(std::round(n_roots / block_rows), 1.0, static_cast<double>(span.columns)));
  const uint64_t row = uint64_t{cell.row} * block_rows / span.rows;
  const uint64_t column = uint64_t{cell.column} * block_columns / span.columns;
  const uint64_t root_row = (2 * row + 1) * span.rows / (2 * uint64_t{block_rows});
  const uint64_t root_column = (2 * column + 1) * span.columns / (2 * uint64_t{block_columns});
  return static_cast<uint32_t>(span.first_token + root_row * span.columns + root_column);
}

std::vector<size_t> PlaceAbsorber::IntoRoots(const CompressionTask& task,
                                             std::vector<StateSums>& states,
                                             std::vector<StateSums>& tokens) {
  std::vector<size_t> went(states.size());
  std::iota(went.begin(), went.end(), size_t{0});
  for (StateSums& token : tokens) {
    token.index = RootOf(task, token.index);
    const auto same = std::ranges::find(states, token.index, &StateSums::index);
    went.push_back(static_cast<size_t>(same - states.begin()));
    if (same == states.end()) {
      states.push_back(std::move(token));
    } else {
      same->Merge(token);
      same->index = token.index;
    }
  }
  return went;
}

}  // namespace

const Absorber& AbsorberOf(AbsorbKind kind) {
  static const NoAbsorber none;
  static const MergeAbsorber merge;
  static const ClusterAbsorber clusters;
  static const PlaceAbsorber states;
  switch (kind) {
    case AbsorbKind::kMerge:
      return merge;
    case AbsorbKind::kClusters:
      return clusters;
    case AbsorbKind::kStates:
      return states;
    case AbsorbKind::kNone:
      break;
  }
  return none;
}

}  // namespace rkv
