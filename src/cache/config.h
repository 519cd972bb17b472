// The part of a cache that all conversations with the same model and options share.
#ifndef RETENTIVEKV_CACHE_CONFIG_H_
#define RETENTIVEKV_CACHE_CONFIG_H_

#include <memory>
#include <vector>

#include "cache/row_basis.h"
#include "policies/policy.h"
#include "retentivekv/kv_cache.h"
#include "rows/absorb.h"
#include "rows/row_store.h"

namespace rkv {

class CacheConfig;

// Identifies a Head within its model. All caches of a config share the ids.
struct HeadId {
  const CacheConfig* config = nullptr;
  size_t number = 0;  // among the heads of all layers
};

// Every KV head has one store per rung of the ladder, the most precise first, and one for states if
// the absorber has any. Heads of all layers are numbered through.
class CacheConfig {
 public:
  static Result<std::shared_ptr<const CacheConfig>> Create(const CacheShape& shape,
                                                           const CacheOptions& options);

  const CacheShape& shape() const { return shape_; }
  const CacheOptions& options() const { return options_; }
  const PolicyChoice& policy() const { return policy_; }
  const PolicyNeeds& needs() const { return needs_; }
  const AbsorbChoice& absorb() const { return absorb_; }
  Split split() const { return split_; }

  size_t n_rungs() const { return n_rungs_; }
  size_t n_tiers() const { return n_rungs_ + (absorb_.has_states() ? 1 : 0); }
  // Without states that are read additively.
  size_t n_attended_tiers() const { return absorb_.additive != 0 ? n_rungs_ : n_tiers(); }
  size_t state_tier() const { return n_rungs_; }
  size_t n_heads() const { return layer_of_head_.size(); }
  size_t head(size_t layer, size_t kv_head) const { return first_head_[layer] + kv_head; }
  size_t layer_of(size_t head) const { return layer_of_head_[head]; }
  size_t kv_head_of(size_t head) const { return head - first_head_[layer_of_head_[head]]; }
  const LayerShape& layer_shape(size_t head) const { return shape_.layers[layer_of_head_[head]]; }
  const HeadId& head_id(size_t head) const { return head_ids_[head]; }
  size_t group(size_t head) const { return layer_shape(head).n_head / layer_shape(head).n_kv_head; }
  const RowLayout& layout(size_t head, size_t tier) const {
    return layouts_[layer_of_head_[head] * n_tiers() + tier];
  }

  // Stands for stores without rows.
  const RowStore& empty_store(size_t head, size_t tier) const {
    return empty_stores_[layer_of_head_[head] * n_tiers() + tier];
  }

  // The tier where tokens of decoding wait for the next compression: the smallest nearly exact
  // rows.
  size_t incoming_tier() const { return incoming_tier_; }

  // Rows of this tier are kept rotated (kernels/element.h), so queries have to be rotated for them.
  bool rotated(size_t tier) const;
  // Tokens are compared, averaged and quantised in the rotated basis.
  bool rotates() const { return rotates_; }
  const RowBasis& k_basis(size_t layer) const { return bases_[layer].first; }
  const RowBasis& v_basis(size_t layer) const { return bases_[layer].second; }
  size_t n_stats() const { return n_stats_; }
  // Heads with states have a matrix, too.
  bool has_matrices() const { return absorb_.has_states() && absorb_.matrix != 0; }
  // Minimum bytes of all heads' rows: sinks, the window, and a state per picture or clip.
  uint64_t MinRowBytes(size_t n_media) const;

  // Elements of K and V of one token over all heads before `head`.
  size_t elements_before(size_t head) const { return elements_before_[head]; }
  size_t elements() const { return elements_before_.back(); }

 private:
  CacheConfig() = default;
  CacheConfig(const CacheConfig&) = delete;
  CacheConfig& operator=(const CacheConfig&) = delete;
  Status MakeLayouts();

  CacheShape shape_;
  CacheOptions options_;
  PolicyChoice policy_;
  PolicyNeeds needs_;
  AbsorbChoice absorb_;
  Split split_ = Split::kUniform;
  size_t n_rungs_ = 1;
  size_t n_stats_ = 0;
  size_t incoming_tier_ = 0;
  bool rotates_ = false;
  std::vector<size_t> first_head_;                    // [layer]
  std::vector<size_t> layer_of_head_;                 // [head]
  std::vector<HeadId> head_ids_;                      // [head]
  std::vector<RowLayout> layouts_;                    // [layer, tier]
  std::vector<RowStore> empty_stores_;                // [layer, tier]
  std::vector<std::pair<RowBasis, RowBasis>> bases_;  // [layer] of K and V
  std::vector<size_t> elements_before_;               // [head + 1]
};

}  // namespace rkv

#endif  // RETENTIVEKV_CACHE_CONFIG_H_
