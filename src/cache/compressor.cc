// One compression: centres and matrices, the contest, the distribution of bytes, and the moves of
// rows. The moves of a head depend only on its own plan.
#include "cache/compressor.h"

#include <algorithm>
#include <functional>

#include "base/parallel.h"
#include "cache/absorber.h"

namespace rkv {

namespace {

// A head gets a centre if the centre takes at most 1 / kCentreShare of its bytes.
constexpr uint64_t kCentreShare = 16;

// The same for a matrix.
constexpr uint64_t kMatrixShare = 4;

// After this many tokens of an answer all rows compete again and get a new order.
constexpr uint64_t kRestingTokens = 1024;

// Share of the keys in the error of a rung. An error of a key moves the logits of every later
// query.
constexpr double kKeyShare = 0.85;

// Share of the variance of a key, as queries meet it, in the half of its elements that a mixed type
// gives more bits (RowBasis).
constexpr double kSlowShare = 0.95;

// GaussianError() of a key in its basis.
double KeyError(ElementType type) {
  const BlockTypes types = BlockTypesOf(type);
  return kSlowShare * GaussianError(types.first) + (1 - kSlowShare) * GaussianError(types.second);
}

// Starting a thread costs as much as some hundred rows.
constexpr size_t kRowsPerThread = 1024;

// Moves the rows of one head to the rungs in its plan.
class RowMoves {
 public:
  RowMoves(const CompressionTask& task, const Contest& contest, const HeadPlan& plan, Head& head)
      : task_(task),
        contest_(contest),
        plan_(plan),
        head_(head),
        stats_(task.config.n_stats()),
        leaving_(task.config.n_rungs()),
        k_(head.shape().d_k),
        v_(head.shape().d_v) {}

  // Copies the held rows that will move, before any row moves. Returns the forgotten tokens.
  Forgotten Collect();
  // Drops the leaving rows, and makes exactly the necessary room.
  void Resize();
  void Place();

 private:
  struct Placed {
    const Candidate* candidate = nullptr;
    uint8_t tier = 0;
    size_t bytes_at = 0;  // of a held row; Place() encodes new tokens
    size_t stats_at = 0;
    float error = 0;
  };

  size_t KvBytes(size_t tier) const {
    return head_.layout(tier).k_bytes() + head_.layout(tier).v_bytes();
  }
  // Mean over the candidates and the tokens for which they stand.
  double MeanAttention() const;
  // The recurrence's a, from a token's attention. `mean` is 0 if all tokens have equal weight.
  float AbsorbedShare(const Candidate& candidate, double mean) const;
  double ForgottenEntropy() const;
  StateSums Sum(const Candidate& candidate, double mean_attention);
  void Keep(const Candidate& candidate, const LadderItem& item);

