/* Attaches the cache to an existing llama.cpp program. C99 and C++.
 *
 *   struct llama_context_params params = llama_context_default_params();
 *   rkv_cache * cache = rkv_attach(&params, "streaming", "512t");
 *   struct llama_context * ctx = llama_init_from_model(model, params);
 *   ... rkv_decode(cache, ctx, batch) wherever the program called llama_decode(ctx, batch) ...
 *   llama_free(ctx);
 *   rkv_detach(cache);
 *
 * Sampling, logits and embeddings stay as they are. examples/attach.cpp is a whole program.
 * llama.cpp's operations on its own cache do not reach ours. Use rkv_seq_keep() instead of
 * llama_memory_seq_rm(). llama_memory_seq_add(), llama_memory_seq_cp(), llama_state_*() and
 * llama_set_causal_attn() have no effect. Functions that call llama_decode() themselves, such as
 * mtmd_helper_eval_chunks(), fill llama.cpp's cache, and the next rkv_decode() does not see those
 * tokens. Not thread-safe: one thread per cache at a time. */
#ifndef RETENTIVEKV_RETENTIVEKV_H_
#define RETENTIVEKV_RETENTIVEKV_H_

#include <llama.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rkv_cache rkv_cache;

/* Contents of one sequence. Bytes are allocated bytes. */
struct rkv_stats {
  uint64_t tokens_seen;
  uint64_t tokens_exact;
  uint64_t tokens_evicted;
  uint64_t held_bytes;
  uint64_t full_bytes;   /* of a full f16 cache */
  uint64_t budget_bytes; /* limit for held_bytes; 0: no limit */
};

/* Prepares `params` for a context whose KV cache is ours. Set n_ubatch, n_ctx, threads, RoPE and
 * the rest before. It overwrites cb_eval and its user data (yours would not be called),
 * flash_attn_type, offload_kqv, kv_unified, swa_full, type_k and type_v (of llama.cpp's own cache),
 * n_batch and n_ctx: llama.cpp's own cache only holds one ubatch, and tokens per decode and
 * positions may go far beyond it. Your n_ctx (0: the model's own) matters for models with sliding
 * windows, which are served up to the window. The model must be on the CPU (n_gpu_layers = 0).
 * policy: "full", "streaming", "streaming:sinks=8", ..., or NULL for "retentive" with a budget and
 * "full" without. budget: "20%", "512t", "64MiB", or NULL for none. Returns NULL on an error; then
 * rkv_last_error(NULL) describes it. Use the cache with one context only, and keep it until that
 * context is freed. */
rkv_cache* rkv_attach(struct llama_context_params* params, const char* policy, const char* budget);

/* llama_decode with our cache. The batch may have any number of tokens; each token belongs to
 * exactly one sequence. pos may be NULL as long as all positions of its sequences were their
 * tokens' numbers (after a picture of an M-RoPE model they are not). Logits are in the context as
 * usual. If the batch has more tokens than n_ubatch, only the logits of its last n_ubatch tokens
 * can be read, by negative index. Returns 0, or a negative number on an error; then
 * rkv_last_error(cache) describes it, and the cache holds the tokens before the failing ubatch. The
 * first call refuses a model that cannot be served. */
int32_t rkv_decode(rkv_cache* cache, struct llama_context* ctx, struct llama_batch batch);

/* Rolls a sequence back to its first n_tokens tokens; 0 frees it. Tokens evicted meanwhile stay
 * evicted. Returns 0, or a negative number if the sequence is shorter. */
int32_t rkv_seq_keep(rkv_cache* cache, llama_seq_id seq_id, uint64_t n_tokens);

/* Statistics of a sequence; zeros for one that holds nothing. */
struct rkv_stats rkv_get_stats(const rkv_cache* cache, llama_seq_id seq_id);

/* The last error of this cache, or of rkv_attach with NULL; valid until the next call. */
const char* rkv_last_error(const rkv_cache* cache);

/* Frees the cache. The context must have been freed before. NULL is allowed. */
void rkv_detach(rkv_cache* cache);

#ifdef __cplusplus
}
#endif

#endif /* RETENTIVEKV_RETENTIVEKV_H_ */
