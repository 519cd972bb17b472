// Rewrites the attention nodes of a llama_context's graph while it is computed. A failed Decode()
// adds nothing to any KvCache.
#include "llama/bridge.h"

#include <fmt/format.h>
#include <ggml.h>
#include <llama.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <numeric>
#include <span>
#include <string_view>

#include "llama/tensor.h"

namespace rkv {

namespace {

constexpr std::string_view kCachePrefix = "cache_k_l";
constexpr std::string_view kValueCachePrefix = "cache_v_l";

// llama.cpp's layer of an attention node, from the name of the cache tensor behind its keys; -1 if
// the keys do not come from a KV cache.
int CacheLayer(const ggml_tensor* node) {
  const std::string_view name = Root(node->src[1])->name;
  if (!name.starts_with(kCachePrefix)) return -1;
  return std::atoi(name.data() + kCachePrefix.size());
}

LayerShape ShapeOf(const ggml_tensor* node) {
  return {.n_head = static_cast<size_t>(node->src[0]->ne[2]),
          .n_kv_head = static_cast<size_t>(node->src[1]->ne[2]),
          .d_k = static_cast<size_t>(node->src[1]->ne[0]),
          .d_v = static_cast<size_t>(node->src[2]->ne[0])};
}

// The layout of a RoPE node, by ggml_rope_ext()'s parameters.
RopeLayout RopeOf(const ggml_tensor* node) {
  int32_t n_dims = 0;
  int32_t mode = 0;
  std::memcpy(&n_dims, node->op_params + 1, sizeof(n_dims));
  std::memcpy(&mode, node->op_params + 2, sizeof(mode));
  return {.pairs = mode == GGML_ROPE_TYPE_NORMAL ? RopePairs::kAdjacent : RopePairs::kHalves,
          .n_rot = static_cast<size_t>(n_dims)};
}

// [token, head] rows of a tensor whose dimensions are (element, token, head).
template <typename T>
HeadRows<const T> RowsOf(const ggml_tensor* tensor) {
  return {.data = static_cast<const T*>(tensor->data),
          .token_stride = tensor->nb[1] / sizeof(T),
          .head_stride = tensor->nb[2] / sizeof(T)};
}

// True for views of llama.cpp's own cache, which stay unchanged until the next decode. Casts, and
// copies from another device, are in memory that later nodes of the graph reuse.
bool IsInCache(const ggml_tensor* tensor, std::string_view prefix) {
  const ggml_tensor* root = Root(tensor);
  return root->op == GGML_OP_NONE && std::string_view(root->name).starts_with(prefix) &&
         root->buffer != nullptr &&
         ggml_backend_buffer_get_usage(root->buffer) != GGML_BACKEND_BUFFER_USAGE_COMPUTE;
}
bool KeysAndValuesAreInCache(const ggml_tensor* node) {
  return IsInCache(node->src[1], kCachePrefix) && IsInCache(node->src[2], kValueCachePrefix);
}

bool IsRecurrent(ggml_op op) {
  switch (op) {
    case GGML_OP_SSM_CONV:
    case GGML_OP_SSM_SCAN:
    case GGML_OP_RWKV_WKV6:
    case GGML_OP_RWKV_WKV7:
    case GGML_OP_GATED_LINEAR_ATTN:
    case GGML_OP_GATED_DELTA_NET:
      return true;
    default:
      return false;
  }
}

// Checks the assumptions of ggml's GGML_OP_ROPE. Without them ggml would end the process or never
// finish. The parameters come from the model's file.
bool RopeFits(const ggml_tensor* node) {
  const int64_t head_dim = node->ne[0];
  const int64_t n_dims = node->op_params[1];
  if (n_dims <= 0 || n_dims % 2 != 0 || n_dims > head_dim) return false;
  if ((node->op_params[2] & GGML_ROPE_TYPE_MROPE) == 0) return true;
  const std::span sections(node->op_params + 11, GGML_MROPE_SECTIONS);
  const int64_t n_sections = std::accumulate(sections.begin(), sections.end(), int64_t{0});
  return std::ranges::min(sections) >= 0 && n_sections > sections.back() && n_sections <= head_dim;
}

}  // namespace

void Ubatch::Clear() {
  caches.clear();
  seq_ids.clear();
  media.clear();
  tokens.clear();
  embeddings.clear();
  n_position = 1;
  causal = true;
}

// Collects the shape of the model's attention from the untouched graph.
class Bridge::GraphProbe {
 public:
  explicit GraphProbe(size_t n_vocab) : n_vocab_(n_vocab) {}

