#include "cache/compressor.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <memory>
#include <numeric>

#include "base/clock.h"
#include "base/f16.h"
#include "base/parallel.h"
#include "kernels/distance.h"
#include "policies/score_math.h"

namespace rkv {

namespace {

// Sinks and the window are at least this much more precise than an average token of their head, as
// long as no token has to be forgotten for it.
constexpr double kKeepWeight = 64.0;

// A centre is worth its bytes where they are at most this share of a head's.
constexpr uint64_t kCentreShare = 16;

// A matrix likewise.
constexpr uint64_t kMatrixShare = 4;

// Tokens per head that stand for all on the lowest rung, and for those of it that rest.
constexpr size_t kSampledRows = 128;
constexpr size_t kSampledResting = 64;

// While an answer grows, most rows on the lowest rung rest: only the last ones compete, which were
// the least worth keeping when all did. After so many tokens all do again, which orders them anew.
constexpr size_t kCompetingRows = 128;
constexpr uint64_t kRestingTokens = 1024;

// A thread costs about as much as some hundred of them do.
constexpr size_t kRowsPerThread = 1024;

// Spare rows are steps of decoding between two compressions. A sixteenth of the budget goes there,
// and where that is few and the ladder has to be solved each time, up to twice as much: few tokens
// are compressed nearly as slowly as many.
constexpr uint64_t kSpareShare = 16;
constexpr uint64_t kFewSpareRows = 48;

// Errors from scores of which only the order counts: by rank.
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

}  // namespace

// Candidates as a policy reads them: time and again, so while an answer grows they stay decoded,
// which a prompt's have no room for.
class Compressor::CandidateRows : public TokenRows {
 public:
  CandidateRows(const Compressor& compressor, size_t head, const HeadPlan& plan)
      : compressor_(compressor),
        head_(head),
        plan_(plan),
        d_k_(compressor.config_.layer_shape(head).d_k),
        d_(d_k_ + compressor.config_.layer_shape(head).d_v),
        is_decoded_(compressor.rests_ ? std::min(plan.candidates.size(), kMaxDecoded) : 0) {}

  void Read(size_t i, float* key, float* value) const override {
    if (i >= is_decoded_.size()) return Decode(i, key, value);
    if (decoded_ == nullptr) {
      decoded_ = std::make_unique_for_overwrite<float[]>(is_decoded_.size() * d_);
    }
    float* row = decoded_.get() + i * d_;
    if (!is_decoded_[i]) Decode(i, row, row + d_k_);
    is_decoded_[i] = true;
    if (key != nullptr) std::copy_n(row, d_k_, key);
    if (value != nullptr) std::copy(row + d_k_, row + d_, value);
  }

 private:
  static constexpr size_t kMaxDecoded = 512;  // The first so many.

  void Decode(size_t i, float* key, float* value) const {
    compressor_.Decode(head_, plan_.codec, plan_.candidates[i], key, value);
  }

