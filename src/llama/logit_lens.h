// Estimates how surprising the tokens of a prompt are to the model, without computing logits:
// llama.cpp computes those of the last token only, and all of them would cost up to a fifth of
// reading the prompt and hundreds of megabytes.
#ifndef RETENTIVEKV_LLAMA_LOGIT_LENS_H_
#define RETENTIVEKV_LLAMA_LOGIT_LENS_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "llama/token.h"

struct ggml_tensor;

namespace rkv {

// The logit lens (nostalgebraist 2020): the model's own output layer reads the residual stream
// before its last block, where all tokens still are. Of the vocabulary it reads the next token and
// a sample.
class LogitLens {
 public:
  // Visits the nodes of an untouched graph in order, to find the output layer.
  void Visit(const ggml_tensor* node, size_t n_vocab);
  // False if the graph has no output layer of the usual form, or its weights cannot be read here.
  bool found() const { return weights_ != nullptr; }
  // Reads the sample. REQUIRES: found(); the graph has been computed. Call it before Surprisal().
  void Prepare();
  bool prepared() const { return !sample_.empty(); }

  // The residual stream that enters the attention with these queries: [n_embd, tokens] on the host;
  // null: not of the usual form.
  const ggml_tensor* ResidualOf(const ggml_tensor* q) const;

  size_t n_vocab() const { return n_vocab_; }
  size_t scratch_size() const { return 2 * n_embd_ + kSample; }
  // -ln p of the token after the one with this residual [n_embd], in nats, up to a constant factor
  // and offset. Thread-safe. REQUIRES: prepared(); scratch_size() elements of scratch.
  float Surprisal(const float* residual, Token next, std::span<float> scratch) const;

 private:
  static constexpr size_t kSample = 256;  // tokens of the vocabulary

  void FindNorm(const ggml_tensor* node);
  void ReadRow(Token token, float* row) const;

  // Nodes, only compared with others of their graph.
  const ggml_tensor* logits_ = nullptr;
  const ggml_tensor* scaled_ = nullptr;  // logits
  // The model's tensors.
  const ggml_tensor* embeddings_ = nullptr;  // of tokens
  const ggml_tensor* weights_ = nullptr;     // [n_vocab, n_embd]
  const ggml_tensor* gain_ = nullptr;        // of the last norm; null: none
  bool centres_ = false;                     // the last norm subtracts the mean
  float logit_scale_ = 1.0f;
  size_t n_embd_ = 0;
  size_t n_vocab_ = 0;
  std::vector<float> sample_;  // [kSample, n_embd]
};

}  // namespace rkv

#endif  // RETENTIVEKV_LLAMA_LOGIT_LENS_H_
