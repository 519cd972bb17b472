// Small models with random weights, as GGUF files that stock llama.cpp loads.
//
// Such a model says nothing sensible, but its attention is as real as that of a trained one: its
// output depends on every token and picture of the input. That makes it a cheap subject for
// comparing two implementations of the same computation, for every architecture, head size and
// weight type on its own.
#ifndef RETENTIVEKV_LAB_MODEL_MAKER_H_
#define RETENTIVEKV_LAB_MODEL_MAKER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "retentivekv/status.h"

namespace rkv {

// The model to make. The defaults give a two-layer model of a few megabytes.
struct ModelSpec {
  // One of MakeModelArchs().
  std::string arch = "qwen2";

  int n_layer = 2;    // transformer (or recurrent) blocks
  int n_head = 4;     // query heads
  int n_head_kv = 2;  // key/value heads; divides n_head, equal to it for plain MHA
  int head_dim = 64;  // channels per head; even
  // Width of the residual stream in channels. 0 chooses: 256, or n_head * head_dim for qwen2 and
  // qwen2vl, which llama.cpp loads with that width only.
  int n_embd = 0;
  int n_ff = 512;           // hidden width of the feed-forward part, or of one expert
  int n_expert_used = 2;    // openai-moe: of its four experts, per token
  int n_ctx_train = 32768;  // tokens the model claims to have been trained on
  // Tokens of the vocabulary; those beyond the tokenizer's 288 are unused. 0: 288.
  int n_vocab = 0;
  bool tied_output = false;  // the output matrix is that of the embeddings (always so in gemma2)

  // Type of the weight matrices: "f32", "f16", "q8_0" or "q4_0". Norms, biases and other small
  // tensors are always f32. The quantised types store blocks of 32 values, so they need head_dim,
  // n_embd and n_ff to be multiples of 32.
  std::string type = "f16";

  // The same spec gives the same bytes. Each tensor has its own random stream, keyed by the seed
  // and the tensor's name. So architectures of equal sizes have equal common tensors.
  uint64_t seed = 1;
};

// The architectures, by the names that ModelSpec::arch takes:
//
//   llama        plain attention with RoPE; make it MHA with n_head_kv == n_head
//   qwen2        grouped-query attention, biases on Q, K and V
//   qwen3        RMS norm on Q and K
//   qwen2vl      qwen2 with M-RoPE (three position coordinates); has a vision projector
//   qwen3vl      qwen3 with interleaved M-RoPE: the language model of Qwen3-VL
//   llava        the llama architecture in its file; has a vision projector
//   gemma2       soft-capped attention scores; its sliding window is n_ctx_train, so never bites
//   openai-moe   attention sinks, and experts; window as for gemma2
//   gemma2-swa   gemma2 with a sliding window of 512 tokens on every other layer
//   mamba        recurrent: there is no KV cache; the head counts and n_ff do not apply
//   deepseek2    MLA: the cache holds one compressed vector per token; n_head_kv does not apply
//
// A cache that drops or merges single keys and values must refuse the last three.
//
// All share one tokenizer of 288 tokens: the 256 bytes (token id == byte value), a few merges of
// common English pairs, and the ChatML and vision markers. The end-of-sequence token is
// <|im_end|>, no token is added at the beginning, and the chat template is ChatML.
const std::vector<std::string>& MakeModelArchs();

// True if `arch` has a vision projector, so that MakeMmproj() can make it.
bool MakeModelHasVision(const std::string& arch);

// Released models, of which MakeModel() makes the language model in its exact shape with random
// weights, so that its speed and memory can be measured.
struct ReleasedShape {
  const char* name;
  ModelSpec spec;
};
const std::vector<ReleasedShape>& ReleasedShapes();

// Writes the language model to `path`, a tensor at a time, replacing an existing file. Errors:
// InvalidArgument if the spec is impossible; BadFile if `path` cannot be written, and
// ResourceExhausted if the disk is full. `path` is unchanged after these two.
Status MakeModel(const ModelSpec& spec, const std::string& path);

// Writes the vision projector (the `--mmproj` file) that goes with MakeModel(spec) to `path`:
//   qwen2vl   as many tokens as the picture has cells of 28 x 28 pixels; stock llama.cpp first
//             scales small pictures up to 8 tokens
//   llava     always 16 tokens: the picture is scaled to 56 x 56 pixels, patches are 14 x 14
// Errors: as for MakeModel; also InvalidArgument for an arch without vision.
Status MakeMmproj(const ModelSpec& spec, const std::string& path);

}  // namespace rkv

#endif  // RETENTIVEKV_LAB_MODEL_MAKER_H_
