// Fills a sequence of stock llama.cpp's KV cache without computing it, through its public calls
// that save and restore the state of a sequence.
#ifndef RETENTIVEKV_LAB_STOCK_STATE_H_
#define RETENTIVEKV_LAB_STOCK_STATE_H_

#include <llama.h>

#include <cstddef>
#include <cstdint>

#include "base/random.h"
#include "retentivekv/kv_cache.h"
#include "retentivekv/status.h"

namespace rkv {

// n normally distributed numbers, mean 0 and standard deviation 1 (sums of four uniform bytes).
void FillNormal(Random& random, float* x, size_t n);

// Puts `n_tokens` tokens into sequence 0, at positions 0, 1, ..., with normally distributed keys
// and values. The other sequences must be empty. kUnsupported if this llama.cpp saves its state in
// an unknown form.
Status FillStockCache(llama_context* ctx, const CacheShape& shape, ggml_type type_k,
                      ggml_type type_v, size_t n_tokens, uint64_t seed);

}  // namespace rkv

#endif  // RETENTIVEKV_LAB_STOCK_STATE_H_
