#include "llama/logit_lens.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string_view>

#include "kernels/distance.h"
#include "llama/tensor.h"

namespace rkv {

namespace {

constexpr int kMaxSteps = 32;  // of a walk through a graph

bool IsWeight(const ggml_tensor* tensor) {
  return tensor != nullptr && tensor->op == GGML_OP_NONE && tensor->view_src == nullptr;
}

bool IsNorm(const ggml_tensor* tensor) {
  return tensor->op == GGML_OP_NORM || tensor->op == GGML_OP_RMS_NORM;
}

// Multiplied or added by element.
bool AppliesWeight(const ggml_tensor* tensor) {
  return (tensor->op == GGML_OP_MUL || tensor->op == GGML_OP_ADD) && IsWeight(tensor->src[1]);
}

}  // namespace

void LogitLens::Visit(const ggml_tensor* node, size_t n_vocab) {
  if (node->op == GGML_OP_GET_ROWS && IsWeight(node->src[0]) &&
      std::string_view(node->src[0]->name).starts_with("token_embd")) {
    embeddings_ = node->src[0];
  }
  if (logits_ != nullptr) {
    // Some models scale logits. A bound on them (a scale, tanh, a scale) does not matter.
    if (node->op == GGML_OP_SCALE && node->src[0] == logits_) {
      std::memcpy(&logit_scale_, node->op_params, sizeof(logit_scale_));
      scaled_ = node;
    } else if (node->op == GGML_OP_UNARY && scaled_ != nullptr && node->src[0] == scaled_) {
      logit_scale_ = 1.0f;
    }
    return;
  }
  if (node->op != GGML_OP_MUL_MAT || node->ne[0] != static_cast<int64_t>(n_vocab) ||
      !IsWeight(node->src[0])) {
    return;
  }
  logits_ = node;
  n_vocab_ = n_vocab;
  n_embd_ = static_cast<size_t>(node->src[0]->ne[0]);
  const ggml_tensor* weights = node->src[0];
  // Tied weights exist twice where the second copy has a layout of its own.
  if (!IsOnHost(weights) && embeddings_ != nullptr &&
      std::string_view(weights->name) == embeddings_->name) {
    weights = embeddings_;
  }
  const bool decodes =
      weights->type == GGML_TYPE_F32 || ggml_get_type_traits(weights->type)->to_float != nullptr;
  if (decodes && IsOnHost(weights)) FindNorm(node);
  if (gain_ != nullptr) weights_ = weights;
}

void LogitLens::FindNorm(const ggml_tensor* node) {
  const ggml_tensor* at = node->src[1];
  for (int step = 0; step < kMaxSteps && at != nullptr; ++step, at = at->src[0]) {
    if (IsNorm(at)) {
      centres_ = at->op == GGML_OP_NORM;
      return;
    }
    const bool gain = at->op == GGML_OP_MUL && IsWeight(at->src[1]) &&
                      at->src[1]->type == GGML_TYPE_F32 && IsOnHost(at->src[1]) &&
                      ggml_nelements(at->src[1]) == static_cast<int64_t>(n_embd_);
    if (gain) gain_ = at->src[1];
  }
  gain_ = nullptr;  // Another form than gain * norm(x).
}

void LogitLens::ReadRow(Token token, float* row) const {
  const auto* data =
      static_cast<const char*>(weights_->data) + static_cast<size_t>(token) * weights_->nb[1];
  if (weights_->type == GGML_TYPE_F32) {
    std::memcpy(row, data, n_embd_ * sizeof(float));
  } else {
    ggml_get_type_traits(weights_->type)->to_float(data, row, static_cast<int64_t>(n_embd_));
  }
}

void LogitLens::Prepare() {
  sample_.resize(kSample * n_embd_);
  // Vocabularies begin with frequent tokens, so the sample is spread evenly.
  for (size_t i = 0; i < kSample; ++i) {
    ReadRow(static_cast<Token>(i * n_vocab_ / kSample), sample_.data() + i * n_embd_);
  }
}

const ggml_tensor* LogitLens::ResidualOf(const ggml_tensor* q) const {
  const ggml_tensor* at = q;
  const auto n_embd = static_cast<int64_t>(n_embd_);
  for (int step = 0; step < kMaxSteps && at != nullptr; ++step, at = at->src[0]) {
    if (at->op == GGML_OP_MUL_MAT && IsWeight(at->src[0]) && at->src[0]->ne[0] == n_embd) break;
  }
  if (at == nullptr || at->op != GGML_OP_MUL_MAT) return nullptr;
  at = at->src[1];
  for (int step = 0; step < kMaxSteps && AppliesWeight(at); ++step) at = at->src[0];
  if (IsNorm(at)) at = at->src[0];
  const bool usable = at->type == GGML_TYPE_F32 && at->ne[0] == n_embd &&
                      at->nb[0] == sizeof(float) && at->ne[2] == 1 && at->ne[3] == 1 &&
                      IsOnHost(at);
  return usable ? at : nullptr;
}

float LogitLens::Surprisal(const float* residual, Token next, std::span<float> scratch) const {
  float* x = scratch.data();
  float* row = x + n_embd_;
  float* logits = row + n_embd_;
  float mean = 0;
  if (centres_) {
    for (size_t e = 0; e < n_embd_; ++e) mean += residual[e];
    mean /= static_cast<float>(n_embd_);
  }
  for (size_t e = 0; e < n_embd_; ++e) x[e] = residual[e] - mean;
  float square = 0;
  SquaredNorms(x, 1, n_embd_, &square);
  constexpr float kEpsilon = 1e-6f;
  const auto* gains = static_cast<const float*>(gain_->data);
  const float scale = logit_scale_ / std::sqrt(square / static_cast<float>(n_embd_) + kEpsilon);
  for (size_t e = 0; e < n_embd_; ++e) x[e] *= scale * gains[e];
  float logit = 0;
  ReadRow(next, row);
  DotProducts(row, 1, n_embd_, x, &logit);
  DotProducts(sample_.data(), kSample, n_embd_, x, logits);
  // ln of the sum of exp over the vocabulary, of which the sample and `next` are a part.
  float max = logit;
  for (size_t i = 0; i < kSample; ++i) max = std::max(max, logits[i]);
  double sum = 0;
  for (size_t i = 0; i < kSample; ++i) sum += std::exp(static_cast<double>(logits[i] - max));
  const double others = sum * static_cast<double>(n_vocab_) / static_cast<double>(kSample);
  const auto own = static_cast<double>(logit - max);
  return static_cast<float>(std::log(others + std::exp(own)) - own);
}

}  // namespace rkv
