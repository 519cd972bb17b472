// Plans one head: scores its candidates, and solves for rungs and states within the head's bytes.
// The head does not change meanwhile.
#include "cache/head_plan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/distance.h"
#include "policies/score_math.h"

namespace rkv {

namespace {

// Sinks and the window get at least this multiple of their head's mean error, as long as no token
// has to be forgotten for it.
constexpr double kKeepWeight = 64.0;

// Maximum candidates that stay decoded while an answer grows. For those of a prompt there is no
// room.
constexpr size_t kMaxDecoded = 512;

}  // namespace

void RanksToErrors(std::span<LadderItem> items) {
  std::vector<uint32_t> order(items.size());
  std::iota(order.begin(), order.end(), 0u);
  std::ranges::stable_sort(
      order, [items](uint32_t a, uint32_t b) { return items[a].error < items[b].error; });
  for (size_t rank = 0; rank < order.size(); ++rank) {
    LadderItem& item = items[order[rank]];
    item.error = static_cast<float>(rank + 1) / static_cast<float>(order.size());
    item.precision_error = item.error;
  }
}

HeadPlan::HeadPlan(const PlanContext& context, const Head& head)
    : context_(&context),
      head_(&head),
      candidates_(GatherCandidates(context.task, head, context.contest.SampleOf(head))),
      reader_(context.task, head) {
  for (const Candidate& candidate : candidates_) n_staying_ += candidate.stands_for - size_t{1};
  Score();
}

CandidateRows HeadPlan::Rows() const {
  return {reader_, candidates_, head_->shape(), context_->contest.rests() ? kMaxDecoded : 0};
}

void HeadPlan::Score() {
  const CompressionTask& task = context_->task;
  const CacheConfig& config = task.config;
  const size_t n = candidates_.size();
  std::vector<uint32_t> indices(n);
  std::vector<TokenInfo> infos(n);
  for (size_t i = 0; i < n; ++i) {
    indices[i] = candidates_[i].index;
    infos[i] = task.media.token_info(indices[i]);
  }
  std::vector<float> stands_for, attention, entropy, surprisal;
  for (const Candidate& candidate : candidates_) {
    if (n_staying_ > 0) stands_for.push_back(candidate.stands_for);
    if (!task.surprisals.empty()) surprisal.push_back(task.surprisals[candidate.index]);
    if (config.n_stats() == 0) continue;
    const std::span<const float> stats = reader_.Stats(candidate);
    attention.push_back(stats.empty() ? 0.0f : stats[0]);
    if (!config.needs().entropy) continue;
    entropy.push_back(static_cast<float>(AttentionEntropy(stats, task.observed_queries)));
  }
  const CandidateRows rows = Rows();
  const ScoreContext context{.layer = head_->layer(),
                             .kv_head = config.kv_head_of(head_->number()),
                             .tokens_seen = task.tokens_seen,
                             .room = context_->contest.room(),
                             .text_share = context_->text_share,
                             .token_index = indices,
                             .tokens = infos,
                             .stands_for = stands_for,
                             .rows = &rows,
                             .d_k = head_->shape().d_k,
                             .d_v = head_->shape().d_v,
                             .attention = attention,
                             .entropy = entropy,
                             .surprisal = surprisal};
  const AlwaysKeep& keep = config.policy().keep;
  items_.resize(n);
  for (size_t i = 0; i < n; ++i) {
    items_[i] = {
        .shape = static_cast<uint16_t>(head_->layer()),
        .rung = candidates_[i].tier,
        .keep = indices[i] < keep.sinks || uint64_t{indices[i]} + keep.window >= task.tokens_seen};
  }
  std::vector<float> scores(n);
  const bool are_errors = config.policy().info->scores_are_errors;
  if (are_errors) {
    std::vector<float> precision_errors(n);
    config.policy().policy->ScoreAll(context, scores, precision_errors);
    for (size_t i = 0; i < n; ++i) {
      items_[i].error = std::max(scores[i], 0.0f);
      items_[i].precision_error = std::max(precision_errors[i], 0.0f);
    }
  } else {
    config.policy().policy->Score(context, scores);
    for (size_t i = 0; i < n; ++i) items_[i].error = scores[i];
    if (!context_->pooled) RanksToErrors(items_);
  }
  if (are_errors || !context_->pooled) WeighKept();  // Else once ranks are known.
  if (NeedsMetric()) MeasureMetric(rows);
}

void HeadPlan::WeighKept() {
  double mean = 0;
  for (size_t i = 0; i < items_.size(); ++i) {
    mean += candidates_[i].stands_for * static_cast<double>(items_[i].precision_error);
  }
  mean /= static_cast<double>(std::max<size_t>(items_.size() + n_staying_, 1));
  const Contest& contest = context_->contest;
  const double min =
      std::pow(kKeepWeight, AttentionPart(contest.room(), context_->text_share)) * mean;
  for (size_t i = 0; i < items_.size(); ++i) {
    LadderItem& item = items_[i];
    if (item.keep) item.precision_error = std::max(item.precision_error, static_cast<float>(min));
    // If the tokens on the lowest rung stay, all others stay, too.
    if (contest.all_stay() || candidates_[i].stands_for > 1) item.keep = true;
  }
}

uint64_t HeadPlan::StayingBytes() const { return n_staying_ * LowestRowBytes(); }

uint64_t HeadPlan::PlannedBytes(std::span<const LadderItem> items) const {
  const CacheConfig& config = head_->config();
  std::vector<size_t> rows(config.n_rungs() + 1);
  for (const LadderItem& item : items) ++rows[item.rung];
  rows[config.incoming_tier()] += context_->contest.n_spare();
  rows[config.n_rungs() - 1] += n_staying_;
  uint64_t bytes = 0;
  for (size_t tier = 0; tier < config.n_rungs(); ++tier) {
    bytes += StoreBytesFor(rows[tier], head_->layout(tier));
  }
  if (config.absorb().has_states()) {
    bytes += StoreBytesFor(n_states_, head_->layout(config.state_tier()));
  }
  return bytes;
}

void HeadPlan::Solve(uint64_t share) {
  const LadderSolver solver(context_->rungs, items_);
  const size_t incoming = head_->config().incoming_tier();
  const uint64_t taken = sizeof(RowStore) + sizeof(void*) + StayingBytes() +
                         context_->contest.n_spare() * head_->layout(incoming).row_bytes();
  uint64_t rows = share - std::min(share, taken);
  // The bytes of tables depend on the used tiers and pages, which are known only afterwards.
  // Removing less than a row has no effect, so each round removes more.
  for (uint64_t round = 0; rows > 0; ++round) {
    SolveRows(solver, rows);
    const uint64_t planned = PlannedBytes(items_);
    if (planned <= share) return;
    rows -= std::min(rows, planned - share + round * LowestRowBytes() / 4);
  }
  SolveRows(solver, 0);  // Only tokens that must be kept.
}

size_t HeadPlan::CountAbsorbed() const {
  size_t n = 0;
  for (size_t i = 0; i < items_.size(); ++i) {
    if (IsForgotten(items_[i]) && context_->task.absorbs(candidates_[i].index)) ++n;
  }
  return n;
}

bool HeadPlan::IsForgotten(const LadderItem& item) const {
  return item.rung >= head_->config().n_rungs();
}

size_t HeadPlan::MaxStates(uint64_t budget) const {
  uint64_t kept = 0;
  for (const LadderItem& item : items_) {
    if (item.keep) kept += context_->rungs[item.shape].back().bytes;
  }
  const size_t row_bytes = head_->layout(head_->config().state_tier()).row_bytes();
  const size_t room = budget > kept ? (budget - kept) / row_bytes : 0;
  // If all tokens stay, so do states: Contest has counted them.
  const size_t n_held = context_->contest.samples() ? head_->n_states() : 0;
  return std::max({room, n_held, size_t{1}});
}

void HeadPlan::SolveWithStates(const LadderSolver& solver, uint64_t budget, size_t n_states) {
  const size_t row_bytes = head_->layout(head_->config().state_tier()).row_bytes();
  for (;;) {
    const uint64_t taken = n_states * row_bytes;
    solver.Solve(budget > taken ? budget - taken : 0, items_);
    // Absorbed tokens make at most one state each. The remaining room is for tokens.
    const size_t max = std::max<size_t>(head_->n_states() + CountAbsorbed(), 1);
    if (n_states <= max) break;
    n_states = max;
  }
  n_states_ = n_states;
}

void HeadPlan::SolveRows(const LadderSolver& solver, uint64_t budget) {
  const AbsorbChoice& absorb = head_->config().absorb();
  n_states_ = 0;
  solver.Solve(budget, items_);
  if (!absorb.has_states() || (head_->n_states() == 0 && CountAbsorbed() == 0)) return;
  const size_t row_bytes = head_->layout(head_->config().state_tier()).row_bytes();
  const size_t max_states = MaxStates(budget);
  // The states' share is relative to the bytes of what they absorb.
  const double absorbed = absorb.text != 0 ? 1.0 : 1.0 - context_->text_share;
  const auto whole = static_cast<uint64_t>(absorbed * static_cast<double>(budget + StayingBytes()));
  if (absorb.share >= 0) {
    const auto limit = static_cast<size_t>(absorb.share * static_cast<double>(whole)) / row_bytes;
    return SolveWithStates(solver, budget,
                           absorb.share > 0 ? std::clamp<size_t>(limit, 1, max_states) : 0);
  }
  // Search for the number of states with the minimum error: states displace tokens.
  const size_t max = std::min<size_t>({whole / row_bytes / 2, 64, max_states});
  size_t best = 0;
  double min = std::numeric_limits<double>::infinity();
  for (size_t n_states = 0; n_states <= max; n_states = n_states == 0 ? 1 : 2 * n_states) {
    SolveWithStates(solver, budget, n_states);
    if (n_states_ < n_states) break;  // There are no tokens for more states to absorb.
    const double error = StateError(n_states);
    if (error < min) {
      min = error;
      best = n_states;
    }
  }
  SolveWithStates(solver, budget, best);
}

bool HeadPlan::NeedsMetric() const {
  const AbsorbChoice& absorb = head_->config().absorb();
  if (!absorb.has_states()) return false;
  const bool may_absorb = context_->contest.room() < 1 || absorb.share < 0;
  return (may_absorb && context_->task.absorbs_any()) || head_->n_states() > 0;
}

void HeadPlan::MeasureMetric(const CandidateRows& rows) {
  const LayerShape& shape = head_->shape();
  std::vector<float> k(shape.d_k), v(shape.d_v);
  StateSums all(shape.d_k, shape.d_v);
  double v_square = 0;
  for (size_t i = 0; i < candidates_.size(); ++i) {
    rows.Read(i, k.data(), v.data());
    const float count = candidates_[i].stands_for;
    all.Absorb(k, v, count);
    float norm = 0;
    SquaredNorms(v.data(), 1, v.size(), &norm);
    v_square += static_cast<double>(count * norm);
  }
  if (all.mass == 0) return;
  all.Means(k, v);
  v_square /= static_cast<double>(all.mass);
  for (const float x : v) v_square -= static_cast<double>(x) * static_cast<double>(x);
  v_square = std::max(v_square, 0.0);  // Rounding can make it negative.
  const double k_square = static_cast<double>(all.Spread()) * static_cast<double>(shape.d_k);
  metric_ = {.key_weight = k_square > 0 ? static_cast<float>(0.5 * v_square / k_square) : 0.0f,
             .value_weight = 0.5f};
}

double HeadPlan::StateError(size_t n_states) const {
  const LayerShape& shape = head_->shape();
  std::vector<StateSums> points = LoadStates(*head_, reader_.codec());
  // The loss of each point without a state. Infinite for old states, so that a cluster's loss
  // counts in full.
  std::vector<float> without(points.size(), std::numeric_limits<float>::infinity());
  std::vector<float> k(shape.d_k), v(shape.d_v);
  double error = 0;
  for (size_t i = 0; i < items_.size(); ++i) {
    const LadderItem& item = items_[i];
    if (!IsForgotten(item)) {
      error += static_cast<double>(item.error) * context_->rungs[item.shape][item.rung].error;
      continue;
    }
    if (!context_->task.absorbs(candidates_[i].index)) {
      error += static_cast<double>(item.error);
      continue;
    }
    reader_.Decode(candidates_[i], k.data(), v.data());
    points.push_back(StateSums::FromMeans(k, v, 1.0f, 0.0f));
    without.push_back(item.error);
  }
  if (points.empty()) return error;
  const std::vector<float> with =
      n_states == 0 ? without : ClusterErrors(points, n_states, metric_);
  for (size_t i = 0; i < with.size(); ++i) {
    error += static_cast<double>(std::min(with[i], without[i]));
  }
  return error;
}

}  // namespace rkv