  void Visit(ggml_tensor* node) {
    lens_.Visit(node, n_vocab_);
    if (node->op == GGML_OP_ROPE && !RopeFits(node)) {
      node->op = GGML_OP_NONE;  // It must not be computed.
      skipped_.push_back(node);
      error_ = BadFile(fmt::format("its RoPE does not fit heads of {} elements", node->ne[0]));
    }
    if (!error_.ok()) return;
    if (node->op == GGML_OP_ROPE) shape_.rope = RopeOf(node);
    if (IsRecurrent(node->op)) {
      error_ =
          Unsupported(fmt::format("the model has recurrent layers ({})", ggml_op_name(node->op)));
    } else if (node->op == GGML_OP_FLASH_ATTN_EXT) {
      VisitAttention(node);
    } else if (node->op == GGML_OP_GET_ROWS &&
               std::string_view(node->src[0]->name).starts_with("position_embd")) {
      end_position_ = static_cast<llama_pos>(node->src[0]->ne[1]);
    } else if (node->op == GGML_OP_SOFT_MAX &&
               std::string_view(node->name).starts_with("kq_soft_max")) {
      error_ = Unsupported("the model's attention does not run as flash attention");
    } else if (node->op == GGML_OP_ROPE && node->src[2] != nullptr &&
               std::string_view(node->src[2]->name).starts_with("rope_factors")) {
      error_ =
          Unsupported("the model switches its RoPE factors with the context length (LongRoPE)");
    }
  }

  // Call after the graph has run; llama.cpp may run it again.
  void RestoreNodes() {
    for (ggml_tensor* node : skipped_) node->op = GGML_OP_ROPE;
  }

  Status Finish(CacheShape& shape, std::vector<int>& layer_of_cache) {
    if (!error_.ok()) return error_;
    if (shape_.layers.empty())
      return Unsupported("the model has no attention layers with a KV cache");
    shape = shape_;
    layer_of_cache = layer_of_cache_;
    return OkStatus();
  }
  llama_pos end_position() const { return end_position_; }
  const LogitLens& lens() const { return lens_; }

 private:
  void VisitAttention(const ggml_tensor* node) {
    const int cache_layer = CacheLayer(node);
    float max_bias = 0;
    std::memcpy(&max_bias, node->op_params + 1, sizeof(max_bias));
    if (!IsOnHost(node->src[0]) || !IsOnHost(node->src[1]) || !IsOnHost(node->src[2])) {
      error_ = Unsupported(
          "its attention would run on a GPU or an RPC server; keep the layers on the CPU (-ngl 0)");
    } else if (cache_layer < 0) {
      error_ = Unsupported("the model has attention without a KV cache");
    } else if (Root(node->src[2]) == Root(node->src[1])) {
      error_ = Unsupported("the model keeps keys and values in one latent (MLA)");
    } else if (max_bias != 0) {
      error_ = Unsupported("the model uses ALiBi position biases");
    } else if (node->src[1]->type != GGML_TYPE_F16 || node->src[2]->type != GGML_TYPE_F16 ||
               !KeysAndValuesAreInCache(node)) {
      error_ = Internal("the context's own KV cache is not f16");
    } else {
      Add(static_cast<size_t>(cache_layer), ShapeOf(node));
    }
  }

  void Add(size_t cache_layer, const LayerShape& layer) {
    if (layer_of_cache_.size() <= cache_layer) layer_of_cache_.resize(cache_layer + 1, -1);
    if (layer_of_cache_[cache_layer] >= 0) {
      error_ = Unsupported("several layers of the model share one KV cache");
      return;
    }
    layer_of_cache_[cache_layer] = static_cast<int>(shape_.layers.size());
    shape_.layers.push_back(layer);
  }

