// Chooses the kind of competition, and the minimum bytes and spare rows of every head, within the
// budget for rows.
#include "cache/competition.h"

#include <algorithm>

namespace rkv {

namespace {

// Sampled tokens per head that stand for all of the lowest rung, and for its resting tokens.
constexpr size_t kSampledRows = 128;
constexpr size_t kSampledResting = 64;

// While an answer grows, most rows on the lowest rung rest. Only the last ones compete: those with
// the lowest scores when all competed.
constexpr size_t kCompetingRows = 128;

// Spare rows are steps of decoding between two compressions, and bytes that hold no token. They get
// a 64th of the budget. If that is few rows, they get up to a 32nd, or a 16th where the ladder has
// to be solved each time, because few tokens are compressed nearly as slowly as many.
constexpr uint64_t kSpareShare = 64;
constexpr uint64_t kFewSpareShare = 32;
constexpr uint64_t kFewSpareRows = 12;

uint64_t MaxSpareRows(const CompressionTask& task) {
  const CacheConfig& config = task.config;
  const uint64_t tokens = task.budget / std::max<size_t>(1, config.shape().full_token_bytes());
  const size_t incoming = config.incoming_tier();
  const uint64_t rows =
      tokens * config.layout(0, 0).row_bytes() / config.layout(0, incoming).row_bytes();
  const uint64_t few = std::min((incoming > 0 ? 2 : 1) * rows / kFewSpareShare, kFewSpareRows);
  return std::clamp(rows / kSpareShare, few, kMaxCompressedSpareRows);
}

}  // namespace

Contest::Contest(const CompressionTask& task, bool may_rest)
    : task_(task), max_spare_(MaxSpareRows(task)) {
  const uint64_t lowest = LowestRungBytes();
  room_ = std::min(1.0, static_cast<double>(task.budget) / static_cast<double>(lowest));
  const bool forgets = lowest > task.budget;
  if (!task.config.needs().all_tokens) {
    if (forgets) {
      kind_ = may_rest ? Competition::kResting : Competition::kOrdered;
    } else if (AllFit(task.budget - lowest)) {
      kind_ = Competition::kSampled;
    }
  }
  if (FitsMinimum()) return;
  // The competing tokens may not free enough bytes, for example if sinks and the window fill most
  // of a head. Then all compete.
  kind_ = orders() ? Competition::kOrdered : Competition::kEveryone;
  FitsMinimum();
}

uint64_t Contest::LowestRungBytes() const {
  uint64_t bytes = task_.table_bytes();
  for (const Head& head : task_.heads) {
    bytes += StoreBytesFor(task_.tokens_seen, head.lowest_layout());
  }
  return bytes;
}

bool Contest::AllFit(uint64_t room) const {
  const AbsorbChoice& absorb = task_.config.absorb();
  if (!absorb.has_states()) return absorb.kind == AbsorbKind::kNone;
  uint64_t states = 0;
  bool any = false;
  for (const Head& head : task_.heads) {
    any = any || head.n_states() > 0;
    states += StoreBytesFor(1, head.layout(task_.config.state_tier()));
  }
  if (!any) return true;
  if (absorb.share < 0) return false;  // The states may take any part.
  states += static_cast<uint64_t>(absorb.share * static_cast<double>(task_.budget));
  return states <= room;
}

bool Contest::FitsMinimum() {
  n_candidates_ = 0;
  bool any_sampled = false;
  for (const Head& head : task_.heads) {
    const Sample sample = SampleOf(head);
    n_candidates_ += CountCandidates(task_, head, sample);
    any_sampled = any_sampled || sample.stride > 1;
  }
  if (kind_ == Competition::kSampled && any_sampled) kind_ = Competition::kSampledAllStay;
  rows_budget_ = task_.budget - std::min(task_.budget, task_.table_bytes());
  min_bytes_.clear();
  uint64_t min = 0;
  uint64_t spare_bytes = 0;  // for one spare row per head
  for (const Head& head : task_.heads) {
    min += min_bytes_.emplace_back(MinBytes(head));
    spare_bytes += head.layout(task_.config.incoming_tier()).row_bytes();
  }
  // Rows that must be held have priority over spare rows.
  const uint64_t room = rows_budget_ - std::min(rows_budget_, min);
  for (n_spare_ = std::min<uint64_t>(max_spare_, room / spare_bytes); n_spare_ > 0; --n_spare_) {
    uint64_t taken = 0;  // with their tables
    for (const Head& head : task_.heads) taken += SpareBytes(head);
    if (taken <= room) break;
  }
  for (size_t i = 0; i < min_bytes_.size(); ++i) min_bytes_[i] += SpareBytes(task_.heads[i]);
  return min <= rows_budget_;
}

uint64_t Contest::SpareBytes(const Head& head) const {
  return StoreBytesFor(n_spare_, head.layout(task_.config.incoming_tier()));
}

uint64_t Contest::MinBytes(const Head& head) const {
  const size_t n_tokens = head.n_tokens() + task_.n_new;
  const Sample sample = SampleOf(head);
  const AlwaysKeep& keep = task_.config.policy().keep;
  const size_t n_kept = (sample.stride > 1 ? sample.n : 0) + keep.sinks + keep.window;
  uint64_t bytes =
      StoreBytesFor(all_stay() ? n_tokens : std::min(n_tokens, n_kept), head.lowest_layout());
  if (task_.config.absorb().has_states()) {
    // Tokens that do not compete take no room from states. If all stay, no state is made.
    const size_t n_held = samples() || rests() ? head.n_states() : 0;
    bytes += StoreBytesFor(std::max<size_t>(all_stay() ? 0 : 1, n_held),
                           head.layout(task_.config.state_tier()));
  }
  return bytes;
}

Sample Contest::SampleOf(const Head& head) const {
  if (!samples() && !rests()) return {};
  size_t n = head.store(task_.config.n_rungs() - 1).size();
  if (rests()) n -= std::min(n, kCompetingRows);
  const size_t max = rests() ? kSampledResting : kSampledRows;
  return {.n = n, .stride = std::max<size_t>(1, (n + max - 1) / max)};
}

}  // namespace rkv
