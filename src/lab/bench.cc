// Both sides of rkv bench: a stock llama_context, and one whose attention is ours.
#include "lab/bench.h"

#include <fmt/format.h>
#include <ggml.h>
#include <gguf.h>
#include <llama.h>

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "base/process_memory.h"
#include "lab/stock_state.h"
#include "llama/bridge.h"
#include "llama/log.h"
#include "llama/model.h"

namespace rkv {

namespace {

constexpr size_t kCellsMultiple = 256;  // to which llama.cpp rounds the cells of a sequence

std::optional<ggml_type> GgmlType(ElementType type) {
  switch (type) {
    case ElementType::kF16:
      return GGML_TYPE_F16;
    case ElementType::kBF16:
      return GGML_TYPE_BF16;
    case ElementType::kQ8_0:
      return GGML_TYPE_Q8_0;
    case ElementType::kQ4_0:
      return GGML_TYPE_Q4_0;
    default:
      return std::nullopt;  // one of ours
  }
}

// The random token at a place in a conversation.
llama_token TokenAt(const Model& model, uint64_t seed, size_t conversation, size_t position) {
  const auto n_vocab = static_cast<uint64_t>(llama_vocab_n_tokens(model.vocab()));
  const uint64_t place = (uint64_t{conversation} << 32) | position;
  return static_cast<llama_token>(
      Random(seed ^ (place * 0x9E3779B97F4A7C15ull)).NextBelow(n_vocab));
}

llama_context_params ContextParams(const BenchSessionOptions& options) {
  llama_context_params params = llama_context_default_params();
  params.n_threads = options.n_threads;
  params.n_threads_batch = options.n_threads;
  params.n_ubatch = static_cast<uint32_t>(options.n_ubatch);
  params.n_batch = static_cast<uint32_t>(std::max(options.n_batch, options.n_ubatch));
  params.n_seq_max = static_cast<uint32_t>(options.n_conversations);
  params.no_perf = true;
  return params;
}

Result<LlamaPtr<llama_context>> MakeContext(llama_model* model,
                                            const llama_context_params& params) {
  const LlamaErrorLog log;
  LlamaPtr<llama_context> ctx(llama_init_from_model(model, params));
  if (ctx == nullptr) return Internal(fmt::format("cannot make a context{}", log.Reason()));
  return ctx;
}

// K and V of a token in a cache of llama.cpp.
uint64_t StockTokenBytes(const CacheShape& shape, ggml_type type_k, ggml_type type_v) {
  uint64_t bytes = 0;
  for (const LayerShape& layer : shape.layers) {
    bytes += ggml_row_size(type_k, static_cast<int64_t>(layer.n_kv_head * layer.d_k)) +
             ggml_row_size(type_v, static_cast<int64_t>(layer.n_kv_head * layer.d_v));
  }
  return bytes;
}

class StockSession final : public BenchSession {
 public:
  StockSession(const Model& model, const BenchSessionOptions& options, ggml_type type_k,
               ggml_type type_v, uint64_t model_bytes)
      : model_(model), options_(options), type_k_(type_k), type_v_(type_v) {
    process_bytes_ = model_bytes;
  }
  ~StockSession() override { llama_batch_free(batch_); }

  Status Init() {
    const uint64_t before = ResidentBytes();
    llama_context_params params = ContextParams(options_);
    const size_t cells =
        (options_.max_tokens + kCellsMultiple - 1) / kCellsMultiple * kCellsMultiple;
    params.n_ctx = static_cast<uint32_t>(cells * n_conversations());
    params.type_k = type_k_;
    params.type_v = type_v_;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    params.kv_unified = options_.n_conversations == 1;
    batch_ = llama_batch_init(static_cast<int32_t>(params.n_batch), 0, 1);
    RKV_ASSIGN_OR_RETURN(ctx_, MakeContext(model_.llama(), params));
    // MakeContext() allocates and zeroes the cache.
    peak_.kv_bytes = cells * n_conversations() * token_bytes();
    process_bytes_ += ResidentBytes() - before;
    return OkStatus();
  }