  const CompressionTask& task_;
  const Contest& contest_;
  const HeadPlan& plan_;
  Head& head_;
  std::vector<Placed> placed_;
  std::vector<uint8_t> bytes_;
  std::vector<float> stats_;                    // zeros, then those of `placed_`
  std::vector<std::vector<uint32_t>> leaving_;  // [rung] slots
  std::vector<float> k_, v_;
};

double RowMoves::MeanAttention() const {
  double total = 0;
  for (const Candidate& candidate : plan_.candidates()) {
    const std::span<const float> stats = plan_.reader().Stats(candidate);
    if (!stats.empty()) total += static_cast<double>(stats[0]);
  }
  return total / static_cast<double>(plan_.candidates().size() + plan_.n_staying());
}

float RowMoves::AbsorbedShare(const Candidate& candidate, double mean) const {
  const std::span<const float> stats = plan_.reader().Stats(candidate);
  if (stats.empty() || mean <= 0) return 1.0f;
  return std::max(static_cast<float>(static_cast<double>(stats[0]) / mean), 1e-3f);
}

double RowMoves::ForgottenEntropy() const {
  double sum = 0;
  size_t n = 0;
  for (size_t i = 0; i < plan_.items().size(); ++i) {
    if (plan_.items()[i].rung < task_.config.n_rungs()) continue;
    sum += plan_.reader().Entropy(plan_.candidates()[i]);
    ++n;
  }
  return n == 0 ? 1.0 : sum / static_cast<double>(n);
}

StateSums RowMoves::Sum(const Candidate& candidate, double mean_attention) {
  plan_.reader().Decode(candidate, k_.data(), v_.data());
  StateSums single(k_.size(), v_.size());
  single.Absorb(k_, v_, AbsorbedShare(candidate, mean_attention));
  single.index = candidate.index;
  return single;
}

void RowMoves::Keep(const Candidate& candidate, const LadderItem& item) {
  Placed& row =
      placed_.emplace_back(Placed{.candidate = &candidate, .tier = item.rung, .error = item.error});
  if (candidate.is_new) return;
  row.bytes_at = bytes_.size();
  bytes_.resize(bytes_.size() + KvBytes(item.rung));
  plan_.reader().Encode(candidate, item.rung, k_, v_, bytes_.data() + row.bytes_at);
  const std::span<const float> own = plan_.reader().Stats(candidate);
  if (!own.empty()) row.stats_at = stats_.size();
  stats_.insert(stats_.end(), own.begin(), own.end());
}

Forgotten RowMoves::Collect() {
  const AbsorbChoice& absorb = task_.config.absorb();
  const size_t n_rungs = task_.config.n_rungs();
  Forgotten forgotten;
  if (absorb.kappa != 0) forgotten.entropy = ForgottenEntropy();
  const double attention = absorb.weigh != 0 ? MeanAttention() : 0.0;
  for (size_t i = 0; i < plan_.candidates().size(); ++i) {
    const Candidate& candidate = plan_.candidates()[i];
    const LadderItem& item = plan_.items()[i];
    const bool stays = !candidate.is_new && item.rung == candidate.tier;
    const bool moves =
        contest_.orders() && item.rung + size_t{1} == n_rungs && candidate.stands_for == 1;
    if (stays && !moves) continue;
    if (!candidate.is_new) leaving_[candidate.tier].push_back(candidate.slot);
    if (item.rung < n_rungs) {
      Keep(candidate, item);
    } else if (absorb.kind != AbsorbKind::kNone && task_.absorbs(candidate.index)) {
      forgotten.tokens.push_back(Sum(candidate, attention));
    }
  }
  return forgotten;
}

void RowMoves::Resize() {
  if (contest_.orders()) std::ranges::stable_sort(placed_, std::greater{}, &Placed::error);
  std::vector<size_t> arriving(leaving_.size());
  for (const Placed& row : placed_) ++arriving[row.tier];
  for (size_t tier = 0; tier < leaving_.size(); ++tier) {
    if (!leaving_[tier].empty()) head_.mutable_store(tier).Remove(leaving_[tier]);
    const size_t spare = tier == task_.config.incoming_tier() ? contest_.n_spare() : 0;
    head_.SetCapacity(tier, head_.store(tier).size() + arriving[tier] + spare);
  }
}

void RowMoves::Place() {
  std::vector<uint8_t> new_row;
  for (const Placed& row : placed_) {
    const Candidate& candidate = *row.candidate;
    const uint8_t* k_row = bytes_.data() + row.bytes_at;
    const float* own = stats_.data() + row.stats_at;
    if (candidate.is_new) {
      new_row.resize(KvBytes(row.tier));
      plan_.reader().Encode(candidate, row.tier, k_, v_, new_row.data());
      k_row = new_row.data();
      if (const std::span<const float> shown = plan_.reader().Stats(candidate); !shown.empty()) {
        own = shown.data();
      }
    }
    head_.mutable_store(row.tier).Append({.k = k_row,
                                          .v = k_row + head_.layout(row.tier).k_bytes(),
                                          .index = candidate.index,
                                          .stats = own});
  }
}

}  // namespace

Compressor::Compressor(const CompressionTask& task) : task_(task) {
  for (size_t layer = 0; layer < task.config.shape().layers.size(); ++layer) {
    std::vector<LadderRung>& rungs = rungs_.emplace_back();
    const size_t head = task.config.head(layer, 0);
    for (size_t tier = 0; tier < task.config.n_rungs(); ++tier) {
      const RowLayout& layout = task.config.layout(head, tier);
      rungs.push_back({.bytes = layout.row_bytes(),
                       .error = kKeyShare * KeyError(layout.k_type) +
                                (1 - kKeyShare) * GaussianError(layout.v_type)});
    }
  }
}

RowOrder Compressor::Run() {
  const CacheConfig& config = task_.config;
  const double text_share =
      1.0 - static_cast<double>(task_.media.n_cells()) / static_cast<double>(task_.tokens_seen);
  const bool pooled =
      config.split() == Split::kPooled || (config.split() == Split::kAuto && text_share < 0.5);
  // Before the contest, because their bytes reduce the budget for rows.
  for (Head& head : task_.heads) {
    MakeMatrix(head);
    MakeCentre(head);
  }
  const RowOrder& order = task_.order;
  const Contest contest(task_, order.tokens_seen > 0 && order.pooled == pooled &&
                                   task_.tokens_seen - order.tokens_seen < kRestingTokens);
  const PlanContext context{.task = task_,
                            .contest = contest,
                            .rungs = rungs_,
                            .text_share = text_share,
                            .pooled = pooled};
  if (pooled) {
    std::vector<HeadPlan> plans(task_.heads.size());
    ForHeads(contest, [&](size_t i) { plans[i] = HeadPlan(context, task_.heads[i]); });
    const std::vector<uint64_t> shares = Distribute(contest, PooledWeights(context, plans));
    ForHeads(contest, [&](size_t i) {
      plans[i].Solve(shares[i]);
      Apply(contest, plans[i], task_.heads[i]);
      plans[i] = {};
    });
  } else {
    std::vector<uint64_t> weights;
    for (const Head& head : task_.heads) weights.push_back(rungs_[head.layer()].back().bytes);
    const std::vector<uint64_t> shares = Distribute(contest, weights);
    ForHeads(contest, [&](size_t i) {
      HeadPlan plan(context, task_.heads[i]);
      plan.Solve(shares[i]);
      Apply(contest, plan, task_.heads[i]);
    });
  }
  if (contest.rests()) return order;
  return {.tokens_seen = contest.orders() ? task_.tokens_seen : 0, .pooled = pooled};
}

void Compressor::MakeCentre(Head& head) const {
  const CacheConfig& config = task_.config;
  const LayerShape& shape = head.shape();
  const size_t n = head.n_tokens() + task_.n_new;
  if (!config.rotates() || config.n_rungs() == 1 || head.centre() != nullptr || n == 0 ||
      task_.budget < kCentreShare * CentreBytes(shape) * task_.heads.size() ||
      task_.budget < task_.min_budget_bytes() + CentreBytes(shape)) {
    return;
  }
  // Rows already on quantised rungs were coded without a centre.
  for (size_t tier = 0; tier < config.n_rungs(); ++tier) {
    if (config.rotated(tier) && head.store(tier).size() > 0) return;
  }
  const CandidateReader reader(task_, head);
  std::vector<float> k(shape.d_k), v(shape.d_v), k_mean(shape.d_k), v_mean(shape.d_v);
  const float share = 1.0f / static_cast<float>(n);
  for (const Candidate& candidate : GatherCandidates(task_, head, {})) {
    reader.Decode(candidate, k.data(), v.data());
    for (size_t e = 0; e < shape.d_k; ++e) k_mean[e] += share * k[e];
    for (size_t e = 0; e < shape.d_v; ++e) v_mean[e] += share * v[e];
  }
  head.SetCentre(k_mean.data(), v_mean.data());
}

void Compressor::MakeMatrix(Head& head) const {
  if (!task_.config.has_matrices() || !task_.absorbs_any() || head.matrix() != nullptr) return;
  const uint64_t bytes = MatrixBytes(head.shape());
  if (task_.budget < kMatrixShare * bytes * task_.heads.size() ||
      task_.budget < task_.min_budget_bytes() + bytes) {
    return;
  }
  head.MakeMatrix();
}

template <typename Work>
void Compressor::ForHeads(const Contest& contest, const Work& work) const {
  const size_t max = 1 + contest.n_candidates() / kRowsPerThread;
  ParallelFor(std::min(task_.n_threads, max), task_.heads.size(), work);
}

std::vector<uint64_t> Compressor::Distribute(const Contest& contest,
                                             std::span<const uint64_t> weights) {
  const std::span<const uint64_t> min_bytes = contest.min_bytes();
  std::vector<uint64_t> shares(min_bytes.begin(), min_bytes.end());
  std::vector<bool> has_min(shares.size());
  // Raising a head to its minimum lowers the others, so some of them may then need raising, too.
  for (bool lifts = true; lifts;) {
    lifts = false;
    uint64_t room = contest.rows_budget();
    double sum = 0;
    for (size_t head = 0; head < shares.size(); ++head) {
      if (has_min[head]) {
        room -= std::min(room, shares[head]);
      } else {
        sum += static_cast<double>(weights[head]);
      }
    }
    for (size_t head = 0; head < shares.size(); ++head) {
      if (has_min[head]) continue;
      const double part = sum > 0 ? static_cast<double>(weights[head]) / sum : 0.0;
      shares[head] = static_cast<uint64_t>(static_cast<double>(room) * part);
      if (shares[head] >= min_bytes[head]) continue;
      shares[head] = min_bytes[head];
      has_min[head] = true;
      lifts = true;
    }
  }
  return shares;
}

std::vector<uint64_t> Compressor::PooledWeights(const PlanContext& context,
                                                std::vector<HeadPlan>& plans) const {
  std::vector<LadderItem> pooled;
  const auto pool = [&pooled, &plans] {
    pooled.clear();
    for (const HeadPlan& plan : plans) {
      pooled.insert(pooled.end(), plan.items().begin(), plan.items().end());
    }
  };
  if (!task_.config.policy().info->scores_are_errors) {
    pool();
    RanksToErrors(pooled);
    auto next = pooled.begin();
    for (HeadPlan& plan : plans) {
      std::copy_n(next, plan.items().size(), plan.items().begin());
      next += static_cast<ptrdiff_t>(plan.items().size());
      plan.WeighKept();
    }
  }
  pool();
  uint64_t budget = context.contest.rows_budget();
  for (size_t i = 0; i < plans.size(); ++i) {
    const uint64_t taken = context.contest.SpareBytes(task_.heads[i]) + plans[i].StayingBytes();
    budget -= std::min(budget, taken);
  }
  LadderSolver(rungs_, pooled).Solve(budget, pooled);
  std::vector<uint64_t> weights;
  std::span<const LadderItem> rest = pooled;
  for (const HeadPlan& plan : plans) {
    weights.push_back(plan.PlannedBytes(rest.first(plan.items().size())));
    rest = rest.subspan(plan.items().size());
  }
  return weights;
}

void Compressor::Apply(const Contest& contest, HeadPlan& plan, Head& head) const {
  RowMoves moves(task_, contest, plan, head);
  Forgotten forgotten = moves.Collect();
  const AbsorbChoice& absorb = task_.config.absorb();
  if (absorb.has_states() && !forgotten.tokens.empty()) plan.EnsureMetric();
  moves.Resize();
  moves.Place();
  AbsorberOf(absorb.kind).Take(task_, plan, std::move(forgotten), head);
}

}  // namespace rkv