  CacheShape shape_;
  std::vector<int> layer_of_cache_;
  llama_pos end_position_ = std::numeric_limits<llama_pos>::max();
  Status error_;
  std::vector<ggml_tensor*> skipped_;
  size_t n_vocab_;
  LogitLens lens_;
};

Bridge::Bridge() = default;
Bridge::~Bridge() = default;

void Bridge::Prepare(llama_context_params& params) {
  params.cb_eval = &Bridge::OnNode;
  params.cb_eval_user_data = this;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
  params.offload_kqv = false;  // Attention runs on the CPU,
  params.op_offload = false;   // also beside weights that a GPU could borrow.
  params.kv_unified = true;
  params.swa_full = true;
  params.type_k = GGML_TYPE_F16;
  params.type_v = GGML_TYPE_F16;
  if (params.n_ubatch == 0) params.n_ubatch = params.n_batch;  // As llama.cpp reads it.
  if (params.n_ubatch == 0) params.n_ubatch = 512;
  params.n_batch = std::max(params.n_ubatch, params.n_seq_max);  // llama.cpp insists.
  params.n_ctx = params.n_batch;
  // ggml's own default; that many threads need scratch.
  if (params.n_threads <= 0) params.n_threads = GGML_DEFAULT_N_THREADS;
  if (params.n_threads_batch <= 0) params.n_threads_batch = GGML_DEFAULT_N_THREADS;
}

bool Bridge::OnNode(ggml_tensor* node, bool ask, void* self) {
  if (ask) {
    auto* bridge = static_cast<Bridge*>(self);
    ++bridge->n_nodes_;
    // llama.cpp reuses graphs, so a node can still be rewritten from an earlier decode.
    if (node->op == GGML_OP_CUSTOM && !bridge->decoding_) bridge->RestoreNode(node);
    if (bridge->probe_ != nullptr) {
      bridge->probe_->Visit(node);
    } else if (bridge->decoding_ &&
               (node->op == GGML_OP_FLASH_ATTN_EXT || node->op == GGML_OP_CUSTOM)) {
      bridge->RewriteNode(node);
    }
  }
  // False means no interest in the result: the graph still runs as one piece.
  return !ask;
}

// ggml calls this after each node, on the decoding thread, to learn whether to stop.
bool Bridge::OnAbortCheck(void* self) {
  auto* bridge = static_cast<Bridge*>(self);
  const StepWatch& watch = *bridge->watch_;
  ++bridge->n_computed_;
  if (watch.on_progress) {
    watch.on_progress(std::min(
        1.0, static_cast<double>(bridge->n_computed_) / static_cast<double>(bridge->n_nodes_)));
  }
  return watch.stop && watch.stop();
}

Result<CacheShape> Bridge::Probe(llama_context* ctx) {
  const llama_vocab* vocab = llama_model_get_vocab(llama_get_model(ctx));
  const llama_token bos = llama_vocab_bos(vocab);
  tokens_ = {bos == LLAMA_TOKEN_NULL ? 0 : bos};
  probe_ = std::make_unique<GraphProbe>(static_cast<size_t>(llama_vocab_n_tokens(vocab)));
  llama_memory_clear(llama_get_memory(ctx), false);
  const int rc = llama_decode(ctx, llama_batch_get_one(tokens_.data(), 1));
  const std::unique_ptr<GraphProbe> probe = std::move(probe_);
  probe->RestoreNodes();
  CacheShape shape;
  RKV_RETURN_IF_ERROR(probe->Finish(shape, layer_of_cache_));
  if (rc != 0) return Internal(fmt::format("llama_decode failed with {} on its first token", rc));
  shape_ = shape;
  end_position_ = probe->end_position();
  lens_ = probe->lens();
  hooks_.clear();
  for (size_t layer = 0; layer < shape_.layers.size(); ++layer) {
    hooks_.push_back(std::make_unique<LayerHook>());
    hooks_.back()->bridge = this;
    hooks_.back()->layer = layer;
  }
  return shape;
}

Bridge::LayerHook* Bridge::HookOf(const ggml_tensor* node) {
  const int cache_layer = node->src[1] != nullptr ? CacheLayer(node) : -1;
  if (cache_layer < 0 || static_cast<size_t>(cache_layer) >= layer_of_cache_.size()) return nullptr;
  const int layer = layer_of_cache_[static_cast<size_t>(cache_layer)];
  return layer < 0 ? nullptr : hooks_[static_cast<size_t>(layer)].get();
}

void Bridge::RewriteNode(ggml_tensor* node) {
  const bool flash = node->op == GGML_OP_FLASH_ATTN_EXT;
  LayerHook* hook = HookOf(node);
  // Prepare() asked for one stream, with this ubatch in the first cells.
  const auto n_rows = static_cast<int64_t>(n_rows_);
  if (hook == nullptr || ShapeOf(node) != shape_.layers[hook->layer] ||
      node->src[0]->ne[1] != n_rows || node->src[1]->ne[1] < n_rows || node->src[1]->ne[3] != 1 ||
      !KeysAndValuesAreInCache(node)) {
    // A custom operation that is not attention does not belong to the bridge.
    if (flash) rewrite_error_ = Internal("the graph has attention of another shape than before");
    return;
  }
  hook->rewritten = true;
  if (!foresights_.empty() && hook == hooks_.back().get()) {
    const ggml_tensor* residual = lens_.ResidualOf(node->src[0]);
    hook->residual = residual != nullptr && residual->ne[1] == n_rows ? residual : nullptr;
  }
  if (!flash) return;
  static_assert(sizeof(node->op_params) == sizeof(hook->flash_params));
  std::memcpy(hook->flash_params.data(), node->op_params, sizeof(node->op_params));
  std::memcpy(&hook->scale, node->op_params + 0, sizeof(float));
  std::memcpy(&hook->softcap, node->op_params + 2, sizeof(float));
  // A node of our own shows how ggml encodes a custom operation in its parameters.
  alignas(16) char buffer[2048];
  ggml_context* ctx =
      ggml_init({.mem_size = sizeof(buffer), .mem_buffer = buffer, .no_alloc = true});
  const ggml_tensor* custom = ggml_custom_4d(ctx, GGML_TYPE_F32, 1, 1, 1, 1, nullptr, 0,
                                             &Bridge::ComputeAttention, GGML_N_TASKS_MAX, hook);
  node->op = custom->op;
  std::memcpy(node->op_params, custom->op_params, sizeof(node->op_params));
  ggml_free(ctx);
}

void Bridge::RestoreNode(ggml_tensor* node) {
  const LayerHook* hook = HookOf(node);
  if (hook == nullptr) return;
  node->op = GGML_OP_FLASH_ATTN_EXT;
  std::memcpy(node->op_params, hook->flash_params.data(), sizeof(node->op_params));
}

void Bridge::ComputeAttention(ggml_tensor* node, int thread, int, void* hook) {
  auto* layer_hook = static_cast<LayerHook*>(hook);
  layer_hook->bridge->AttendLayer(*layer_hook, node, static_cast<size_t>(thread));
}

void Bridge::AttendLayer(LayerHook& hook, const ggml_tensor* node, size_t thread) {
  // Threads beyond the announced number have no scratch; the others take their work.
  if (thread >= scratch_.size()) return;
  const ggml_tensor* sinks = node->src[4];
  const UbatchTensors tensors{
      .q = RowsOf<float>(node->src[0]),
      .k = RowsOf<uint16_t>(node->src[1]),
      .v = RowsOf<uint16_t>(node->src[2]),
      // The output's dimensions are (element, head, token).
      .out = {.data = static_cast<float*>(node->data),
              .token_stride = node->nb[2] / sizeof(float),
              .head_stride = node->nb[1] / sizeof(float)},
      .sinks = sinks != nullptr ? static_cast<const float*>(sinks->data) : nullptr,
      .scale = hook.scale,
      .softcap = hook.softcap};
  const LayerShape& shape = shape_.layers[hook.layer];
  const size_t item_tokens = TokensPerWorkItem(shape);
  size_t end_item = 0;  // of the heads up to here
  size_t item = hook.next_item.fetch_add(1, std::memory_order_relaxed);
  for (const Segment& segment : segments_) {
    const size_t n_tokens = segment.rows.size();
    const size_t n_blocks = (n_tokens + item_tokens - 1) / item_tokens;
    for (size_t kv_head = 0; kv_head < shape.n_kv_head; ++kv_head) {
      const size_t n_parts =
          attend_ == AttendSegment ? NumParts(segment, hook.layer, kv_head) : size_t{1};
      const size_t first_item = end_item;
      end_item += n_blocks * n_parts;
      for (; item < end_item; item = hook.next_item.fetch_add(1, std::memory_order_relaxed)) {
        if (n_parts > 1) {
          AttendSegmentPart(segment, hook.layer, kv_head, item - first_item, n_parts, tensors,
                            scratch_[thread]);
        } else {
          const size_t first = (item - first_item) * item_tokens;
          attend_(segment, hook.layer, kv_head, first, std::min(item_tokens, n_tokens - first),
                  tensors, scratch_[thread]);
        }
      }
    }
  }
  if (hook.residual != nullptr) Foresee(hook.residual, thread);
}

void Bridge::ListForesights(const Ubatch& ubatch) {
  foresights_.clear();
  if (!lens_.found()) return;
  const bool is_text = ubatch.embeddings.empty();
  const auto n_vocab = static_cast<Token>(lens_.n_vocab());
  for (size_t s = 0; s < segments_.size(); ++s) {
    if (!segments_[s].cache->config().needs().surprisal) continue;
    const std::vector<uint32_t>& rows = segments_[s].rows;
    for (size_t i = 0; i < rows.size(); ++i) {
      Token next = ubatch.tokens[rows[i]].next;
      if (next == kNoToken && is_text && i + 1 < rows.size())
        next = ubatch.tokens[rows[i + 1]].token;
      if (next < 0 || next >= n_vocab) continue;
      foresights_.push_back({.segment = s, .place = i + 1, .row = rows[i], .next = next});
    }
  }
  if (foresights_.empty()) return;
  next_foresight_.store(0, std::memory_order_relaxed);
  if (!lens_.prepared()) lens_.Prepare();
  lens_scratch_.resize(scratch_.size());
  for (std::vector<float>& scratch : lens_scratch_) scratch.resize(lens_.scratch_size());
}

void Bridge::Foresee(const ggml_tensor* residual, size_t thread) {
  for (;;) {
    const size_t i = next_foresight_.fetch_add(1, std::memory_order_relaxed);
    if (i >= foresights_.size()) return;
    Foresight& foresight = foresights_[i];
    const auto* data = static_cast<const char*>(residual->data) + foresight.row * residual->nb[1];
    foresight.surprisal = lens_.Surprisal(reinterpret_cast<const float*>(data), foresight.next,
                                          lens_scratch_[thread]);
  }
}

Status Bridge::BuildSegments(const Ubatch& ubatch) {
  segments_.resize(ubatch.caches.size());
  for (size_t i = 0; i < segments_.size(); ++i) {
    segments_[i].cache = &ubatch.caches[i].cache->impl();
    segments_[i].rows.clear();
    segments_[i].runs.clear();
    segments_[i].causal = ubatch.causal;
  }
  for (size_t row = 0; row < ubatch.tokens.size(); ++row) {
    segments_[ubatch.tokens[row].cache].AddRow(static_cast<uint32_t>(row));
    const llama_pos position = ubatch.tokens[row].position[0];
    if (position < 0 || position >= end_position_) {
      return InvalidArgument(fmt::format("position {} is outside of the model's 0 to {}", position,
                                         end_position_ - 1));
    }
  }
  n_rows_ = ubatch.tokens.size();
  for (const Segment& segment : segments_) {
    if (segment.cache->shape() != shape_) {
      return InvalidArgument("the conversation's cache was made for another model");
    }
    const uint64_t limit = std::numeric_limits<uint32_t>::max();
    if (segment.cache->tokens_seen() + segment.rows.size() > limit) {
      return ResourceExhausted("a conversation cannot be longer than 2^32 tokens");
    }
  }
  return OkStatus();
}

llama_batch Bridge::FillBatch(const Ubatch& ubatch) {
  const size_t n = ubatch.tokens.size();
  const bool embeddings = !ubatch.embeddings.empty();
  const size_t n_position = embeddings ? ubatch.n_position : 1;
  tokens_.resize(n);
  positions_.resize(n * n_position);
  n_seq_id_.assign(n, 1);
  seq_id_.resize(n);
  seq_id_rows_.resize(n);
  output_.resize(n);
  for (size_t i = 0; i < n; ++i) {
    const UbatchToken& token = ubatch.tokens[i];
    tokens_[i] = token.token;
    seq_id_[i] = ubatch.seq_ids.empty() ? static_cast<llama_seq_id>(token.cache)
                                        : ubatch.seq_ids[token.cache];
    seq_id_rows_[i] = &seq_id_[i];
    output_[i] = token.output ? 1 : 0;
    for (size_t c = 0; c < n_position; ++c) positions_[c * n + i] = token.position[c];
  }
  // llama_decode does not write to the embeddings.
  return {.n_tokens = static_cast<int32_t>(n),
          .token = embeddings ? nullptr : tokens_.data(),
          .embd = embeddings ? const_cast<float*>(ubatch.embeddings.data()) : nullptr,
          .pos = positions_.data(),
          .n_seq_id = n_seq_id_.data(),
          .seq_id = seq_id_rows_.data(),
          .logits = output_.data()};
}

Status Bridge::Decode(llama_context* ctx, const Ubatch& ubatch, const StepWatch* watch) {
  if (ubatch.tokens.empty() || ubatch.tokens.size() > llama_n_ubatch(ctx)) {
    return InvalidArgument(fmt::format("a ubatch of {} tokens does not fit the context's {}",
                                       ubatch.tokens.size(), llama_n_ubatch(ctx)));
  }
  if (ubatch.caches.size() > llama_max_parallel_sequences()) {
    return InvalidArgument(fmt::format("llama.cpp decodes at most {} sequences at once",
                                       llama_max_parallel_sequences()));
  }
  RKV_RETURN_IF_ERROR(BuildSegments(ubatch));
  const int n_threads = std::max({llama_n_threads(ctx), llama_n_threads_batch(ctx), 1});
  if (scratch_.size() != static_cast<size_t>(n_threads)) {
    scratch_.resize(static_cast<size_t>(n_threads));
    for (AttentionScratch& scratch : scratch_) scratch.Resize(shape_);
  }
  for (const auto& hook : hooks_) {
    hook->next_item.store(0, std::memory_order_relaxed);
    hook->rewritten = false;
    hook->residual = nullptr;
  }
  ListForesights(ubatch);
  rewrite_error_ = OkStatus();
  watch_ = watch;
  n_nodes_ = 0;
  n_computed_ = 0;
  if (watch != nullptr) llama_set_abort_callback(ctx, &Bridge::OnAbortCheck, this);
  // Also runs after an exception for lack of memory.
  struct Ending {
    Bridge& bridge;
    llama_context* ctx;
    ~Ending() {
      bridge.decoding_ = false;
      if (bridge.watch_ != nullptr) llama_set_abort_callback(ctx, nullptr, nullptr);
      bridge.appends_.clear();  // Aborts uncommitted appends.
    }
  } ending{*this, ctx};
  for (const auto& [cache, span] : ubatch.media) segments_[cache].cache->AddMedia(span);
  while (buffers_.size() < segments_.size()) buffers_.push_back(std::make_unique<UbatchBuffers>());
  appends_.clear();
  for (size_t i = 0; i < segments_.size(); ++i) {
    appends_.push_back(
        segments_[i].cache->BeginAppend({.n = segments_[i].rows.size(),
                                         .prompt_follows = ubatch.caches[i].prompt_follows,
                                         .n_threads = static_cast<size_t>(n_threads)},
                                        buffers_[i].get()));
  }

  llama_memory_clear(llama_get_memory(ctx), false);
  decoding_ = true;
  const int rc = llama_decode(ctx, FillBatch(ubatch));
  llama_synchronize(ctx);

  Status status = rewrite_error_;
  if (rc == 2) {
    status = Cancelled("decoding was aborted");
  } else if (rc != 0) {
    status = Internal(fmt::format("llama_decode failed with {}", rc));
  } else if (status.ok() && !std::ranges::all_of(hooks_, [](auto& h) { return h->rewritten; })) {
    status = Internal("the compute graph lacked an attention layer it had before");
  }
  if (!status.ok()) return status;
  for (const Foresight& foresight : foresights_) {
    appends_[foresight.segment].SetSurprisal(foresight.place, foresight.surprisal);
  }
  for (KvCache::Append& append : appends_) append.Commit();
  return OkStatus();
}

}  // namespace rkv