  Status Restore() override {
    for (size_t c = 0; c < n_conversations(); ++c) {
      const auto seq = static_cast<llama_seq_id>(c);
      if (!llama_memory_seq_rm(cache(), seq, static_cast<llama_pos>(n_snapshot_), -1)) {
        return Internal("llama.cpp cannot go back to an earlier token");
      }
    }
    n_tokens_ = n_snapshot_;
    return OkStatus();
  }

  Status Prefill(size_t n) override {
    for (size_t c = 0; c < n_conversations(); ++c) {
      for (size_t begin = 0; begin < n; begin += static_cast<size_t>(options_.n_batch)) {
        const size_t end = std::min(n, begin + static_cast<size_t>(options_.n_batch));
        batch_.n_tokens = 0;
        for (size_t i = begin; i < end; ++i) Add(c, n_tokens_ + i, i + 1 == n);
        RKV_RETURN_IF_ERROR(DecodeBatch());
      }
    }
    n_tokens_ += n;
    return OkStatus();
  }

  Status Decode(size_t n) override {
    for (size_t i = 0; i < n; ++i, ++n_tokens_) {
      batch_.n_tokens = 0;
      for (size_t c = 0; c < n_conversations(); ++c) Add(c, n_tokens_, true);
      RKV_RETURN_IF_ERROR(DecodeBatch());
    }
    return OkStatus();
  }

  BenchCacheUse use() const override {
    const uint64_t n = n_conversations() * n_tokens_;
    return {.held_bytes = n * token_bytes(),
            .read_bytes = n * token_bytes(),
            .full_bytes = n * model_.shape().full_token_bytes()};
  }

 protected:
  Status FillRandom(size_t n) override {
    RKV_RETURN_IF_ERROR(
        FillStockCache(ctx_.get(), model_.shape(), type_k_, type_v_, n, options_.seed));
    for (size_t c = 1; c < n_conversations(); ++c) {
      llama_memory_seq_cp(cache(), 0, static_cast<llama_seq_id>(c), -1, -1);
    }
    n_tokens_ = n;
    return OkStatus();
  }
  void TakeSnapshot() override { n_snapshot_ = n_tokens_; }

 private:
  size_t n_conversations() const { return static_cast<size_t>(options_.n_conversations); }
  llama_memory_t cache() const { return llama_get_memory(ctx_.get()); }

  uint64_t token_bytes() const { return StockTokenBytes(model_.shape(), type_k_, type_v_); }

  void Add(size_t conversation, size_t position, bool output) {
    const auto i = static_cast<size_t>(batch_.n_tokens++);
    batch_.token[i] = TokenAt(model_, options_.seed, conversation, position);
    batch_.pos[i] = static_cast<llama_pos>(position);
    batch_.n_seq_id[i] = 1;
    batch_.seq_id[i][0] = static_cast<llama_seq_id>(conversation);
    batch_.logits[i] = output ? 1 : 0;
  }

  Status DecodeBatch() {
    const int rc = llama_decode(ctx_.get(), batch_);
    llama_synchronize(ctx_.get());
    return rc == 0 ? OkStatus() : Internal(fmt::format("stock llama_decode failed with {}", rc));
  }

  const Model& model_;
  const BenchSessionOptions options_;
  const ggml_type type_k_, type_v_;
  LlamaPtr<llama_context> ctx_;
  llama_batch batch_ = {};
  size_t n_tokens_ = 0;  // of every conversation
  size_t n_snapshot_ = 0;
};

class OurSession final : public BenchSession {
 public:
  OurSession(const Model& model, const BenchSessionOptions& options, uint64_t model_bytes)
      : model_(model), options_(options) {
    process_bytes_ = model_bytes;
  }

