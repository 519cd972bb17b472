// Stock llama.cpp, as its users run it, to compare with.
#ifndef RETENTIVEKV_TESTS_SUPPORT_STOCK_H_
#define RETENTIVEKV_TESTS_SUPPORT_STOCK_H_

#include <llama.h>
#include <mtmd-helper.h>
#include <mtmd.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "llama/log.h"
#include "llama/model.h"

namespace rkv {

// One token of a batch: any sequence, explicit position.
struct BatchEntry {
  int seq = 0;
  llama_token token = 0;
  llama_pos position = 0;
};

// The batch of the entries, with logits for all of them or for the last.
class TestBatch {
 public:
  explicit TestBatch(const std::vector<BatchEntry>& entries, bool only_last = false)
      : batch_(llama_batch_init(static_cast<int32_t>(entries.size()), 0, 1)) {
    batch_.n_tokens = static_cast<int32_t>(entries.size());
    for (size_t i = 0; i < entries.size(); ++i) {
      batch_.token[i] = entries[i].token;
      batch_.pos[i] = entries[i].position;
      batch_.n_seq_id[i] = 1;
      batch_.seq_id[i][0] = entries[i].seq;
      batch_.logits[i] = !only_last || i + 1 == entries.size() ? 1 : 0;
    }
  }
  ~TestBatch() { llama_batch_free(batch_); }
  TestBatch(const TestBatch&) = delete;
  TestBatch& operator=(const TestBatch&) = delete;

  const llama_batch& get() const { return batch_; }

 private:
  llama_batch batch_;
};

inline double RootMeanSquare(const std::vector<float>& x) {
  double square = 0;
  for (const float e : x) square += static_cast<double>(e) * static_cast<double>(e);
  return std::sqrt(square / static_cast<double>(x.size()));
}

// L2 norm of the difference over the L2 norm of `stock`.
inline double RelativeError(const std::vector<float>& logits, const std::vector<float>& stock) {
  double difference = 0;
  double norm = 0;
  for (size_t i = 0; i < stock.size(); ++i) {
    const double d = static_cast<double>(logits[i]) - static_cast<double>(stock[i]);
    difference += d * d;
    norm += static_cast<double>(stock[i]) * static_cast<double>(stock[i]);
  }
  return std::sqrt(difference / norm);
}

// Its own f16 cache of n_ctx cells. Throws on any failure: tests only.
class StockLlama {
 public:
  explicit StockLlama(const std::string& model, const std::string& mmproj = "", int n_ctx = 4096,
                      llama_flash_attn_type flash_attention = LLAMA_FLASH_ATTN_TYPE_ENABLED,
                      const std::function<void(llama_context_params&)>& change = {}) {
    CaptureLlamaLogs();
    ggml_backend_load_all();
    model_.reset(llama_model_load_from_file(model.c_str(), llama_model_default_params()));
    if (model_ == nullptr) throw std::runtime_error("stock llama.cpp cannot load " + model);
    llama_context_params params = llama_context_default_params();
    params.n_ctx = static_cast<uint32_t>(n_ctx);
    params.n_batch = 512;
    params.n_ubatch = 512;
    params.n_seq_max = 4;
    params.n_threads = params.n_threads_batch = 2;
    params.kv_unified = true;
    params.flash_attn_type = flash_attention;
    if (change) change(params);
    context_.reset(llama_init_from_model(model_.get(), params));
    if (context_ == nullptr)
      throw std::runtime_error("stock llama.cpp has no context for " + model);
    if (mmproj.empty()) return;
    mtmd_context_params vision = mtmd_context_params_default();
    vision.n_threads = 2;
    vision.warmup = false;
    vision.print_timings = false;
    vision_.reset(mtmd_init_from_file(mmproj.c_str(), model_.get(), vision));
    if (vision_ == nullptr) throw std::runtime_error("stock llama.cpp cannot load " + mmproj);
  }

  // Decodes the batch and returns the logits after each of its entries, or only after the last.
  std::vector<std::vector<float>> Decode(const std::vector<BatchEntry>& entries,
                                         bool only_last = false) {
    const int rc = llama_decode(context_.get(), TestBatch(entries, only_last).get());
    if (rc != 0) throw std::runtime_error("stock llama_decode failed");
    if (only_last) return {Logits(-1)};
    std::vector<std::vector<float>> logits;
    for (size_t i = 0; i < entries.size(); ++i) logits.push_back(Logits(static_cast<int>(i)));
    return logits;
  }

