// Looking into a Memory.
#include "retentivekv/inspect.h"

#include <algorithm>
#include <cmath>

#include "cache/memory_impl.h"

namespace rkv {

void Trace::Head::Truncate(size_t n) {
  root.resize(std::min(root.size(), n));
  for (int64_t& x : root) x = std::min(x, static_cast<int64_t>(n) - 1);
  share.resize(std::min(share.size(), n));
  for (size_t i = n; i < state_share.size() && n > 0; ++i) state_share[n - 1] += state_share[i];
  state_share.resize(std::min(state_share.size(), n));
}

void Memory::Impl::StartTracing() {
  if (trace_ != nullptr) return;
  trace_ = std::make_unique<Trace>();
  trace_->heads.resize(config_->n_heads());
}

void Memory::Impl::BeginAnswer() {
  if (trace_ == nullptr) return;
  trace_->answer_tokens = 0;
  for (Trace::Head& head : trace_->heads) {
    head.share.clear();
    head.state_share.clear();
  }
}

void Memory::Impl::TraceShares() {
  if (trace_ == nullptr || !transit_->traces()) return;
  ++trace_->answer_tokens;
  for (size_t head = 0; head < config_->n_heads(); ++head) {
    Trace::Head& traced = trace_->heads[head];
    traced.share.resize(tokens_seen_ + transit_->n());
    // A root may be a cell of a picture that is yet to come.
    const uint64_t end = media_.empty() ? 0 : media_.back().first_token + media_.back().n_tokens();
    traced.state_share.resize(std::max(tokens_seen_ + transit_->n(), end));
    const std::vector<float>& weights = transit_->observation(head).traced;
    size_t column = 0;
    VisitRows(head, [&](size_t tier, size_t slot) {
      const bool state = config_->absorb().has_states() && tier == config_->state_tier();
      (state ? traced.state_share : traced.share)[store(head, tier).index(slot)] +=
          weights[column++];
    });
    for (size_t i = 0; i < transit_->n(); ++i) traced.share[tokens_seen_ + i] += weights[column++];
  }
}

Inspection Memory::Impl::Inspect() const {
  Inspection inspection;
  inspection.shape = shape();
  inspection.stats = stats();
  inspection.media = media_;
  for (size_t tier = 0; tier < config_->n_rungs(); ++tier) {
    inspection.rungs.push_back(config_->layout(0, tier).k_type);
  }
  const double n = trace_ == nullptr ? 0 : static_cast<double>(trace_->answer_tokens);
  inspection.answer_tokens = trace_ == nullptr ? 0 : trace_->answer_tokens;
  const auto mean = [n](const std::vector<float>& sums, size_t i) {
    return i < sums.size() && n > 0 ? static_cast<float>(static_cast<double>(sums[i]) / n) : 0.0f;
  };
  for (size_t head = 0; head < config_->n_heads(); ++head) {
    HeadInspection& out = inspection.heads.emplace_back();
    out.layer = config_->layer_of(head);
    out.kv_head = config_->kv_head_of(head);
    out.rung.assign(tokens_seen_, HeadInspection::kForgotten);
    out.root.assign(tokens_seen_, -1);
    out.share.assign(tokens_seen_, 0.0f);
    const Trace::Head* traced = trace_ == nullptr ? nullptr : &trace_->heads[head];
    for (size_t tier = 0; tier < config_->n_rungs(); ++tier) {
      const RowStore& rows = store(head, tier);
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
    const RowStore& states = store(head, config_->state_tier());
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