  Status Init(const CacheOptions& cache) {
    const uint64_t before = ResidentBytes();
    llama_context_params params = ContextParams(options_);
    bridge_.Prepare(params);
    RKV_ASSIGN_OR_RETURN(ctx_, MakeContext(model_.llama(), params));
    RKV_RETURN_IF_ERROR(bridge_.Probe(ctx_.get()).status());
    RKV_ASSIGN_OR_RETURN(const KvCache first, KvCache::Create(model_.shape(), cache));
    caches_.assign(n_conversations(), first);
    // Allocates the buffers of a whole ubatch in the context's own small cache, and llama.cpp's
    // graphs. There are two graphs: for a prompt's last ubatch, which has an output, and for
    // earlier ones.
    std::vector<llama_token> tokens(static_cast<size_t>(options_.n_ubatch));
    std::vector<int8_t> no_output(tokens.size());
    llama_batch batch = llama_batch_get_one(tokens.data(), options_.n_ubatch);
    for (int8_t* output : {static_cast<int8_t*>(nullptr), no_output.data()}) {
      batch.logits = output;
      llama_memory_clear(llama_get_memory(ctx_.get()), false);
      if (llama_decode(ctx_.get(), batch) != 0) {
        return Internal("llama_decode failed on its first ubatch");
      }
      llama_synchronize(ctx_.get());
    }
    process_bytes_ += ResidentBytes() - before;
    // A ubatch's keys and values are in the context's own small cache.
    kv_bytes_ =
        llama_n_ctx(ctx_.get()) * StockTokenBytes(model_.shape(), GGML_TYPE_F16, GGML_TYPE_F16);
    return OkStatus();
  }

  Status Restore() override {
    if (!snapshot_.empty()) {
      caches_ = snapshot_;
      return OkStatus();
    }
    for (KvCache& cache : caches_) cache.Truncate(n_snapshot_);
    return OkStatus();
  }

  Status Prefill(size_t n) override {
    for (size_t c = 0; c < n_conversations(); ++c) {
      KvCache& cache = caches_[c];
      const size_t first = cache.tokens_seen();
      for (size_t begin = 0, end = 0; begin < n; begin = end) {
        end = std::min(n, begin + static_cast<size_t>(options_.n_ubatch));
        ubatch_.Clear();
        ubatch_.caches.push_back({.cache = &cache, .prompt_follows = end < n});
        for (size_t i = begin; i < end; ++i) Add(0, c, first + i, i + 1 == n);
        RKV_RETURN_IF_ERROR(bridge_.Decode(ctx_.get(), ubatch_));
      }
    }
    return OkStatus();
  }

  Status Decode(size_t n) override {
    for (size_t i = 0; i < n; ++i) {
      ubatch_.Clear();
      for (size_t c = 0; c < n_conversations(); ++c) {
        ubatch_.caches.push_back({.cache = &caches_[c]});
        Add(c, c, caches_[c].tokens_seen(), true);
      }
      RKV_RETURN_IF_ERROR(bridge_.Decode(ctx_.get(), ubatch_));
    }
    return OkStatus();
  }

  BenchCacheUse use() const override {
    BenchCacheUse use;
    for (const KvCache& cache : caches_) {
      const CacheStats stats = cache.stats();
      use.held_bytes += stats.held_bytes;
      use.read_bytes += stats.exact_bytes + stats.state_bytes;
      use.full_bytes += stats.full_bytes;
      use.compress_seconds += stats.compress_seconds;
      use.observe_seconds += stats.observe_seconds;
    }
    return use;
  }

 protected:
  Status FillRandom(size_t n) override {
    KvCache& cache = caches_.front();
    const CacheShape& shape = model_.shape();
    Random random(options_.seed);
    std::vector<float> values;
    std::vector<ggml_fp16_t> k, v;
    const auto draw = [&](size_t width, std::vector<ggml_fp16_t>& row) {
      values.resize(width);
      row.resize(width);
      FillNormal(random, values.data(), width);
      ggml_fp32_to_fp16_row(values.data(), row.data(), static_cast<int64_t>(width));
    };
    for (size_t begin = 0; begin < n; begin += static_cast<size_t>(options_.n_ubatch)) {
      const size_t n_staged = std::min(n - begin, static_cast<size_t>(options_.n_ubatch));
      KvCache::Append append =
          cache.BeginAppend({.n = n_staged, .prompt_follows = begin + n_staged < n});
      for (size_t layer = 0; layer < shape.layers.size(); ++layer) {
        for (size_t head = 0; head < shape.layers[layer].n_kv_head; ++head) {
          for (size_t i = 0; i < n_staged; ++i) {
            draw(shape.layers[layer].d_k, k);
            draw(shape.layers[layer].d_v, v);
            append.Stage(layer, head, i, k.data(), v.data());
          }
        }
      }
      append.Commit();
    }
    std::fill(caches_.begin() + 1, caches_.end(), cache);
    return OkStatus();
  }

