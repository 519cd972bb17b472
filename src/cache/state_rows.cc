#include "cache/state_rows.h"

#include <cmath>

namespace rkv {

std::vector<StateSums> LoadStates(const Head& head, const RowCodec& codec) {
  const RowStore& rows = head.states();
  std::vector<float> k(head.shape().d_k), v(head.shape().d_v);
  std::vector<StateSums> states;
  for (size_t slot = 0; slot < rows.size(); ++slot) {
    codec.DecodeStored(head.config().state_tier(), slot, k.data(), v.data());
    const RowView row = rows.row(slot);
    states.push_back(StateSums::FromMeans(k, v, std::exp(row.log_mass), row.spread));
    states.back().index = row.index;
  }
  return states;
}

void StoreStates(Head& head, const RowCodec& codec, const std::vector<StateSums>& states,
                 std::span<const uint32_t> same_as) {
  const size_t tier = head.config().state_tier();
  const RowLayout& layout = head.layout(tier);
  if (states.empty()) return head.SetCapacity(tier, 0);
  RowStore rows(layout);
  rows.SetCapacity(states.size());
  std::vector<float> k(layout.d_k), v(layout.d_v);
  std::vector<uint8_t> k_row(layout.k_bytes()), v_row(layout.v_bytes());
  for (size_t i = 0; i < states.size(); ++i) {
    if (same_as[i] != kChanged) {
      rows.Append(head.states().row(same_as[i]));
      continue;
    }
    const StateSums& state = states[i];
    state.Means(k, v);
    codec.Encode(tier, k.data(), v.data(), k_row.data(), v_row.data());
    rows.Append({.k = k_row.data(),
                 .v = v_row.data(),
                 .index = state.index,
                 .log_mass = std::log(state.mass),
                 .spread = state.Spread()});
  }
  head.mutable_store(tier) = std::move(rows);
}

}  // namespace rkv
