// The states of a head, as sums and as stored rows.
#ifndef RETENTIVEKV_CACHE_STATE_ROWS_H_
#define RETENTIVEKV_CACHE_STATE_ROWS_H_

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "cache/row_codec.h"
#include "rows/states.h"

namespace rkv {

std::vector<StateSums> LoadStates(const Head& head, const RowCodec& codec);

// `same_as`: for each unchanged state, its place among the old states; else kChanged. An unchanged
// state keeps its row, without another rounding.
inline constexpr uint32_t kChanged = std::numeric_limits<uint32_t>::max();
void StoreStates(Head& head, const RowCodec& codec, const std::vector<StateSums>& states,
                 std::span<const uint32_t> same_as);

}  // namespace rkv

#endif  // RETENTIVEKV_CACHE_STATE_ROWS_H_
