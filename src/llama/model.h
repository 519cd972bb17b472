// A loaded model: weights, vocabulary, vision, one small context, and the bridge inside it.
#ifndef RETENTIVEKV_LLAMA_MODEL_H_
#define RETENTIVEKV_LLAMA_MODEL_H_

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "llama/bridge.h"
#include "llama/embedding_cache.h"
#include "llama/llama_ptr.h"
#include "llama/thread_pools.h"
#include "llama/token.h"
#include "llama/tokenizer.h"
#include "retentivekv/kv_cache.h"
#include "retentivekv/model_options.h"
#include "retentivekv/status.h"

struct llama_vocab;

namespace rkv {

// The default of visual tokens per picture for models of any resolution: the 1280 of 28 x 28 pixels
// that Qwen2-VL recommends.
inline constexpr int kDefaultImageMaxTokens = 1280;

// The finished share of loading, 0 to 1.
using LoadProgress = std::function<void(double fraction)>;

// kUnsupported, with the reason, for a model that this cache cannot serve in conversations of up to
// `n_ctx` positions. Checks the metadata only; Bridge::Probe() checks the graph.
Status CheckServable(const llama_model* model, int n_ctx);

// Whether llama.cpp found a GPU in this machine.
bool HasGpuDevice();

// The version of llama.cpp, e.g. "0.5.0".
std::string LlamaCppVersion();

// True if positions have several components; embeddings then have four each.
bool UsesMrope(const llama_model* model);

// Progress of the vision or audio encoder.
struct EncoderState {
  const StepWatch* watch = nullptr;
  size_t n_layers = 0;  // of the encoder; 0: unknown
  size_t n_done = 0;    // of these
  bool stopped = false;
};

class Model {
 public:
  // Fails with kBadFile for missing, broken and mismatched files, kUnsupported for models that
  // cannot be served (CheckServable, Bridge::Probe). `huge_pages`: for weights that llama.cpp
  // copies.
  static Result<std::unique_ptr<Model>> Load(const EngineOptions& options,
                                             const LoadProgress& progress, bool huge_pages = true);

  llama_model* llama() const { return model_.get(); }
  llama_context* context() const { return context_.get(); }
  const llama_vocab* vocab() const;
  mtmd_context* vision() const { return vision_.get(); }  // null without an mmproj
  Bridge& bridge() { return bridge_; }
  const CacheShape& shape() const { return shape_; }
  const EngineOptions& options() const { return options_; }
  int n_ctx() const { return n_ctx_; }  // longest conversation in positions
  int n_ctx_train() const;              // training length; 0: not known
  int n_vocab() const;
  size_t n_embd_input() const;  // size of an input embedding
  bool uses_mrope() const { return UsesMrope(model_.get()); }
  bool takes_pictures() const;
  bool takes_audio() const;

  // As Bridge::Decode(), in the model's own context.
  Status Decode(const Ubatch& ubatch, const StepWatch* watch = nullptr) {
    return bridge_.Decode(context_.get(), ubatch, watch);
  }
  // Next-token logits [n_vocab] after a row of the last ubatch, valid until the next Decode().
  // REQUIRES: the row is an output of it.
  std::span<const float> Logits(size_t row) const;

  EmbeddingCache& embedding_cache() const { return embedding_cache_; }
  EncoderState& encoder_state() const { return encoder_state_; }
  // Layers of the encoder of pictures, or of clips.
  size_t n_encoder_layers(bool audio) const { return audio ? n_audio_layers_ : n_vision_layers_; }

  // The token that ends an answer. EndsAnswer() is also true for the other end tokens.
  Token EndOfAnswer() const;
  bool EndsAnswer(Token token) const;

  // Identifies the origin of keys and values: a hash over samples of the files of the model and its
  // adapters, and over options that change the computation.
  uint64_t fingerprint() const { return fingerprint_; }
  // Bytes of the weights in huge pages, which the system may run out of.
  size_t huge_page_bytes() const { return huge_page_bytes_; }
  // "SmolLM2-135M Q4_1": name, size and type of the weights. All outputs use this text.
  std::string Description() const;

  const Tokenizer& tokenizer() const { return *tokenizer_; }
  // As Tokenizer::Tokenize(), limited to the maximum tokens of a conversation.
  Result<std::vector<Token>> Tokenize(std::string_view text, bool add_special) const {
    return tokenizer_->Tokenize(text, add_special, static_cast<size_t>(n_ctx_));
  }
  // The bytes of a token; special tokens as text if `special`.
  std::string TokenText(Token token, bool special) const;

 private:
  explicit Model(const EngineOptions& options)
      : options_(options), embedding_cache_(options.media_cache_bytes) {}
  Status LoadWeights(const LoadProgress& progress, bool huge_pages);
  Status MakeContext();
  Status AddAdapters();
  Status LoadVision();

  EngineOptions options_;
  Bridge bridge_;                // before context_: it must outlive it
  LlamaPtr<llama_model> model_;  // frees its adapters too
  ThreadPools thread_pools_;     // before context_, which uses them
  LlamaPtr<llama_context> context_;
  LlamaPtr<mtmd_context> vision_;
  std::optional<Tokenizer> tokenizer_;
  CacheShape shape_;
  int n_ctx_ = 0;
  uint64_t fingerprint_ = 0;
  size_t huge_page_bytes_ = 0;
  size_t n_vision_layers_ = 0;
  size_t n_audio_layers_ = 0;
  mutable EmbeddingCache embedding_cache_;
  mutable EncoderState encoder_state_;
};

}  // namespace rkv

#endif  // RETENTIVEKV_LLAMA_MODEL_H_
