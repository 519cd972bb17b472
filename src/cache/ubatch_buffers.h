// Buffers for decoding a ubatch, beside the cache. The decoder owns them and reuses them for every
// ubatch, so they are no part of a conversation's bytes.
#ifndef RETENTIVEKV_CACHE_UBATCH_BUFFERS_H_
#define RETENTIVEKV_CACHE_UBATCH_BUFFERS_H_

#include <cstdint>
#include <vector>

#include "cache/observations.h"
#include "cache/row_codec.h"
#include "cache/softmax_parts.h"
#include "cache/ubatch_rows.h"

namespace rkv {

struct UbatchBuffers {
  UbatchRows rows;
  SoftmaxParts parts;
  Observations observations;

  // [tokens of the ubatch + 1], the last one of the token that follows; NaN: unknown. Empty unless
  // PolicyNeeds::surprisal.
  std::vector<float> surprisals;

  // Scratch: one row of a head in each form, and a weight per column.
  RowCodec codec;
  std::vector<float> key, value;
  std::vector<uint8_t> encoded;
  std::vector<double> column_sums;
};

}  // namespace rkv

#endif  // RETENTIVEKV_CACHE_UBATCH_BUFFERS_H_
