// Inspection and tracing of a KvCache.
#include "retentivekv/inspect.h"

#include <algorithm>
#include <cmath>

#include "cache/kv_cache_impl.h"

namespace rkv {

void Trace::Head::Truncate(size_t n) {
  root.resize(std::min(root.size(), n));
  for (int64_t& x : root) x = std::min(x, static_cast<int64_t>(n) - 1);
  share.resize(std::min(share.size(), n));
  for (size_t i = n; i < state_share.size() && n > 0; ++i) state_share[n - 1] += state_share[i];
  state_share.resize(std::min(state_share.size(), n));
}

void Trace::Truncate(size_t n, size_t n_cells) {
  for (Head& head : heads) head.Truncate(n);
  while (!answer.empty() && answer.back().token > n) answer.pop_back();
  for (AnswerTokenInspection& chosen : answer) {
    chosen.read.resize(std::min(chosen.read.size(), n_cells));
    for (uint32_t& root : chosen.reactivated) root = std::min(root, static_cast<uint32_t>(n) - 1);
  }
}

void KvCache::Impl::StartTracing() {
  if (trace_ != nullptr) return;
  trace_ = std::make_unique<Trace>();
  trace_->heads.resize(heads_.size());
}

void KvCache::Impl::BeginAnswer() {
  if (trace_ == nullptr) return;
  trace_->answer_tokens = 0;
  trace_->answer.clear();
  for (Trace::Head& head : trace_->heads) {
    head.share.clear();
    head.state_share.clear();
  }
}

void KvCache::Impl::TraceShares() {
  if (trace_ == nullptr || !buffers_->observations.traces()) return;
  ++trace_->answer_tokens;
  const size_t n_tokens = tokens_seen_ + append_.n;
  // A root may be a cell of a picture whose tokens have not come yet.
  std::vector<float> read(std::max<uint64_t>(
      n_tokens, media_.end()));  // summed over all heads; shares of states at their roots
  AnswerTokenInspection chosen;
  chosen.token = n_tokens;
  for (size_t head = 0; head < config_->n_heads(); ++head) {
    Trace::Head& traced = trace_->heads[head];
    traced.share.resize(n_tokens);
    traced.state_share.resize(read.size());
    const std::vector<float>& weights = buffers_->observations.head(head).traced;
    size_t column = 0;
    heads_[head].VisitRows([&](size_t tier, size_t slot) {
      const bool state = config_->absorb().has_states() && tier == config_->state_tier();
      const uint32_t token = heads_[head].store(tier).index(slot);
      const float share = weights[column++];
      (state ? traced.state_share : traced.share)[token] += share;
      read[token] += share;
      if (state && share > kReactivationShare) chosen.reactivated.push_back(token);
    });
    for (size_t token = tokens_seen_; token < n_tokens; ++token) {
      traced.share[token] += weights[column];
      read[token] += weights[column++];
    }
  }
  for (const MediaSpan& span : media_.spans()) {
    for (size_t i = 0; i < span.n_tokens(); ++i) {
      chosen.read.push_back(read[span.first_token + i] / static_cast<float>(config_->n_heads()));
    }
  }
  std::ranges::sort(chosen.reactivated);
  const auto again = std::ranges::unique(chosen.reactivated);
  chosen.reactivated.erase(again.begin(), again.end());
  if (trace_->answer.size() == Inspection::kMaxAnswer) trace_->answer.pop_front();
  trace_->answer.push_back(std::move(chosen));
}

Inspection KvCache::Impl::Inspect() const {
  Inspection inspection;
  inspection.shape = shape();
  inspection.stats = stats();
  inspection.media.assign(media_.spans().begin(), media_.spans().end());
  for (size_t tier = 0; tier < config_->n_rungs(); ++tier) {
    const RowLayout& layout = config_->layout(0, tier);
    inspection.rungs.push_back({.k = layout.k_type, .v = layout.v_type});
  }
  const double n = trace_ == nullptr ? 0 : static_cast<double>(trace_->answer_tokens);
  if (trace_ != nullptr) {
    inspection.answer_tokens = trace_->answer_tokens;
    inspection.answer.assign(trace_->answer.begin(), trace_->answer.end());
  }
  // Pictures may have been added since.
  for (AnswerTokenInspection& chosen : inspection.answer) chosen.read.resize(media_.n_cells());
  const auto mean = [n](const std::vector<float>& sums, size_t i) {
    return i < sums.size() && n > 0 ? static_cast<float>(static_cast<double>(sums[i]) / n) : 0.0f;
  };
  for (const Head& head : heads_) {
    HeadInspection& out = inspection.heads.emplace_back();
    out.layer = head.layer();
    out.kv_head = config_->kv_head_of(head.number());
    out.rung.assign(tokens_seen_, HeadInspection::kForgotten);
    out.root.assign(tokens_seen_, -1);
    out.share.assign(tokens_seen_, 0.0f);
    const Trace::Head* traced = trace_ == nullptr ? nullptr : &trace_->heads[head.number()];
    for (size_t tier = 0; tier < config_->n_rungs(); ++tier) {
      const RowStore& rows = head.store(tier);
      for (size_t slot = 0; slot < rows.size(); ++slot) {
        out.rung[rows.index(slot)] = static_cast<uint8_t>(tier);
      }
    }
    for (size_t i = 0; traced != nullptr && i < tokens_seen_; ++i) {
      out.share[i] = mean(traced->share, i);
      if (out.rung[i] == HeadInspection::kForgotten && i < traced->root.size()) {
        out.root[i] = traced->root[i];
      }
    }
    if (!config_->absorb().has_states()) continue;
    const RowStore& states = head.states();
    for (size_t slot = 0; slot < states.size(); ++slot) {
      const RowView row = states.row(slot);
      out.states.push_back(
          {.root = row.index,
           .mass = std::exp(row.log_mass),
           .share = traced == nullptr ? 0.0f : mean(traced->state_share, row.index)});
    }
  }
  return inspection;
}

}  // namespace rkv