  // Continues a text greedily by at most `n` tokens. `leads`, if not null, gets by how much the
  // logit of each was larger than any other's. Where two are nearly equal, by `tie` times the
  // logits' root mean square, the token is taken with which `like` goes on.
  std::string Continue(const std::string& prompt, size_t n, std::vector<double>* leads = nullptr,
                       const std::string& like = "", double tie = 0) {
    std::vector<llama_token> tokens(prompt.size());
    tokens.resize(static_cast<size_t>(
        llama_tokenize(vocab(), prompt.data(), static_cast<int32_t>(prompt.size()), tokens.data(),
                       static_cast<int32_t>(tokens.size()), true, true)));
    std::vector<BatchEntry> batch;
    std::vector<float> logits;
    for (size_t i = 0; i < tokens.size(); ++i) {
      batch.push_back({.token = tokens[i], .position = static_cast<llama_pos>(i)});
      if (batch.size() < 512 && i + 1 < tokens.size()) continue;
      logits = Decode(batch, true)[0];
      batch.clear();
    }
    std::string text;
    for (size_t i = 0; i < n; ++i) {
      auto token =
          static_cast<llama_token>(std::max_element(logits.begin(), logits.end()) - logits.begin());
      const float least =
          logits[static_cast<size_t>(token)] - static_cast<float>(tie * RootMeanSquare(logits));
      float best = -std::numeric_limits<float>::infinity();
      for (size_t other = 0; tie > 0 && other < logits.size(); ++other) {
        if (logits[other] < std::max(least, best)) continue;
        const bool ends = llama_vocab_is_eog(vocab(), static_cast<llama_token>(other));
        const std::string piece = Piece(static_cast<llama_token>(other));
        const size_t at = std::min(text.size(), like.size());
        if (ends ? at < like.size() : piece.empty() || like.compare(at, piece.size(), piece) != 0) {
          continue;
        }
        best = logits[other];
        token = static_cast<llama_token>(other);
      }
      if (llama_vocab_is_eog(vocab(), token)) break;
      if (leads != nullptr) {
        std::nth_element(logits.begin(), logits.begin() + 1, logits.end(), std::greater<>());
        leads->push_back(static_cast<double>(logits[0]) - static_cast<double>(logits[1]));
      }
      text += Piece(token);
      logits = Decode({{.token = token, .position = static_cast<llama_pos>(tokens.size() + i)}})[0];
    }
    return text;
  }

  // Reads text with pictures, one media marker each; returns the next position.
  llama_pos ReadPrompt(const std::string& text, const std::vector<std::string>& files,
                       llama_pos n_past) {
    std::vector<LlamaPtr<mtmd_bitmap>> bitmaps;
    std::vector<const mtmd_bitmap*> pointers;
    for (const std::string& file : files) {
      bitmaps.emplace_back(mtmd_helper_bitmap_init_from_file(vision_.get(), file.c_str(), false,
                                                             mtmd_helper_init_opt_default())
                               .bitmap);
      pointers.push_back(bitmaps.back().get());
    }
    const mtmd_input_text input{.text = text.data(),
                                .text_len = text.size(),
                                .add_special = n_past == 0,
                                .parse_special = true};
    const LlamaPtr<mtmd_input_chunks> chunks(mtmd_input_chunks_init());
    if (mtmd_tokenize(vision_.get(), chunks.get(), &input, pointers.data(), pointers.size()) != 0 ||
        mtmd_helper_eval_chunks(vision_.get(), context_.get(), chunks.get(), n_past, 0, 512, true,
                                &n_past) != 0) {
      throw std::runtime_error("stock llama.cpp cannot read the prompt");
    }
    return n_past;
  }

  // Forgets positions >= `position` of a sequence.
  void RollBack(int seq, llama_pos position) {
    llama_memory_seq_rm(llama_get_memory(context_.get()), seq, position, -1);
  }

  std::vector<float> Logits(int i) {
    const float* logits = llama_get_logits_ith(context_.get(), i);
    return {logits, logits + llama_vocab_n_tokens(vocab())};
  }
  llama_context* context() const { return context_.get(); }
  std::string Piece(llama_token token) const {
    char piece[128];
    const int length = llama_token_to_piece(vocab(), token, piece, sizeof(piece), 0, false);
    return {piece, static_cast<size_t>(std::max(length, 0))};
  }

  const llama_vocab* vocab() const { return llama_model_get_vocab(model_.get()); }

 private:
  LlamaPtr<llama_model> model_;
  LlamaPtr<llama_context> context_;
  LlamaPtr<mtmd_context> vision_;
};

}  // namespace rkv

#endif  // RETENTIVEKV_TESTS_SUPPORT_STOCK_H_