  const Compressor& compressor_;
  size_t head_;
  const HeadPlan& plan_;
  size_t d_k_;
  size_t d_;
  mutable std::vector<bool> is_decoded_;
  mutable std::unique_ptr<float[]> decoded_;  // [candidates, d], once any has been read
};

Compressor::Compressor(KvCache::Impl& cache, uint64_t budget)
    : cache_(cache), config_(cache.config()), budget_(budget) {
  const uint64_t tokens = budget / std::max<size_t>(1, config_.shape().full_token_bytes());
  const size_t incoming = config_.incoming_tier();
  const uint64_t rows = tokens * config_.layout(0, 0).row_bytes() /
                        (kSpareShare * config_.layout(0, incoming).row_bytes());
  const uint64_t few = incoming > 0 ? std::min(2 * rows, kFewSpareRows) : 0;
  max_spare_ = std::clamp(rows, few, kMaxSpareRows);
  for (size_t layer = 0; layer < config_.shape().layers.size(); ++layer) {
    std::vector<LadderRung>& rungs = shapes_.emplace_back();
    const size_t head = config_.head(layer, 0);
    for (size_t tier = 0; tier < config_.n_rungs(); ++tier) {
      const RowLayout& layout = config_.layout(head, tier);
      rungs.push_back(
          {.bytes = layout.row_bytes(),
           .error = 0.5 * (GaussianError(layout.k_type) + GaussianError(layout.v_type))});
    }
  }
}

void Compressor::Run(size_t n_new) {
  const Stopwatch clock;
  n_new_ = n_new;
  uint64_t n_media = 0;
  for (const MediaSpan& span : cache_.media()) n_media += span.n_tokens();
  text_share_ = 1.0 - static_cast<double>(n_media) / static_cast<double>(cache_.tokens_seen());
  pooled_ =
      config_.split() == Split::kPooled || (config_.split() == Split::kAuto && text_share_ < 0.5);
  // Before it is decided who stays, as their bytes are everybody's.
  for (size_t head = 0; head < config_.n_heads(); ++head) {
    MakeMatrix(head);
    MakeCentre(head);
  }
  const KvCache::Impl::Order& order = cache_.order_;
  Decide(order.tokens_seen > 0 && order.pooled == pooled_ &&
         cache_.tokens_seen() - order.tokens_seen < kRestingTokens);
  if (pooled_) {
    std::vector<HeadPlan> plans(config_.n_heads());
    ForHeads([this, &plans](size_t head) { plans[head] = Weigh(head); });
    const std::vector<uint64_t> shares = Distribute(PooledWeights(plans));
    ForHeads([this, &plans, &shares](size_t head) {
      Solve(head, plans[head], shares[head]);
      Apply(head, plans[head]);
      plans[head] = {};
    });
  } else {
    std::vector<uint64_t> weights;
    for (size_t head = 0; head < config_.n_heads(); ++head) {
      weights.push_back(shapes_[config_.layer_of(head)].back().bytes);
    }
    const std::vector<uint64_t> shares = Distribute(weights);
    ForHeads([this, &shares](size_t head) {
      HeadPlan plan = Weigh(head);
      Solve(head, plan, shares[head]);
      Apply(head, plan);
    });
  }
  if (!rests_) {
    cache_.order_ = {.tokens_seen = orders_ ? cache_.tokens_seen() : 0, .pooled = pooled_};
  }
  ++cache_.compressions_;
  cache_.compress_seconds_ += clock.Seconds();
}

void Compressor::Decide(bool may_rest) {
  const uint64_t least = MinBytes();
  const bool can_sample = !config_.needs().all_tokens;
  room_ = std::min(1.0, static_cast<double>(budget_) / static_cast<double>(least));
  orders_ = can_sample && least > budget_;
  samples_ = can_sample && least <= budget_ && AllStay(budget_ - least);
  rests_ = orders_ && may_rest;
  if (FitsMinimum()) return;
  // Those who compete may not be enough, say where most must be kept.
  samples_ = false;
  rests_ = false;
  FitsMinimum();
}

bool Compressor::FitsMinimum() {
  const size_t n_heads = config_.n_heads();
  const size_t lowest = config_.n_rungs() - 1;
  n_candidates_ = 0;
  all_stay_ = false;
  for (size_t head = 0; head < n_heads; ++head) {
    n_candidates_ += CountCandidates(head);
    all_stay_ = all_stay_ || (samples_ && SampleOf(head, lowest).stride > 1);
  }
  const uint64_t fixed = cache_.FixedBytes();
  rows_budget_ = budget_ - std::min(budget_, fixed);
  min_bytes_.clear();
  uint64_t least = 0;
  uint64_t spare_bytes = 0;  // of one spare row per head
  for (size_t head = 0; head < n_heads; ++head) {
    least += min_bytes_.emplace_back(MustHoldBytes(head));
    spare_bytes += config_.layout(head, config_.incoming_tier()).row_bytes();
  }
  // Spare room comes after what must be kept.
  const uint64_t room = rows_budget_ - std::min(rows_budget_, least);
  for (spare_ = std::min<uint64_t>(max_spare_, room / spare_bytes); spare_ > 0; --spare_) {
    uint64_t taken = 0;  // with their tables
    for (size_t head = 0; head < n_heads; ++head) taken += SpareBytes(head);
    if (taken <= room) break;
  }
  for (size_t head = 0; head < n_heads; ++head) min_bytes_[head] += SpareBytes(head);
  return least <= rows_budget_;
}

uint64_t Compressor::SpareBytes(size_t head) const {
  return StoreBytesFor(spare_, config_.layout(head, config_.incoming_tier()));
}

uint64_t Compressor::MustHoldBytes(size_t head) const {
  const size_t n_tokens = CountTokens(head);
  const size_t lowest = config_.n_rungs() - 1;
  const Sample sample = SampleOf(head, lowest);
  const AlwaysKeep& keep = config_.policy().keep;
  const size_t n_kept = (sample.stride > 1 ? sample.n : 0) + keep.sinks + keep.window;
  uint64_t bytes = StoreBytesFor(all_stay_ ? n_tokens : std::min(n_tokens, n_kept),
                                 config_.layout(head, lowest));
  if (config_.absorb().has_states()) {
    const size_t tier = config_.state_tier();
    // Tokens that do not compete take no room from states. Where all stay, none is made.
    const size_t n_held = samples_ || rests_ ? cache_.store(head, tier).size() : 0;
    bytes += StoreBytesFor(std::max<size_t>(all_stay_ ? 0 : 1, n_held), config_.layout(head, tier));
  }
  return bytes;
}

template <typename Work>
void Compressor::ForHeads(const Work& work) const {
  const size_t most = 1 + n_candidates_ / kRowsPerThread;
  const size_t n_threads = cache_.transit_ == nullptr ? 1 : cache_.transit_->n_threads();
  ParallelFor(std::min(n_threads, most), config_.n_heads(), work);
}

std::vector<uint64_t> Compressor::Distribute(std::span<const uint64_t> weights) const {
  std::vector<uint64_t> shares(min_bytes_);
  std::vector<bool> at_least(shares.size());
  // Whoever is lifted to the least lowers the others, of whom some may have to be lifted, too.
  for (bool lifts = true; lifts;) {
    lifts = false;
    uint64_t room = rows_budget_;
    double sum = 0;
    for (size_t head = 0; head < shares.size(); ++head) {
      if (at_least[head]) {
        room -= std::min(room, shares[head]);
      } else {
        sum += static_cast<double>(weights[head]);
      }
    }
    for (size_t head = 0; head < shares.size(); ++head) {
      if (at_least[head]) continue;
      const double part = sum > 0 ? static_cast<double>(weights[head]) / sum : 0.0;
      shares[head] = static_cast<uint64_t>(static_cast<double>(room) * part);
      if (shares[head] >= min_bytes_[head]) continue;
      shares[head] = min_bytes_[head];
      at_least[head] = true;
      lifts = true;
    }
  }
  return shares;
}

std::vector<uint64_t> Compressor::PooledWeights(std::vector<HeadPlan>& plans) const {
  std::vector<LadderItem> pooled;
  const auto pool = [&pooled, &plans] {
    pooled.clear();
    for (const HeadPlan& plan : plans) {
      pooled.insert(pooled.end(), plan.items.begin(), plan.items.end());
    }
  };
  if (!config_.policy().info->scores_are_errors) {
    pool();
    RanksToErrors(pooled);
    auto next = pooled.begin();
    for (HeadPlan& plan : plans) {
      std::copy_n(next, plan.items.size(), plan.items.begin());
      next += static_cast<ptrdiff_t>(plan.items.size());
      WeighKept(plan);
    }
  }
  pool();
  uint64_t budget = rows_budget_;
  for (size_t head = 0; head < plans.size(); ++head) {
    budget -= std::min(budget, SpareBytes(head) + StayingBytes(head, plans[head]));
  }
  LadderSolver(shapes_, pooled).Solve(budget, pooled);
  std::vector<uint64_t> weights;
  std::span<const LadderItem> rest = pooled;
  for (size_t head = 0; head < plans.size(); ++head) {
    const size_t n = plans[head].items.size();
    weights.push_back(PlannedBytes(head, plans[head], rest.first(n)));
    rest = rest.subspan(n);
  }
  return weights;
}

bool Compressor::AllStay(uint64_t room) const {
  const AbsorbChoice& absorb = config_.absorb();
  if (!absorb.has_states()) return absorb.kind == AbsorbKind::kNone;
  uint64_t states = 0;
  bool any = false;
  for (size_t head = 0; head < config_.n_heads(); ++head) {
    any = any || cache_.store(head, config_.state_tier()).size() > 0;
    states += StoreBytesFor(1, config_.layout(head, config_.state_tier()));
  }
  if (!any) return true;
  if (absorb.share < 0) return false;  // They may take any part.
  states += static_cast<uint64_t>(absorb.share * static_cast<double>(budget_));
  return states <= room;
}

uint64_t Compressor::MinBytes() const {
  uint64_t bytes = cache_.FixedBytes();
  for (size_t head = 0; head < config_.n_heads(); ++head) {
    bytes += StoreBytesFor(cache_.tokens_seen(), config_.layout(head, config_.n_rungs() - 1));
  }
  return bytes;
}

Compressor::Sample Compressor::SampleOf(size_t head, size_t tier) const {
  if (tier + 1 != config_.n_rungs() || !(samples_ || rests_)) return {};
  size_t n = cache_.store(head, tier).size();
  if (rests_) n -= std::min(n, kCompetingRows);
  const size_t most = rests_ ? kSampledResting : kSampledRows;
  return {.n = n, .stride = std::max<size_t>(1, (n + most - 1) / most)};
}

size_t Compressor::CountTokens(size_t head) const {
  size_t n = n_new_;
  for (size_t tier = 0; tier < config_.n_rungs(); ++tier) n += cache_.store(head, tier).size();
  return n;
}

size_t Compressor::CountCandidates(size_t head) const {
  const Sample sample = SampleOf(head, config_.n_rungs() - 1);
  return CountTokens(head) - sample.n + sample.n_competing();
}

Compressor::HeadPlan Compressor::Weigh(size_t head) const {
  HeadPlan plan;
  plan.codec = RowCodec(cache_, head);
  Gather(head, plan);
  Score(head, plan);
  return plan;
}

void Compressor::Gather(size_t head, HeadPlan& plan) const {
  plan.candidates.reserve(CountCandidates(head));
  for (size_t tier = 0; tier < config_.n_rungs(); ++tier) {
    const RowStore& rows = cache_.store(head, tier);
    const Sample sample = SampleOf(head, tier);
    for (size_t slot = 0; slot < rows.size();) {
      const size_t stands_for =
          slot < sample.n ? std::min(sample.stride, sample.n - slot) : size_t{1};
      plan.candidates.push_back({.index = rows.index(slot),
                                 .slot = static_cast<uint32_t>(slot),
                                 .tier = static_cast<uint8_t>(tier),
                                 .stands_for = static_cast<uint16_t>(stands_for)});
      plan.n_staying += stands_for - 1;
      slot += stands_for;
    }
  }
  const uint64_t first_new = cache_.tokens_seen() - n_new_;
  for (uint32_t i = 0; i < n_new_; ++i) {
    plan.candidates.push_back(
        {.index = static_cast<uint32_t>(first_new + i), .slot = i, .is_new = true});
  }
  std::ranges::sort(plan.candidates, {}, &Candidate::index);
}

void Compressor::Decode(size_t head, const RowCodec& codec, const Candidate& candidate, float* k,
                        float* v) const {
  if (candidate.is_new) {
    Transit& transit = cache_.transit();
    codec.DecodeStaged(transit.key(head, candidate.slot), transit.value(head, candidate.slot), k,
                       v);
  } else {
    codec.DecodeStored(cache_.store(head, candidate.tier), config_.rotated(candidate.tier),
                       candidate.slot, k, v);
  }
}

std::span<const float> Compressor::Stats(size_t head, const Candidate& candidate) const {
  if (!candidate.is_new) return cache_.store(head, candidate.tier).stats(candidate.slot);
  const size_t n = config_.n_stats();
  return {cache_.transit().new_stats(head) + candidate.slot * n, n};
}

void Compressor::MakeCentre(size_t head) {
  const LayerShape& shape = config_.layer_shape(head);
  const size_t n = CountTokens(head);
  if (!config_.rotates() || config_.n_rungs() == 1 || cache_.centre(head) != nullptr || n == 0 ||
      budget_ < kCentreShare * CentreBytes(shape) * config_.n_heads() ||
      budget_ < cache_.min_budget_bytes() + CentreBytes(shape)) {
    return;
  }
  // What is on quantised rungs already was coded without a centre.
  for (size_t tier = 0; tier < config_.n_rungs(); ++tier) {
    if (config_.rotated(tier) && cache_.store(head, tier).size() > 0) return;
  }
  HeadPlan plan;
  plan.codec = RowCodec(cache_, head);
  Gather(head, plan);
  std::vector<float> k(shape.d_k), v(shape.d_v), k_mean(shape.d_k), v_mean(shape.d_v);
  const float share = 1.0f / static_cast<float>(n);
  for (const Candidate& candidate : plan.candidates) {
    Decode(head, plan.codec, candidate, k.data(), v.data());
    for (size_t e = 0; e < shape.d_k; ++e) k_mean[e] += share * k[e];
    for (size_t e = 0; e < shape.d_v; ++e) v_mean[e] += share * v[e];
  }
  auto centre = std::make_unique_for_overwrite<uint8_t[]>(CentreBytes(shape));
  EncodeRow(ElementType::kQ8_0, k_mean.data(), shape.d_k, centre.get());
  EncodeRow(ElementType::kQ8_0, v_mean.data(), shape.d_v,
            centre.get() + RowBytes(ElementType::kQ8_0, shape.d_k));
  cache_.centres_[head] = std::move(centre);
}

void Compressor::MakeMatrix(size_t head) {
  if (cache_.matrices_.empty() || cache_.matrices_[head] != nullptr) return;
  const LayerShape& shape = config_.layer_shape(head);
  if (budget_ < kMatrixShare * MatrixBytes(shape) * config_.n_heads() ||
      budget_ < cache_.min_budget_bytes() + MatrixBytes(shape)) {
    return;
  }
  cache_.matrices_[head] = std::make_unique<uint16_t[]>(MatrixElements(shape));
}

void Compressor::UpdateMatrix(size_t head, const RowCodec& codec,
                              const std::vector<StateSums>& points, const std::vector<size_t>& went,
                              double before, double retention) {
  const LayerShape& shape = config_.layer_shape(head);
  uint16_t* matrix = cache_.matrices_[head].get();
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

void Compressor::Score(size_t head, HeadPlan& plan) const {
  const std::span<const Candidate> candidates = plan.candidates;
  const size_t n = candidates.size();
  const LayerShape& shape = config_.layer_shape(head);
  const PolicyNeeds& needs = config_.needs();
  std::vector<uint32_t> indices(n);
  std::vector<TokenInfo> infos(n);
  for (size_t i = 0; i < n; ++i) {
    indices[i] = candidates[i].index;
    infos[i] = cache_.token_info(indices[i]);
  }
  const CandidateRows rows(*this, head, plan);
  ScoreContext context;
  context.layer = config_.layer_of(head);
  context.kv_head = config_.kv_head_of(head);
  context.tokens_seen = cache_.tokens_seen();
  context.token_index = indices;
  context.tokens = infos;
  context.rows = &rows;
  context.d_k = shape.d_k;
  context.d_v = shape.d_v;
  std::vector<float> stands_for;
  if (plan.n_staying > 0) {
    for (const Candidate& candidate : candidates) stands_for.push_back(candidate.stands_for);
    context.stands_for = stands_for;
  }
  std::vector<float> attention, entropy;
  if (config_.n_stats() > 0) {
    for (const Candidate& candidate : candidates) {
      const std::span<const float> stats = Stats(head, candidate);
      attention.push_back(stats.empty() ? 0.0f : stats[0]);
      if (needs.entropy) entropy.push_back(static_cast<float>(cache_.Entropy(stats)));
    }
    context.attention = attention;
    context.entropy = entropy;
  }
  context.room = room_;
  context.text_share = text_share_;
  plan.items.resize(n);
  const AlwaysKeep& keep = config_.policy().keep;
  for (size_t i = 0; i < n; ++i) {
    plan.items[i] = {.shape = static_cast<uint16_t>(config_.layer_of(head)),
                     .rung = candidates[i].tier,
                     .keep = indices[i] < keep.sinks ||
                             uint64_t{indices[i]} + keep.window >= cache_.tokens_seen()};
  }
  std::vector<float> scores(n);
  const bool are_errors = config_.policy().info->scores_are_errors;
  if (are_errors) {
    std::vector<float> precision_errors(n);
    config_.policy().policy->ScoreAll(context, scores, precision_errors);
    for (size_t i = 0; i < n; ++i) {
      plan.items[i].error = std::max(scores[i], 0.0f);
      plan.items[i].precision_error = std::max(precision_errors[i], 0.0f);
    }
  } else {
    config_.policy().policy->Score(context, scores);
    for (size_t i = 0; i < n; ++i) plan.items[i].error = scores[i];
    if (!pooled_) RanksToErrors(plan.items);
  }
  if (are_errors || !pooled_) WeighKept(plan);  // Else once ranks are known.
  if (NeedsMetric(head)) MeasureMetric(head, rows, plan);
}

void Compressor::WeighKept(HeadPlan& plan) const {
  double mean = 0;
  for (size_t i = 0; i < plan.items.size(); ++i) {
    mean += plan.candidates[i].stands_for * static_cast<double>(plan.items[i].precision_error);
  }
  mean /= static_cast<double>(std::max<size_t>(plan.items.size() + plan.n_staying, 1));
  const double least = std::pow(kKeepWeight, AttentionPart(room_, text_share_)) * mean;
  for (size_t i = 0; i < plan.items.size(); ++i) {
    LadderItem& item = plan.items[i];
    if (item.keep) item.precision_error = std::max(item.precision_error, static_cast<float>(least));
    // Others stay, too, where those on the lowest rung do.
    if (all_stay_ || plan.candidates[i].stands_for > 1) item.keep = true;
  }
}

uint64_t Compressor::StayingBytes(size_t head, const HeadPlan& plan) const {
  return plan.n_staying * shapes_[config_.layer_of(head)].back().bytes;
}

uint64_t Compressor::KeptBytes(const HeadPlan& plan) const {
  uint64_t bytes = 0;
  for (const LadderItem& item : plan.items) {
    if (item.keep) bytes += shapes_[item.shape].back().bytes;
  }
  return bytes;
}

uint64_t Compressor::PlannedBytes(size_t head, const HeadPlan& plan,
                                  std::span<const LadderItem> items) const {
  std::vector<size_t> rows(config_.n_rungs() + 1);
  for (const LadderItem& item : items) ++rows[item.rung];
  rows[config_.incoming_tier()] += spare_;
  rows[config_.n_rungs() - 1] += plan.n_staying;
  uint64_t bytes = 0;
  for (size_t tier = 0; tier < config_.n_rungs(); ++tier) {
    bytes += StoreBytesFor(rows[tier], config_.layout(head, tier));
  }
  if (config_.absorb().has_states()) {
    bytes += StoreBytesFor(plan.n_states, config_.layout(head, config_.state_tier()));
  }
  return bytes;
}

void Compressor::Solve(size_t head, HeadPlan& plan, uint64_t share) const {
  const LadderSolver solver(shapes_, plan.items);
  const uint64_t lowest_row = shapes_[config_.layer_of(head)].back().bytes;
  const uint64_t taken = sizeof(RowStore) + sizeof(void*) + StayingBytes(head, plan) +
                         spare_ * config_.layout(head, config_.incoming_tier()).row_bytes();
  uint64_t rows = share - std::min(share, taken);
  // What tables take depends on how many tiers and pages come into use: seen only afterwards.
  // The rows may have to shrink by one before it shows, so each round takes more.
  for (uint64_t round = 0; rows > 0; ++round) {
    SolveRows(head, plan, solver, rows);
    const uint64_t planned = PlannedBytes(head, plan, plan.items);
    if (planned <= share) return;
    rows -= std::min(rows, planned - share + round * lowest_row / 4);
  }
  SolveRows(head, plan, solver, 0);  // Only what must be kept.
}

void Compressor::SolveRows(size_t head, HeadPlan& plan, const LadderSolver& solver,
                           uint64_t budget) const {
  plan.n_states = 0;
  solver.Solve(budget, plan.items);
  if (!config_.absorb().has_states()) return;
  const size_t n_held = cache_.store(head, config_.state_tier()).size();
  const size_t n_rungs = config_.n_rungs();
  const auto forgotten = [n_rungs](const LadderItem& item) { return item.rung == n_rungs; };
  if (n_held == 0 && std::ranges::none_of(plan.items, forgotten)) return;
  const size_t row_bytes = config_.layout(head, config_.state_tier()).row_bytes();
  const double share = config_.absorb().share;
  const uint64_t kept = KeptBytes(plan);
  const size_t room = budget > kept ? (budget - kept) / row_bytes : 0;
  const auto solve_with = [&](size_t n_states) {
    // Where all tokens stay, so do states: AllStay() has counted them.
    n_states = std::min(n_states, std::max({room, size_t{1}, samples_ ? n_held : 0}));
    for (;;) {
      const uint64_t taken = n_states * row_bytes;
      solver.Solve(budget > taken ? budget - taken : 0, plan.items);
      // There are no more than what is forgotten makes: the rest is room for tokens.
      const auto n_forgotten = static_cast<size_t>(std::ranges::count_if(plan.items, forgotten));
      const size_t most = std::max<size_t>(n_held + n_forgotten, 1);
      if (n_states <= most) break;
      n_states = most;
    }
    plan.n_states = n_states;
  };
  const uint64_t whole = budget + StayingBytes(head, plan);  // of which states have their share
  if (share >= 0) {
    const auto limit = static_cast<size_t>(share * static_cast<double>(whole)) / row_bytes;
    return solve_with(share > 0 ? std::max<size_t>(limit, 1) : 0);
  }
  // As many as leave the least error: states displace tokens.
  const size_t most = std::min<size_t>(whole / row_bytes / 2, 64);
  size_t best = 0;
  double least = std::numeric_limits<double>::infinity();
  for (size_t n_states = 0; n_states <= most; n_states = n_states == 0 ? 1 : 2 * n_states) {
    solve_with(n_states);
    if (plan.n_states < n_states) break;  // More have no room, or nothing to remember.
    const double error = StateError(head, plan, n_states);
    if (error < least) {
      least = error;
      best = n_states;
    }
  }
  solve_with(best);
}

bool Compressor::NeedsMetric(size_t head) const {
  const AbsorbChoice& absorb = config_.absorb();
  return absorb.has_states() &&
         (room_ < 1 || absorb.share < 0 || cache_.store(head, config_.state_tier()).size() > 0);
}

void Compressor::MeasureMetric(size_t head, const CandidateRows& rows, HeadPlan& plan) const {
  const LayerShape& shape = config_.layer_shape(head);
  std::vector<float> k(shape.d_k), v(shape.d_v);
  StateSums all(shape.d_k, shape.d_v);
  double v_square = 0;
  for (size_t i = 0; i < plan.candidates.size(); ++i) {
    rows.Read(i, k.data(), v.data());
    const float count = plan.candidates[i].stands_for;
    all.Absorb(k, v, count);
    float norm = 0;
    SquaredNorms(v.data(), 1, v.size(), &norm);
    v_square += static_cast<double>(count * norm);
  }
  if (all.mass == 0) return;
  all.Means(k, v);
  v_square /= static_cast<double>(all.mass);
  for (const float x : v) v_square -= static_cast<double>(x) * static_cast<double>(x);
  v_square = std::max(v_square, 0.0);  // It rounds.
  const double k_square = static_cast<double>(all.Spread()) * static_cast<double>(shape.d_k);
  plan.metric = {.key_weight = k_square > 0 ? static_cast<float>(0.5 * v_square / k_square) : 0.0f,
                 .value_weight = 0.5f};
}

double Compressor::StateError(size_t head, const HeadPlan& plan, size_t n_states) const {
  const LayerShape& shape = config_.layer_shape(head);
  std::vector<StateSums> points = LoadStates(head, plan.codec);
  // What is lost of each point without a state; of what was absorbed before, all that a cluster
  // loses.
  std::vector<float> without(points.size(), std::numeric_limits<float>::infinity());
  std::vector<float> k(shape.d_k), v(shape.d_v);
  double error = 0;
  for (size_t i = 0; i < plan.items.size(); ++i) {
    const LadderItem& item = plan.items[i];
    if (item.rung < config_.n_rungs()) {
      error += static_cast<double>(item.error) * shapes_[item.shape][item.rung].error;
      continue;
    }
    Decode(head, plan.codec, plan.candidates[i], k.data(), v.data());
    points.push_back(StateSums::FromMeans(k, v, 1.0f, 0.0f));
    without.push_back(item.error);
  }
  if (points.empty()) return error;
  const std::vector<float> with =
      n_states == 0 ? without : ClusterErrors(points, n_states, plan.metric);
  for (size_t i = 0; i < with.size(); ++i) {
    error += static_cast<double>(std::min(with[i], without[i]));
  }
  return error;
}

void Compressor::Apply(size_t head, HeadPlan& plan) {
  const LayerShape& shape = config_.layer_shape(head);
  struct Placed {
    const Candidate* candidate = nullptr;
    uint8_t tier = 0;
    size_t bytes_at = 0;  // of what is held; new tokens are still in transit when they are placed
    size_t stats_at = 0;
    float error = 0;
  };
  std::vector<Placed> placed;
  std::vector<uint8_t> bytes;
  std::vector<float> stats(config_.n_stats());  // zeros, then those of `placed`
  std::vector<StateSums> forgotten;
  std::vector<std::vector<uint32_t>> leaving(config_.n_rungs());
  std::vector<float> k(shape.d_k), v(shape.d_v);
  const size_t n_rungs = config_.n_rungs();
  const bool remembers = config_.absorb().kind != AbsorbKind::kNone;
  const auto kv_bytes = [&](size_t rung) {
    return config_.layout(head, rung).k_bytes() + config_.layout(head, rung).v_bytes();
  };
  // As K and V of a rung, one after the other.
  const auto encode = [&](const Candidate& candidate, size_t rung, uint8_t* row) {
    const RowLayout& layout = config_.layout(head, rung);
    uint8_t* v_row = row + layout.k_bytes();
    if (!candidate.is_new && candidate.tier == rung) {
      const RowView held = cache_.store(head, rung).row(candidate.slot);
      std::memcpy(row, held.k, layout.k_bytes());
      std::memcpy(v_row, held.v, layout.v_bytes());
    } else if (candidate.is_new && layout.k_type == ElementType::kF16 &&
               layout.v_type == ElementType::kF16 && !config_.rotated(rung)) {
      Transit& transit = cache_.transit();
      std::memcpy(row, transit.key(head, candidate.slot), layout.k_bytes());
      std::memcpy(v_row, transit.value(head, candidate.slot), layout.v_bytes());
    } else {
      Decode(head, plan.codec, candidate, k.data(), v.data());
      plan.codec.Encode(layout, config_.rotated(rung), k.data(), v.data(), row, v_row);
    }
  };
  // While the forgotten are still where they were.
  const double entropy = config_.absorb().kappa != 0 ? ForgottenEntropy(head, plan) : 1.0;
  const double attention = config_.absorb().weigh != 0 ? MeanAttention(head, plan) : 0.0;
  for (size_t i = 0; i < plan.candidates.size(); ++i) {
    const Candidate& candidate = plan.candidates[i];
    const size_t rung = plan.items[i].rung;
    const bool stays = !candidate.is_new && rung == candidate.tier;
    const bool moves = orders_ && rung + 1 == n_rungs && candidate.stands_for == 1;
    if (stays && !moves) continue;
    if (!candidate.is_new) leaving[candidate.tier].push_back(candidate.slot);
    if (rung == n_rungs && !remembers) continue;
    if (rung == n_rungs) {
      Decode(head, plan.codec, candidate, k.data(), v.data());
      StateSums single(shape.d_k, shape.d_v);
      single.Absorb(k, v, AbsorbedShare(Stats(head, candidate), attention));
      single.index = candidate.index;
      forgotten.push_back(std::move(single));
      continue;
    }
    placed.push_back({.candidate = &candidate,
                      .tier = static_cast<uint8_t>(rung),
                      .error = plan.items[i].error});
    if (candidate.is_new) continue;
    placed.back().bytes_at = bytes.size();
    bytes.resize(bytes.size() + kv_bytes(rung));
    encode(candidate, rung, bytes.data() + placed.back().bytes_at);
    const std::span<const float> own = Stats(head, candidate);
    if (!own.empty()) placed.back().stats_at = stats.size();
    stats.insert(stats.end(), own.begin(), own.end());
  }
  if (config_.absorb().has_states() && !forgotten.empty() && !NeedsMetric(head)) {
    MeasureMetric(head, CandidateRows(*this, head, plan), plan);  // All nearly had room.
  }
  if (orders_) std::ranges::stable_sort(placed, std::greater{}, &Placed::error);
  std::vector<size_t> arriving(n_rungs);
  for (const Placed& row : placed) ++arriving[row.tier];
  for (size_t tier = 0; tier < n_rungs; ++tier) {
    if (!leaving[tier].empty()) cache_.mutable_store(head, tier).Remove(leaving[tier]);
    const size_t spare = tier == config_.incoming_tier() ? spare_ : 0;
    cache_.SetCapacity(head, tier, cache_.store(head, tier).size() + arriving[tier] + spare);
  }
  std::vector<uint8_t> new_row;
  for (const Placed& row : placed) {
    const Candidate& candidate = *row.candidate;
    const uint8_t* k_row = bytes.data() + row.bytes_at;
    const float* own = stats.data() + row.stats_at;
    if (candidate.is_new) {
      new_row.resize(kv_bytes(row.tier));
      encode(candidate, row.tier, new_row.data());
      k_row = new_row.data();
      if (const std::span<const float> shown = Stats(head, candidate); !shown.empty()) {
        own = shown.data();
      }
    }
    cache_.mutable_store(head, row.tier)
        .Append({.k = k_row,
                 .v = k_row + config_.layout(head, row.tier).k_bytes(),
                 .index = candidate.index,
                 .stats = own});
  }
  if (config_.absorb().kind == AbsorbKind::kMerge) {
    MergeIntoKept(head, plan.codec, forgotten);
  } else if (config_.absorb().has_states()) {
    Absorb(head, plan, std::move(forgotten), entropy);
  }
}

std::vector<StateSums> Compressor::LoadStates(size_t head, const RowCodec& codec) const {
  const RowStore& rows = cache_.store(head, config_.state_tier());
  const LayerShape& shape = config_.layer_shape(head);
  std::vector<float> k(shape.d_k), v(shape.d_v);
  std::vector<StateSums> states;
  for (size_t slot = 0; slot < rows.size(); ++slot) {
    codec.DecodeStored(rows, config_.rotated(config_.state_tier()), slot, k.data(), v.data());
    const RowView row = rows.row(slot);
    states.push_back(StateSums::FromMeans(k, v, std::exp(row.log_mass), row.spread));
    states.back().index = row.index;
  }
  return states;
}

void Compressor::StoreStates(size_t head, const RowCodec& codec,
                             const std::vector<StateSums>& states,
                             std::span<const uint32_t> same_as) {
  const LayerShape& shape = config_.layer_shape(head);
  const size_t tier = config_.state_tier();
  const RowLayout& layout = config_.layout(head, tier);
  if (states.empty()) return cache_.SetCapacity(head, tier, 0);
  RowStore rows(layout);
  rows.SetCapacity(states.size());
  std::vector<float> k(shape.d_k), v(shape.d_v);
  std::vector<uint8_t> k_row(layout.k_bytes()), v_row(layout.v_bytes());
  for (size_t i = 0; i < states.size(); ++i) {
    if (same_as[i] != kChanged) {
      rows.Append(cache_.store(head, tier).row(same_as[i]));
      continue;
    }
    const StateSums& state = states[i];
    state.Means(k, v);
    codec.Encode(layout, config_.rotated(tier), k.data(), v.data(), k_row.data(), v_row.data());
    rows.Append({.k = k_row.data(),
                 .v = v_row.data(),
                 .index = state.index,
                 .log_mass = std::log(state.mass),
                 .spread = state.Spread()});
  }
  cache_.mutable_store(head, tier) = std::move(rows);
}

void Compressor::Absorb(size_t head, const HeadPlan& plan, std::vector<StateSums> forgotten,
                        double entropy) {
  const size_t limit = plan.n_states;
  if (forgotten.empty() && limit >= cache_.store(head, config_.state_tier()).size()) return;
  std::vector<StateSums> states = LoadStates(head, plan.codec);
  double mass = 0;
  for (const StateSums& state : states) mass += static_cast<double>(state.mass);
  double retention = 1.0;
  if (config_.absorb().kappa != 0 && !forgotten.empty()) {
    // A state that has faded altogether is no state.
    retention = std::max(1.0 - config_.absorb().kappa * (1.0 - entropy), 1e-3);
    for (StateSums& state : states) state.Retain(static_cast<float>(retention));
  }
  std::vector<StateSums> points;  // for the matrix
  if (cache_.matrix(head) != nullptr) {
    points = states;
    points.insert(points.end(), forgotten.begin(), forgotten.end());
  }
  // Where tokens are, for those who trace it: by the roots of the states that have them.
  std::vector<uint32_t> roots_before;
  for (const StateSums& state : states) roots_before.push_back(state.index);
  std::vector<uint32_t> tokens;
  for (const StateSums& single : forgotten) tokens.push_back(single.index);
  std::vector<size_t> went;
  if (limit == 0) {
    states.clear();
  } else if (config_.absorb().kind == AbsorbKind::kClusters) {
    for (StateSums& single : forgotten) states.push_back(std::move(single));
    went = Cluster(states, limit, plan.metric);
  } else {
    const std::vector<size_t> placed = AbsorbByPlace(states, forgotten);
    const auto same_media = [](const void* context, uint32_t a, uint32_t b) {
      const auto* cache = static_cast<const KvCache::Impl*>(context);
      const TokenInfo x = cache->token_info(a);
      const TokenInfo y = cache->token_info(b);
      return x.modality == y.modality && x.media == y.media;
    };
    const std::vector<size_t> merged =
        MergeNeighbours(states, limit, plan.metric, same_media, &cache_);
    for (const size_t i : placed) went.push_back(merged[i]);
  }
  StoreStates(head, plan.codec, states, SameAs(went, roots_before.size(), states, retention));
  if (cache_.matrix(head) != nullptr) {
    UpdateMatrix(head, plan.codec, points, went, mass, retention);
  }
  if (cache_.tracing()) TraceRoots(head, roots_before, tokens, states, went);
}

std::vector<uint32_t> Compressor::SameAs(std::span<const size_t> went, size_t n_before,
                                         const std::vector<StateSums>& states, double retention) {
  std::vector<uint32_t> same_as(states.size(), kChanged);
  if (retention != 1.0) return same_as;
  std::vector<uint32_t> n_points(states.size());
  for (const size_t state : went) ++n_points[state];
  for (uint32_t i = 0; i < std::min(n_before, went.size()); ++i) {
    if (n_points[went[i]] == 1) same_as[went[i]] = i;
  }
  return same_as;
}

double Compressor::MeanAttention(size_t head, const HeadPlan& plan) const {
  double total = 0;
  for (const Candidate& candidate : plan.candidates) {
    const std::span<const float> stats = Stats(head, candidate);
    if (!stats.empty()) total += static_cast<double>(stats[0]);
  }
  return total / static_cast<double>(plan.candidates.size() + plan.n_staying);
}

float Compressor::AbsorbedShare(std::span<const float> stats, double mean_attention) {
  if (stats.empty() || mean_attention <= 0) return 1.0f;
  return std::max(static_cast<float>(static_cast<double>(stats[0]) / mean_attention), 1e-3f);
}

double Compressor::ForgottenEntropy(size_t head, const HeadPlan& plan) const {
  double sum = 0;
  size_t n = 0;
  for (size_t i = 0; i < plan.items.size(); ++i) {
    if (plan.items[i].rung < config_.n_rungs()) continue;
    sum += cache_.Entropy(Stats(head, plan.candidates[i]));
    ++n;
  }
  return n == 0 ? 1.0 : sum / static_cast<double>(n);
}

void Compressor::TraceRoots(size_t head, const std::vector<uint32_t>& roots_before,
                            const std::vector<uint32_t>& tokens,
                            const std::vector<StateSums>& states, const std::vector<size_t>& went) {
  std::vector<int64_t>& root = cache_.trace_->heads[head].root;
  root.resize(cache_.tokens_seen(), -1);
  const auto now = [&](size_t point) {
    return point < went.size() ? static_cast<int64_t>(states[went[point]].index) : -1;
  };
  // Shares go where the states went that took them.
  std::vector<float>& shares = cache_.trace_->heads[head].state_share;
  std::vector<float> shares_now(shares.size());
  for (size_t i = 0; i < roots_before.size(); ++i) {
    const int64_t to = now(i);
    if (to >= 0 && roots_before[i] < shares.size() && static_cast<size_t>(to) < shares.size()) {
      shares_now[static_cast<size_t>(to)] += shares[roots_before[i]];
    }
  }
  shares = std::move(shares_now);
  std::vector<int64_t> moved = root;
  for (size_t i = 0; i < root.size(); ++i) {
    const auto at = std::ranges::find(roots_before, root[i]);
    if (at != roots_before.end()) moved[i] = now(static_cast<size_t>(at - roots_before.begin()));
  }
  for (size_t i = 0; i < tokens.size(); ++i) moved[tokens[i]] = now(roots_before.size() + i);
  root = std::move(moved);
}

std::vector<size_t> Compressor::AbsorbByPlace(std::vector<StateSums>& states,
                                              std::vector<StateSums>& forgotten) const {
  std::vector<size_t> went(states.size());
  std::iota(went.begin(), went.end(), size_t{0});
  const auto n_roots = static_cast<double>(config_.absorb().roots);
  const auto segment = static_cast<uint32_t>(config_.absorb().segment);
  for (StateSums& single : forgotten) {
    const TokenInfo cell = cache_.token_info(single.index);
    uint32_t root = single.index;
    if (cell.modality == Modality::kImage) {
      // The grid is cut into about `roots` blocks; a block's middle cell is its root.
      const MediaSpan& span = cache_.media()[cell.media];
      const double side = std::sqrt(n_roots * span.rows / static_cast<double>(span.columns));
      const auto block_rows =
          static_cast<uint32_t>(std::clamp(std::round(side), 1.0, static_cast<double>(span.rows)));
      const auto block_columns = static_cast<uint32_t>(
          std::clamp(std::round(n_roots / block_rows), 1.0, static_cast<double>(span.columns)));
      const uint64_t row = uint64_t{cell.row} * block_rows / span.rows;
      const uint64_t column = uint64_t{cell.column} * block_columns / span.columns;
      const uint64_t root_row = (2 * row + 1) * span.rows / (2 * uint64_t{block_rows});
      const uint64_t root_column = (2 * column + 1) * span.columns / (2 * uint64_t{block_columns});
      root = static_cast<uint32_t>(span.first_token + root_row * span.columns + root_column);
    } else {
      root = single.index / segment * segment;
      // A segment does not reach back into a picture.
      while (cache_.token_info(root).modality == Modality::kImage) ++root;
    }
    single.index = root;
    const auto same = std::ranges::find(states, root, &StateSums::index);
    went.push_back(static_cast<size_t>(same - states.begin()));
    if (same == states.end()) {
      states.push_back(std::move(single));
    } else {
      same->Merge(single);
      same->index = root;
    }
  }
  return went;
}

void Compressor::MergeIntoKept(size_t head, const RowCodec& codec,
                               const std::vector<StateSums>& forgotten) {
  const LayerShape& shape = config_.layer_shape(head);
  struct Kept {
    size_t tier = 0;
    size_t slot = 0;
    std::vector<float> k = {}, v = {}, k_merged = {}, v_merged = {};
    float norm = 0;
    float n = 0;
  };
  const auto norm = [](const std::vector<float>& x) {
    float sum = 0;
    for (const float e : x) sum += e * e;
    return std::sqrt(sum);
  };
  if (forgotten.empty()) return;
  std::vector<Kept> kept;
  for (size_t tier = 0; tier < config_.n_rungs(); ++tier) {
    const RowStore& rows = cache_.store(head, tier);
    for (size_t slot = 0; slot < rows.size(); ++slot) {
      Kept& row = kept.emplace_back(Kept{.tier = tier, .slot = slot});
      row.k.resize(shape.d_k);
      row.v.resize(shape.d_v);
      codec.DecodeStored(rows, config_.rotated(tier), slot, row.k.data(), row.v.data());
      row.norm = norm(row.k);
    }
  }
  if (kept.empty()) return;
  // The evicted token and its pivot meet in the middle; a pivot of several becomes their mean.
  for (const StateSums& single : forgotten) {
    Kept* pivot = nullptr;
    float most = -std::numeric_limits<float>::infinity();
    for (Kept& row : kept) {
      float dot = 0;
      for (size_t e = 0; e < shape.d_k; ++e) dot += row.k[e] * single.key_sum[e];
      const float cosine = row.norm > 0 ? dot / row.norm : 0.0f;
      if (cosine > most) {
        most = cosine;
        pivot = &row;
      }
    }
    if (pivot == nullptr) continue;  // Keys that are no numbers are like none.
    if (pivot->n == 0) {
      pivot->k_merged = pivot->k;
      pivot->v_merged = pivot->v;
      pivot->n = 1;
    }
    for (size_t e = 0; e < shape.d_k; ++e) {
      pivot->k_merged[e] += 0.5f * (single.key_sum[e] + pivot->k[e]);
    }
    for (size_t e = 0; e < shape.d_v; ++e) {
      pivot->v_merged[e] += 0.5f * (single.value_sum[e] + pivot->v[e]);
    }
    pivot->n += 1;
  }
  for (Kept& row : kept) {
    if (row.n == 0) continue;
    for (float& e : row.k_merged) e /= row.n;
    for (float& e : row.v_merged) e /= row.n;
    const RowLayout& layout = config_.layout(head, row.tier);
    std::vector<uint8_t> k_row(layout.k_bytes()), v_row(layout.v_bytes());
    codec.Encode(layout, config_.rotated(row.tier), row.k_merged.data(), row.v_merged.data(),
                 k_row.data(), v_row.data());
    cache_.mutable_store(head, row.tier).SetKeyAndValue(row.slot, k_row.data(), v_row.data());
  }
}

}  // namespace rkv
