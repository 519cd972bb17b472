// The input of one compression.
#ifndef RETENTIVEKV_CACHE_COMPRESSION_TASK_H_
#define RETENTIVEKV_CACHE_COMPRESSION_TASK_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "cache/config.h"
#include "cache/head.h"
#include "cache/media_table.h"
#include "cache/surprisal_table.h"
#include "cache/trace.h"
#include "cache/ubatch_buffers.h"

namespace rkv {

// The last compression that sorted all rows of the lowest rung by score.
struct RowOrder {
  uint64_t tokens_seen = 0;  // 0: the rows are not sorted
  bool pooled = false;       // that compression pooled the budget over heads
};

struct CompressionTask {
  const CacheConfig& config;
  std::span<Head> heads;
  const MediaTable& media;
  SurprisalScores surprisals;
  uint64_t tokens_seen = 0;  // the new ones included
  // The last tokens, which no head holds yet. Null buffers: no new tokens.
  size_t n_new = 0;
  const UbatchBuffers* buffers = nullptr;
  uint64_t budget = 0;       // target bytes
  uint64_t fixed_bytes = 0;  // of the cache, outside of heads
  RowOrder order;            // of the last compression
  double observed_queries = 0;
  size_t n_threads = 1;
  Trace* trace = nullptr;  // null: nothing is traced

  // Whether this token, or any, is absorbed when it is evicted.
  bool absorbs(uint32_t index) const {
    return config.absorb().text != 0 || media.token_info(index).modality != Modality::kText;
  }
  bool absorbs_any() const { return config.absorb().text != 0 || media.size() > 0; }

  // Bytes of the cache's and its heads' tables.
  uint64_t table_bytes() const { return fixed_bytes + TableBytes(heads); }
  // The minimum that the cache may be asked to fit into. It goes over all heads.
  uint64_t min_budget_bytes() const { return table_bytes() + config.MinRowBytes(media.size()); }
};

}  // namespace rkv

#endif  // RETENTIVEKV_CACHE_COMPRESSION_TASK_H_
