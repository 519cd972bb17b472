#include "lab/stock_reader.h"

#include <fmt/format.h>
#include <llama.h>

#include <algorithm>
#include <optional>
#include <thread>
#include <utility>

#include "llama/llama_ptr.h"
#include "llama/log.h"

namespace rkv {

namespace {

constexpr size_t kUbatch = 512;

}  // namespace

struct StockReader::Impl {
  LlamaPtr<llama_model> model;
  LlamaPtr<llama_context> ctx;
  std::optional<bool> flash_attention;  // of `ctx`
  size_t n_ctx = 0;
  int n_threads = 0;
  size_t n_read = 0;

  Status MakeContext(bool flash) {
    if (flash_attention == flash) return OkStatus();
    llama_context_params params = llama_context_default_params();
    params.n_ctx = static_cast<uint32_t>(n_ctx);
    params.n_batch = kUbatch;
    params.n_ubatch = kUbatch;
    params.n_threads = n_threads;
    params.n_threads_batch = n_threads;
    params.no_perf = true;
    params.flash_attn_type = flash ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    const LlamaErrorLog log;
    ctx.reset(llama_init_from_model(model.get(), params));
    if (ctx == nullptr)
      return Internal(fmt::format("stock llama.cpp makes no context{}", log.Reason()));
    flash_attention = flash;
    return OkStatus();
  }

  // Decodes tokens at positions from `position` on. Calls `take` for each token from number `first`
  // on.
  template <typename Take>
  Status Decode(std::span<const int32_t> tokens, size_t position, size_t first, const Take& take) {
    if (position + tokens.size() > n_ctx) {
      return ResourceExhausted(fmt::format("a text of {} tokens is longer than the context of {}",
                                           position + tokens.size(), n_ctx));
    }
    llama_batch batch = llama_batch_init(static_cast<int32_t>(kUbatch), 0, 1);
    Status status = OkStatus();
    for (size_t begin = 0; begin < tokens.size() && status.ok(); begin += kUbatch) {
      const size_t n = std::min(kUbatch, tokens.size() - begin);
      batch.n_tokens = static_cast<int32_t>(n);
      for (size_t i = 0; i < n; ++i) {
        batch.token[i] = tokens[begin + i];
        batch.pos[i] = static_cast<llama_pos>(position + begin + i);
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = begin + i >= first ? 1 : 0;
      }
      const int rc = llama_decode(ctx.get(), batch);
      if (rc != 0) status = Internal(fmt::format("stock llama_decode failed with {}", rc));
      for (size_t i = 0; i < n && status.ok(); ++i) {
        if (begin + i >= first) take(llama_get_logits_ith(ctx.get(), static_cast<int32_t>(i)));
      }
    }
    llama_batch_free(batch);
    return status;
  }
};

StockReader::StockReader(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
StockReader::~StockReader() = default;

Result<std::unique_ptr<StockReader>> StockReader::Load(const std::string& path, size_t n_ctx,
                                                       int n_threads) {
  auto impl = std::make_unique<Impl>();
  const LlamaErrorLog log;
  impl->model.reset(llama_model_load_from_file(path.c_str(), llama_model_default_params()));
  if (impl->model == nullptr) {
    return BadFile(fmt::format("stock llama.cpp does not load '{}'{}", path, log.Reason()));
  }
  impl->n_ctx = n_ctx;
  const auto n_cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  impl->n_threads = n_threads > 0 ? n_threads : n_cores;
  return std::unique_ptr<StockReader>(new StockReader(std::move(impl)));
}

Status StockReader::Read(std::span<const int32_t> tokens, bool flash_attention) {
  RKV_RETURN_IF_ERROR(impl_->MakeContext(flash_attention));
  llama_memory_clear(llama_get_memory(impl_->ctx.get()), false);
  impl_->n_read = tokens.size();
  return impl_->Decode(tokens, 0, tokens.size(), [](const float*) {});
}

Result<std::vector<std::vector<float>>> StockReader::Continue(std::span<const int32_t> tokens,
                                                              size_t first) {
  std::vector<std::vector<float>> logits;
  const auto n_vocab =
      static_cast<size_t>(llama_vocab_n_tokens(llama_model_get_vocab(impl_->model.get())));
  RKV_RETURN_IF_ERROR(impl_->Decode(tokens, impl_->n_read, first, [&](const float* row) {
    logits.emplace_back(row, row + n_vocab);
  }));
  if (!llama_memory_seq_rm(llama_get_memory(impl_->ctx.get()), 0,
                           static_cast<llama_pos>(impl_->n_read), -1)) {
    return Internal("llama.cpp cannot go back to an earlier token");
  }
  return logits;
}

}  // namespace rkv