  // Truncate() does not restore evicted tokens, so a budget needs a copy.
  void TakeSnapshot() override {
    n_snapshot_ = caches_.front().tokens_seen();
    if (!caches_.front().options().budget.unlimited()) snapshot_ = caches_;
  }

 private:
  size_t n_conversations() const { return static_cast<size_t>(options_.n_conversations); }

  void Add(size_t cache, size_t conversation, size_t position, bool output) {
    ubatch_.tokens.push_back({.cache = cache,
                              .token = TokenAt(model_, options_.seed, conversation, position),
                              .position = {static_cast<llama_pos>(position)},
                              .output = output});
  }

  const Model& model_;
  const BenchSessionOptions options_;
  Bridge bridge_;  // before ctx_: it must outlive it
  LlamaPtr<llama_context> ctx_;
  std::vector<KvCache> caches_;    // [conversation]
  std::vector<KvCache> snapshot_;  // likewise; empty if Truncate() is sufficient
  size_t n_snapshot_ = 0;
  Ubatch ubatch_;
};

// As BenchModel::read_bytes(), from the model's file.
uint64_t WeightBytesOfStep(const std::string& path, const llama_model* model) {
  const LlamaPtr<gguf_context> gguf(
      gguf_init_from_file(path.c_str(), {.no_alloc = true, .ctx = nullptr}));
  if (gguf == nullptr) return llama_model_size(model);
  const auto number = [&](const char* key, double otherwise) {
    char arch[64] = {}, text[64] = {};
    llama_model_meta_val_str(model, "general.architecture", arch, sizeof(arch));
    const std::string name = fmt::format("{}.{}", arch, key);
    const int n = llama_model_meta_val_str(model, name.c_str(), text, sizeof(text));
    return n > 0 ? std::strtod(text, nullptr) : otherwise;
  };
  const double experts = number("expert_used_count", 1) / std::max(1.0, number("expert_count", 1));
  const bool tied = gguf_find_tensor(gguf.get(), "output.weight") < 0;
  double bytes = 0;
  for (int64_t i = 0; i < gguf_get_n_tensors(gguf.get()); ++i) {
    const std::string_view name = gguf_get_tensor_name(gguf.get(), i);
    const auto size = static_cast<double>(gguf_get_tensor_size(gguf.get(), i));
    if (name.starts_with("token_embd") && !tied) continue;
    bytes += name.find("_exps.") != std::string_view::npos ? size * experts : size;
  }
  return static_cast<uint64_t>(bytes);
}

}  // namespace

void BenchSession::StartPeak() {
  start_bytes_ = ResidentBytes();
  measures_ = start_bytes_ > 0 && ResetPeakResidentBytes();
}

void BenchSession::EndPeak() {
  if (!measures_) return;
  const uint64_t peak = PeakResidentBytes();
  const uint64_t growth = peak - std::min(peak, start_bytes_);
  peak_.process_bytes = std::max(peak_.process_bytes, process_bytes_ + growth);
  if (kv_bytes_.has_value()) peak_.kv_bytes = std::max(peak_.kv_bytes, *kv_bytes_ + growth);
}

Status BenchSession::Fill(size_t depth, bool random) {
  StartPeak();
  if (random && depth > 0) {
    RKV_RETURN_IF_ERROR(FillRandom(depth));
  } else if (depth > 0) {
    RKV_RETURN_IF_ERROR(Prefill(depth));
  }
  EndPeak();
  const uint64_t now = ResidentBytes();
  const uint64_t growth = now - std::min(now, start_bytes_);
  process_bytes_ += growth;
  if (kv_bytes_.has_value()) *kv_bytes_ += growth;
  TakeSnapshot();
  RKV_RETURN_IF_ERROR(Decode(1));
  return Restore();
}

struct BenchModel::Impl {
  const Model& Stock();

