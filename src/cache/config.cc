// Checks of shape and options, and the tables of heads, tiers and layouts that follow from them.
// A config never changes after Create().
#include "cache/config.h"

#include <fmt/format.h>

#include <algorithm>

#include "cache/byte_count.h"

namespace rkv {

namespace {

// Maximum GaussianError() of nearly exact rows.
constexpr double kIncomingError = 1e-4;

// Measured on real weights (docs/decisions/016-bits-of-keys-and-values.md). Keys of at most one
// block have no second half that could do with fewer bits.
Ladder AutoLadder(const CacheShape& shape) {
  const bool has_halves = std::ranges::any_of(
      shape.layers, [](const LayerShape& layer) { return BlocksOf(layer.d_k) > 1; });
  return *ParseLadder(has_halves ? "f16,q8_0,q4,q42/q3,q41/q2" : "f16,q8_0,q4_0,q2");
}

Status CheckShape(const CacheShape& shape) {
  if (shape.layers.empty()) return InvalidArgument("the model has no attention layers");
  for (const LayerShape& layer : shape.layers) {
    if (layer.n_kv_head == 0 || layer.n_head % layer.n_kv_head != 0 || layer.d_k == 0 ||
        layer.d_v == 0) {
      return InvalidArgument(
          fmt::format("{} query heads cannot share {} KV heads of {} + {} elements", layer.n_head,
                      layer.n_kv_head, layer.d_k, layer.d_v));
    }
  }
  return OkStatus();
}

}  // namespace

Result<std::shared_ptr<const CacheConfig>> CacheConfig::Create(const CacheShape& shape,
                                                               const CacheOptions& options) {
  RKV_RETURN_IF_ERROR(CheckShape(shape));
  const std::shared_ptr<CacheConfig> config(new CacheConfig);
  config->shape_ = shape;
  config->options_ = options;
  config->options_.policy = ChosenPolicy(options);
  RKV_ASSIGN_OR_RETURN(config->policy_, MakePolicy(config->options_.policy));
  const PolicyInfo& info = *config->policy_.info;
  if (!info.evicts && !options.budget.unlimited()) {
    return InvalidArgument(
        fmt::format("policy '{}' keeps every token and cannot meet the budget {}; choose another "
                    "policy, such as retentive (the default with a budget), or leave the budget "
                    "out",
                    info.name, ToString(options.budget)));
  }
  config->needs_ = config->policy_.policy->needs();
  RKV_ASSIGN_OR_RETURN(const AbsorbSpec own_absorb, ParseAbsorbSpec(info.absorb));
  RKV_ASSIGN_OR_RETURN(config->absorb_, MakeAbsorb(options.absorb.value_or(own_absorb)));
  if (config->absorb_.kappa != 0 && !config->needs_.entropy) {
    return InvalidArgument(fmt::format(
        "states can fade by entropy (kappa) only with a policy that observes it, such as paper; "
        "'{}' does not",
        info.name));
  }
  if (config->absorb_.weigh != 0 && config->needs_.queries == PolicyNeeds::Queries::kNone) {
    return InvalidArgument(
        fmt::format("tokens can be absorbed by their attention (weigh) only with a policy that "
                    "observes it; '{}' "
                    "does not",
                    info.name));
  }
  config->split_ = options.split.value_or(info.split);
  if (config->split_ != Split::kUniform && !info.comparable) {
    return InvalidArgument(fmt::format(
        "the scores of policy '{}' cannot be compared between heads; use --split uniform",
        info.name));
  }
  if (config->needs_.queries != PolicyNeeds::Queries::kNone) {
    config->n_stats_ = config->needs_.entropy ? 2 : 1;
  }
  RKV_RETURN_IF_ERROR(config->MakeLayouts());
  return std::shared_ptr<const CacheConfig>(config);
}

Status CacheConfig::MakeLayouts() {
  const bool fixed = options_.type_k.has_value() || options_.type_v.has_value();
  if (fixed && options_.ladder.has_value()) {
    return InvalidArgument("a fixed cache type (-ctk, -ctv) and a ladder exclude each other");
  }
  Ladder ladder;
  if (fixed) {
    ladder.rungs = {{.k = options_.type_k.value_or(ElementType::kF16),
                     .v = options_.type_v.value_or(ElementType::kF16)}};
  } else if (options_.ladder.has_value()) {
    ladder = *options_.ladder;
  } else {
    RKV_ASSIGN_OR_RETURN(ladder, ParseLadder(policy_.info->ladder));
  }
  if (ladder.rungs.empty()) ladder = AutoLadder(shape_);
  n_rungs_ = ladder.rungs.size();
  const bool mixed_k = std::ranges::any_of(ladder.rungs, IsMixed, &Rung::k);
  const bool mixed_v = std::ranges::any_of(ladder.rungs, IsMixed, &Rung::v);
  elements_before_.push_back(0);
  for (size_t l = 0; l < shape_.layers.size(); ++l) {
    const LayerShape& layer = shape_.layers[l];
    first_head_.push_back(layer_of_head_.size());
    for (size_t h = 0; h < layer.n_kv_head; ++h) {
      layer_of_head_.push_back(l);
      elements_before_.push_back(elements_before_.back() + layer.d_k + layer.d_v);
    }
    bases_.emplace_back(mixed_k ? RowBasis(layer.d_k, shape_.rope) : RowBasis(layer.d_k),
                        mixed_v ? RowBasis(layer.d_v, RopeLayout()) : RowBasis(layer.d_v));
    RowLayout layout{.d_k = layer.d_k, .d_v = layer.d_v, .n_stats = n_stats_};
    for (const Rung& rung : ladder.rungs) {
      const bool lowest = layouts_.size() % n_tiers() + 1 == n_rungs_;
      layout.n_stats = lowest && !needs_.lowest_rung ? 0 : n_stats_;
      layout.k_type = rung.k;
      layout.v_type = rung.v;
      layouts_.push_back(layout);
    }
    layout.is_state = true;
    layout.n_stats = 0;
    if (absorb_.has_states()) layouts_.push_back(layout);
  }
  for (size_t head = 0; head < n_heads(); ++head) {
    head_ids_.push_back({.config = this, .number = head});
  }
  for (const RowLayout& layout : layouts_) empty_stores_.emplace_back(layout);
  rotates_ = rotated(n_rungs_ - 1);
  const auto as_good_as_exact = [this](size_t tier) {
    const RowLayout& layout = layouts_[tier];
    return std::max(GaussianError(layout.k_type), GaussianError(layout.v_type)) < kIncomingError;
  };
  // Not the lowest rung, which may lack statistics of attention.
  while (incoming_tier_ + 2 < n_rungs_ && as_good_as_exact(incoming_tier_ + 1)) ++incoming_tier_;
  return OkStatus();
}

uint64_t CacheConfig::MinRowBytes(size_t n_media) const {
  const AlwaysKeep& keep = policy_.keep;
  uint64_t bytes = 0;
  for (size_t head = 0; head < n_heads(); ++head) {
    bytes += StoreBytesFor(keep.sinks + keep.window, layout(head, n_rungs_ - 1));
    if (!absorb_.has_states()) continue;
    bytes += StoreBytesFor(std::max<size_t>(1, n_media), layout(head, state_tier()));
  }
  return bytes;
}

bool CacheConfig::rotated(size_t tier) const {
  const RowLayout& layout = layouts_[tier];
  return IsQuantized(layout.k_type) || IsQuantized(layout.v_type);
}

}  // namespace rkv
