// The scratch of an attention kernel, in parts.
#ifndef RETENTIVEKV_KERNELS_KERNEL_SCRATCH_H_
#define RETENTIVEKV_KERNELS_KERNEL_SCRATCH_H_

#include <cstddef>
#include <cstdint>

#include "kernels/attention.h"

namespace rkv {

// Maximum number of queries that share the registers in one pass over a block of rows.
inline constexpr size_t kTileQueries = 6;

// Queries of one pass, in the forms that the element types need.
struct QueryTile {
  size_t first = 0;  // of the call's queries
  size_t n = 0;
  const float* const* rows = nullptr;
  float* floats = nullptr;  // PackFloats()
  // PackTwoBytes() for q8_0, and PackBytes() for types of fewer bits.
  int32_t* codes16 = nullptr;
  float* steps16 = nullptr;
  int32_t* sums16 = nullptr;
  int32_t* codes8 = nullptr;  // four in each
  float* steps8 = nullptr;
  int32_t* sums8 = nullptr;
};

// Carves an array of floats, of Floats(), into parts aligned to 64 bytes.
struct KernelScratch {
  float* logits = nullptr;     // [kMaxQueryRows, kAttentionBlock]; later softmax weights
  float* steps = nullptr;      // [blocks, kAttentionBlock] of a quantised block of rows
  uint8_t* codes = nullptr;    // its keys, by UnpackBlocks()
  int32_t* starts = nullptr;   // [blocks, kTileQueries, 2] contributions of the codes' offset
  float* max_steps = nullptr;  // [blocks]
  float* weights = nullptr;    // [kTileQueries, kAttentionBlock] as shares of the largest
  int32_t* pairs = nullptr;    // [kTileQueries, kAttentionBlock / 2] of them times steps
  float* row = nullptr;        // [max(d_k, d_v)]
  float* acc = nullptr;        // [kMaxQueryRows, d_v] of the softmax before the call

  KernelScratch(float* memory, size_t d_k, size_t d_v) {
    at_ = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(memory) + 63) & ~uintptr_t{63});
    d_padded_ = Padded(d_k);
    const size_t n_blocks = Padded(d_k > d_v ? d_k : d_v) / kQuantBlock;
    logits = Take(kMaxQueryRows * kAttentionBlock);
    steps = Take(n_blocks * kAttentionBlock);
    codes = reinterpret_cast<uint8_t*>(Take(n_blocks * kAttentionBlock * kQuantBlock / 4));
    starts = reinterpret_cast<int32_t*>(Take(n_blocks * kTileQueries * 2));
    max_steps = Take(n_blocks);
    weights = Take(kTileQueries * kAttentionBlock);
    pairs = reinterpret_cast<int32_t*>(Take(kTileQueries * kAttentionBlock / 2));
    row = Take(n_blocks * kQuantBlock);
    acc = Take(kMaxQueryRows * d_v);
  }

  static constexpr size_t Floats(size_t d_k, size_t d_v) {
    const size_t n_blocks = Padded(d_k > d_v ? d_k : d_v) / kQuantBlock;
    return 16 + kMaxQueryRows * kAttentionBlock +
           n_blocks *
               (kAttentionBlock * (1 + kQuantBlock / 4) + kQuantBlock + 2 * kTileQueries + 1) +
           kTileQueries * kAttentionBlock * 3 / 2 + 2 * kRound +
           kMaxQueryRows *
               (Padded(d_v) + Padded(d_k) * 7 / 4 + 2 * Padded(d_k) / kQuantBlock + 2 * kRound);
  }

  // Room for the next queries.
  QueryTile NextTile(size_t first, size_t n) {
    QueryTile tile{.first = first, .n = n};
    tile.floats = Take(n * d_padded_);
    tile.codes16 = reinterpret_cast<int32_t*>(Take(n * d_padded_ / 2));
    tile.sums16 = reinterpret_cast<int32_t*>(Take(n * d_padded_ / kQuantBlock));
    tile.codes8 = reinterpret_cast<int32_t*>(Take(n * d_padded_ / 4));
    tile.sums8 = reinterpret_cast<int32_t*>(Take(n * d_padded_ / kQuantBlock));
    tile.steps16 = Take(n);
    tile.steps8 = Take(n);
    return tile;
  }

 private:
  static constexpr size_t kRound = 16;  // floats in 64 bytes
  static constexpr size_t Padded(size_t d) { return (d + 63) / 64 * 64; }
  float* Take(size_t n) {
    float* at = at_;
    at_ += (n + kRound - 1) / kRound * kRound;
    return at;
  }

  float* at_;
  size_t d_padded_;
};

}  // namespace rkv

#endif  // RETENTIVEKV_KERNELS_KERNEL_SCRATCH_H_