  std::string path;
  std::unique_ptr<Model> ours;
  std::unique_ptr<Model> stock;  // null before the first use, and if ours is used instead
  bool stock_asked_for = false;
  uint64_t resident_bytes = 0;  // of a process with one of the two models
  uint64_t read_bytes = 0;
};

namespace {

Result<std::unique_ptr<Model>> LoadBenchModel(const std::string& path, bool huge_pages) {
  EngineOptions options;
  options.model = path;
  options.n_ubatch = 1;  // This context only serves to learn the shape.
  return Model::Load(options, {}, huge_pages);
}

}  // namespace

const Model& BenchModel::Impl::Stock() {
  const bool first = !std::exchange(stock_asked_for, true);
  // Caches need further memory, up to as much again.
  if (first && ours->huge_page_bytes() > 0 && AvailableBytes() / 2 > resident_bytes) {
    if (auto model = LoadBenchModel(path, false); model.ok()) stock = *std::move(model);
  }
  return stock == nullptr ? *ours : *stock;
}

BenchModel::BenchModel(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
BenchModel::~BenchModel() = default;

Result<std::unique_ptr<BenchModel>> BenchModel::Load(const std::string& path) {
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  RKV_ASSIGN_OR_RETURN(impl->ours, LoadBenchModel(path, true));
  impl->resident_bytes = ResidentBytes();
  impl->read_bytes = WeightBytesOfStep(path, impl->ours->llama());
  return std::unique_ptr<BenchModel>(new BenchModel(std::move(impl)));
}

namespace {

Status CheckOptions(const BenchSessionOptions& options) {
  const int max_conversations =
      std::min(options.n_ubatch, static_cast<int>(llama_max_parallel_sequences()));
  if (options.n_conversations >= 1 && options.n_conversations <= max_conversations)
    return OkStatus();
  return InvalidArgument(
      fmt::format("{} conversations at once; it can be 1 to {} (the tokens of a ubatch and the "
                  "sequences of llama.cpp)",
                  options.n_conversations, max_conversations));
}

}  // namespace

Result<std::unique_ptr<BenchSession>> BenchModel::NewStockSession(
    ElementType type_k, ElementType type_v, const BenchSessionOptions& options) {
  RKV_RETURN_IF_ERROR(CheckOptions(options));
  const auto k = GgmlType(type_k);
  const auto v = GgmlType(type_v);
  if (!k.has_value() || !v.has_value()) {
    return InvalidArgument(fmt::format("stock llama.cpp has no cache of type {}",
                                       ToString(k.has_value() ? type_v : type_k)));
  }
  auto session =
      std::make_unique<StockSession>(impl_->Stock(), options, *k, *v, impl_->resident_bytes);
  RKV_RETURN_IF_ERROR(session->Init());
  return std::unique_ptr<BenchSession>(std::move(session));
}

Result<std::unique_ptr<BenchSession>> BenchModel::NewSession(const CacheOptions& cache,
                                                             const BenchSessionOptions& options) {
  RKV_RETURN_IF_ERROR(CheckOptions(options));
  auto session = std::make_unique<OurSession>(*impl_->ours, options, impl_->resident_bytes);
  RKV_RETURN_IF_ERROR(session->Init(cache));
  return std::unique_ptr<BenchSession>(std::move(session));
}

const CacheShape& BenchModel::shape() const { return impl_->ours->shape(); }
std::string BenchModel::description() const { return impl_->ours->Description(); }
uint64_t BenchModel::size() const { return llama_model_size(impl_->ours->llama()); }
uint64_t BenchModel::n_params() const { return llama_model_n_params(impl_->ours->llama()); }
uint64_t BenchModel::read_bytes() const { return impl_->read_bytes; }
bool BenchModel::has_stock_weights() const { return impl_->stock != nullptr; }

}  // namespace rkv
