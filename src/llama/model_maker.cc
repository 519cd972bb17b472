#include "retentivekv/model_maker.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <memory>
#include <string_view>
#include <utility>

#include "base/file.h"
#include "base/random.h"
#include "ggml.h"
#include "gguf.h"

namespace rkv {
namespace {

// ---- Random numbers ---------------------------------------------------------

uint64_t HashName(std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325ULL;  // FNV-1a
  for (unsigned char c : name) hash = (hash ^ c) * 0x100000001b3ULL;
  return hash;
}

// Normally distributed numbers, as centred sums of eight 16-bit uniform ones. The sum is an exact
// integer, which makes the stream the same on every platform; logarithms and cosines, which differ
// between C libraries in the last bit, would not be.
class NormalStream {
 public:
  NormalStream(uint64_t seed, std::string_view name)
      : random_(Random(seed).NextU64() ^ HashName(name)) {}

  // Mean 0, standard deviation 1, never beyond +-4.9.
  double Next() {
    uint64_t sum = 0;
    for (int draw = 0; draw < 2; ++draw) {
      const uint64_t bits = random_.NextU64();
      for (int shift = 0; shift < 64; shift += 16) sum += (bits >> shift) & 0xffff;
    }
    constexpr double kMean = 8 * 65535 / 2.0;
    static const double kStd = std::sqrt(8 * (65536.0 * 65536.0 - 1) / 12);
    return (static_cast<double>(sum) - kMean) / kStd;
  }

 private:
  Random random_;
};

// ---- Weight types -----------------------------------------------------------

struct WeightType {
  const char* name;
  ggml_type type;
  ggml_ftype file_type;
};

constexpr WeightType kWeightTypes[] = {
    {"f32", GGML_TYPE_F32, GGML_FTYPE_ALL_F32},
    {"f16", GGML_TYPE_F16, GGML_FTYPE_MOSTLY_F16},
    {"q8_0", GGML_TYPE_Q8_0, GGML_FTYPE_MOSTLY_Q8_0},
    {"q4_0", GGML_TYPE_Q4_0, GGML_FTYPE_MOSTLY_Q4_0},
};

const WeightType* FindWeightType(const std::string& name) {
  for (const WeightType& type : kWeightTypes) {
    if (name == type.name) return &type;
  }
  return nullptr;
}

// ---- The file being made ----------------------------------------------------

struct Deleter {
  void operator()(gguf_context* gguf) const { gguf_free(gguf); }
  void operator()(ggml_context* ggml) const { ggml_free(ggml); }
};

// Collects the keys and the tensors of one GGUF file. Keys that start with "." belong to the
// architecture: ".block_count" is stored as "<arch>.block_count".
class FileBuilder {
 public:
  FileBuilder(const char* arch, const WeightType& weights, uint64_t seed)
      : arch_(arch), weights_(weights), seed_(seed), gguf_(gguf_init_empty()) {
    Set("general.architecture", arch);
    Set("general.file_type", static_cast<int>(weights.file_type));
  }

  void Set(const std::string& key, const char* value) {
    gguf_set_val_str(gguf_.get(), Full(key).c_str(), value);
  }
  void Set(const std::string& key, bool value) {
    gguf_set_val_bool(gguf_.get(), Full(key).c_str(), value);
  }
  // llama.cpp reads counts and sizes as unsigned numbers.
  void Set(const std::string& key, int value) {
    gguf_set_val_u32(gguf_.get(), Full(key).c_str(), static_cast<uint32_t>(value));
  }
  void Set(const std::string& key, double value) {
    gguf_set_val_f32(gguf_.get(), Full(key).c_str(), static_cast<float>(value));
  }
  void Set(const std::string& key, const std::vector<int32_t>& values) {
    gguf_set_arr_data(gguf_.get(), Full(key).c_str(), GGUF_TYPE_INT32, values.data(),
                      values.size());
  }
  void Set(const std::string& key, const std::vector<float>& values) {
    gguf_set_arr_data(gguf_.get(), Full(key).c_str(), GGUF_TYPE_FLOAT32, values.data(),
                      values.size());
  }
  void Set(const std::string& key, const std::vector<std::string>& values) {
    std::vector<const char*> pointers;
    for (const std::string& value : values) pointers.push_back(value.c_str());
    gguf_set_arr_str(gguf_.get(), Full(key).c_str(), pointers.data(), pointers.size());
  }

  // A weight matrix that takes vectors of shape[0] channels (further dimensions as ggml orders
  // them). `gain` is the factor by which it scales the RMS of a random vector.
  void Matrix(const std::string& name, std::vector<int64_t> shape, double gain = 1.0) {
    const double std = gain / std::sqrt(static_cast<double>(shape[0]));
    Tensor(name, weights_.type, std::move(shape), 0.0, std);
  }
  void Vector(const std::string& name, int64_t n, double mean, double std) {
    Tensor(name, GGML_TYPE_F32, {n}, mean, std);
  }
  void Tensor(const std::string& name, ggml_type type, std::vector<int64_t> shape, double mean,
              double std) {
    tensors_.push_back({name, type, std::move(shape), mean, std});
  }
  // The scale of an RMS norm, and scale and offset of a layer norm.
  void RmsNorm(const std::string& name, int64_t n) { Vector(name + ".weight", n, 1.0, 0.1); }
  void LayerNorm(const std::string& name, int64_t n) {
    RmsNorm(name, n);
    Bias(name, n);
  }
  void Bias(const std::string& name, int64_t n) { Vector(name + ".bias", n, 0.0, 0.1); }

  Status Write(const std::string& path);

 private:
  struct TensorSpec {
    std::string name;
    ggml_type type;
    std::vector<int64_t> shape;
    double mean;
    double std;
  };

  std::string Full(const std::string& key) const { return key[0] == '.' ? arch_ + key : key; }
  std::string Weights(const TensorSpec& spec) const;

  const std::string arch_;
  const WeightType weights_;
  const uint64_t seed_;
  std::unique_ptr<gguf_context, Deleter> gguf_;
  std::vector<TensorSpec> tensors_;
};

std::string FileBuilder::Weights(const TensorSpec& spec) const {
  const int64_t n_per_row = spec.shape[0];
  int64_t n_rows = 1;
  for (size_t i = 1; i < spec.shape.size(); ++i) n_rows *= spec.shape[i];

  NormalStream stream(seed_, spec.name);
  std::vector<float> values(static_cast<size_t>(n_rows * n_per_row));
  for (float& value : values) value = static_cast<float>(spec.mean + spec.std * stream.Next());

  std::string bytes(ggml_row_size(spec.type, n_per_row) * static_cast<size_t>(n_rows), '\0');
  ggml_quantize_chunk(spec.type, values.data(), bytes.data(), 0, n_rows, n_per_row, nullptr);
  return bytes;
}

// gguf.h writes straight to the target, where a full disk would leave half a model behind; so the
// file is put together here: the metadata, then each tensor padded to the alignment.
Status FileBuilder::Write(const std::string& path) {
  const ggml_init_params params = {(tensors_.size() + 1) * ggml_tensor_overhead(), nullptr,
                                   /*no_alloc=*/true};
  std::unique_ptr<ggml_context, Deleter> ggml(ggml_init(params));
  for (const TensorSpec& spec : tensors_) {
    ggml_tensor* tensor = ggml_new_tensor(ggml.get(), spec.type,
                                          static_cast<int>(spec.shape.size()), spec.shape.data());
    ggml_set_name(tensor, spec.name.c_str());
    gguf_add_tensor(gguf_.get(), tensor);
  }
  std::string bytes(gguf_get_meta_size(gguf_.get()), '\0');
  gguf_get_meta_data(gguf_.get(), bytes.data());
  for (const TensorSpec& spec : tensors_) {
    bytes += Weights(spec);
    bytes.resize(GGML_PAD(bytes.size(), gguf_get_alignment(gguf_.get())), '\0');
  }
  return WriteFileAtomically(path, bytes);
}

// ---- Tokenizer --------------------------------------------------------------

constexpr int kTokenNormal = 1;   // LLAMA_TOKEN_TYPE_NORMAL
constexpr int kTokenControl = 3;  // LLAMA_TOKEN_TYPE_CONTROL

// Common English pairs, each of tokens made before it. "Ġ" is how byte-level BPE spells a space.
// llama.cpp refuses a vocabulary without merges.
constexpr const char* kMerges[] = {
    "h e", "i n", "Ġ t", "Ġt he", "e r", "Ġ a", "o n",  "r e",  "Ġ s",
    "a t", "e n", "o r", "Ġ w",   "n d", "i s", "Ġ o",  "e s",  "Ġa nd",
    "o u", "i t", "a n", "Ġo f",  "a l", "a r", "in g", "Ġt o",
};

constexpr const char* kControlTokens[] = {
    "<|im_start|>",     "<|im_end|>",     "<|endoftext|>",
    "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
};

constexpr const char kChatTemplate[] =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.content is string %}{{ m.content }}"
    "{% else %}{% for c in m.content %}{% if c.type == 'text' %}{{ c.text }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

// The printable character that stands for each byte in byte-level BPE: the byte's own Latin-1
// character where that is printable, the next free one from U+0100 on where it is not.
std::vector<std::string> ByteTokens() {
  std::vector<std::string> tokens;
  uint32_t next_free = 0x100;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable =
        (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    const uint32_t code = printable ? byte : next_free++;
    if (code < 0x80) {
      tokens.push_back(std::string(1, static_cast<char>(code)));
    } else {
      tokens.push_back(
          {static_cast<char>(0xc0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3f))});
    }
  }
  return tokens;
}

// Writes the tokenizer's keys and returns the number of tokens.
int AddTokenizer(FileBuilder* file) {
  std::vector<std::string> tokens = ByteTokens();
  for (std::string merge : kMerges) {
    merge.erase(merge.find(' '), 1);
    tokens.push_back(merge);
  }
  std::vector<int32_t> types(tokens.size(), kTokenNormal);
  for (const char* token : kControlTokens) {
    tokens.push_back(token);
    types.push_back(kTokenControl);
  }
  const auto id_of = [&tokens](const char* token) {
    return static_cast<int>(std::find(tokens.begin(), tokens.end(), token) - tokens.begin());
  };

  file->Set("tokenizer.ggml.model", "gpt2");
  file->Set("tokenizer.ggml.pre", "qwen2");
  file->Set("tokenizer.ggml.tokens", tokens);
  file->Set("tokenizer.ggml.token_type", types);
  file->Set("tokenizer.ggml.merges",
            std::vector<std::string>(std::begin(kMerges), std::end(kMerges)));
  file->Set("tokenizer.ggml.bos_token_id", id_of("<|endoftext|>"));
  file->Set("tokenizer.ggml.eos_token_id", id_of("<|im_end|>"));
  file->Set("tokenizer.ggml.padding_token_id", id_of("<|endoftext|>"));
  file->Set("tokenizer.ggml.add_bos_token", false);
  file->Set("tokenizer.chat_template", kChatTemplate);
  return static_cast<int>(tokens.size());
}

// ---- Layers of the language models ------------------------------------------

// Gain of W_q and of W_k. It gives attention scores a standard deviation of about 3, which makes
// attention choose among tokens instead of averaging over all of them.
constexpr double kQueryKeyGain = 1.75;
// Gain of the matrices that add to the residual stream. An attention output and an activated
// feed-forward layer have an RMS below 1; this brings them near that of the embeddings.
constexpr double kBranchGain = 1.5;
// Gain of the output matrix: the standard deviation of the logits.
constexpr double kLogitGain = 2.0;

std::string Block(int layer) { return fmt::format("blk.{}.", layer); }

void AddAttention(FileBuilder* file, const ModelSpec& spec, const std::string& block,
                  double query_key_gain = kQueryKeyGain) {
  const int64_t n_q = spec.n_head * spec.head_dim;
  const int64_t n_kv = spec.n_head_kv * spec.head_dim;
  file->RmsNorm(block + "attn_norm", spec.n_embd);
  file->Matrix(block + "attn_q.weight", {spec.n_embd, n_q}, query_key_gain);
  file->Matrix(block + "attn_k.weight", {spec.n_embd, n_kv}, query_key_gain);
  file->Matrix(block + "attn_v.weight", {spec.n_embd, n_kv});
  file->Matrix(block + "attn_output.weight", {n_q, spec.n_embd}, kBranchGain);
}

void AddQkvBias(FileBuilder* file, const ModelSpec& spec, const std::string& block) {
  file->Bias(block + "attn_q", spec.n_head * spec.head_dim);
  file->Bias(block + "attn_k", spec.n_head_kv * spec.head_dim);
  file->Bias(block + "attn_v", spec.n_head_kv * spec.head_dim);
}

void AddFeedForward(FileBuilder* file, const ModelSpec& spec, const std::string& block) {
  file->RmsNorm(block + "ffn_norm", spec.n_embd);
  file->Matrix(block + "ffn_gate.weight", {spec.n_embd, spec.n_ff});
  file->Matrix(block + "ffn_up.weight", {spec.n_embd, spec.n_ff});
  file->Matrix(block + "ffn_down.weight", {spec.n_ff, spec.n_embd}, kBranchGain);
}

void AddLlamaLayer(FileBuilder* file, const ModelSpec& spec, const std::string& block) {
  AddAttention(file, spec, block);
  AddFeedForward(file, spec, block);
}

void AddQwen2Layer(FileBuilder* file, const ModelSpec& spec, const std::string& block) {
  AddLlamaLayer(file, spec, block);
  AddQkvBias(file, spec, block);
}

void AddQwen3Layer(FileBuilder* file, const ModelSpec& spec, const std::string& block) {
  AddLlamaLayer(file, spec, block);
  // The norm undoes any gain of W_q and W_k, so here it has to bring the gain itself.
  file->Vector(block + "attn_q_norm.weight", spec.head_dim, kQueryKeyGain, 0.1);
  file->Vector(block + "attn_k_norm.weight", spec.head_dim, kQueryKeyGain, 0.1);
}

void AddGemma2Layer(FileBuilder* file, const ModelSpec& spec, const std::string& block) {
  AddLlamaLayer(file, spec, block);
  file->RmsNorm(block + "post_attention_norm", spec.n_embd);
  file->RmsNorm(block + "post_ffw_norm", spec.n_embd);
}

constexpr int kExperts = 4;
constexpr int kExpertsUsed = 2;
// A sink competes with the exponentials of all scores. These gains and sinks let it take a tenth
// or so of the attention over a few hundred tokens; beside the scores of the other architectures
// it would not be noticed.
constexpr double kSinkQueryKeyGain = 1.25;
constexpr double kSinkMean = 4.0;
constexpr double kSinkStd = 1.0;

void AddOpenAiMoeLayer(FileBuilder* file, const ModelSpec& spec, const std::string& block) {
  AddAttention(file, spec, block, kSinkQueryKeyGain);
  AddQkvBias(file, spec, block);
  file->Bias(block + "attn_output", spec.n_embd);
  file->Vector(block + "attn_sinks.weight", spec.n_head, kSinkMean, kSinkStd);

  const int64_t n_embd = spec.n_embd;
  const int64_t n_ff = spec.n_ff;
  file->RmsNorm(block + "post_attention_norm", n_embd);
  file->Tensor(block + "ffn_gate_inp.weight", GGML_TYPE_F32, {n_embd, kExperts}, 0.0,
               1.0 / std::sqrt(static_cast<double>(n_embd)));
  file->Bias(block + "ffn_gate_inp", kExperts);
  file->Matrix(block + "ffn_gate_exps.weight", {n_embd, n_ff, kExperts});
  file->Matrix(block + "ffn_up_exps.weight", {n_embd, n_ff, kExperts});
  file->Matrix(block + "ffn_down_exps.weight", {n_ff, n_embd, kExperts});
  file->Tensor(block + "ffn_gate_exps.bias", GGML_TYPE_F32, {n_ff, kExperts}, 0.0, 0.1);
  file->Tensor(block + "ffn_up_exps.bias", GGML_TYPE_F32, {n_ff, kExperts}, 0.0, 0.1);
  file->Tensor(block + "ffn_down_exps.bias", GGML_TYPE_F32, {n_embd, kExperts}, 0.0, 0.1);
}

// Sizes of the state space model. llama.cpp wants twice n_embd as its inner size.
constexpr int kSsmConv = 4;
constexpr int kSsmState = 16;
constexpr int kSsmTimeRank = 32;

void AddMambaLayer(FileBuilder* file, const ModelSpec& spec, const std::string& block) {
  const int64_t n_embd = spec.n_embd;
  const int64_t n_inner = 2 * n_embd;
  file->RmsNorm(block + "attn_norm", n_embd);
  file->Matrix(block + "ssm_in.weight", {n_embd, 2 * n_inner});
  file->Tensor(block + "ssm_conv1d.weight", GGML_TYPE_F32, {kSsmConv, n_inner}, 0.0, 0.5);
  file->Bias(block + "ssm_conv1d", n_inner);
  file->Matrix(block + "ssm_x.weight", {n_inner, kSsmTimeRank + 2 * kSsmState});
  file->Matrix(block + "ssm_dt.weight", {kSsmTimeRank, n_inner});
  // Time steps around 0.1 and decay rates around 1: the state remembers some tens of tokens.
  file->Vector(block + "ssm_dt.bias", n_inner, -2.0, 0.5);
  file->Tensor(block + "ssm_a", GGML_TYPE_F32, {kSsmState, n_inner}, -1.0, 0.2);
  file->Vector(block + "ssm_d", n_inner, 1.0, 0.1);
  file->Matrix(block + "ssm_out.weight", {n_inner, n_embd}, kBranchGain);
}

// Sizes of the compressed attention. A cache row holds head_dim channels shared by all heads, from
// which keys and values are expanded, and kMlaRope channels of a key that carries the position.
constexpr int kMlaRope = 32;
constexpr int kMlaQueryRank = 64;

void AddDeepseek2Layer(FileBuilder* file, const ModelSpec& spec, const std::string& block) {
  const int64_t n_embd = spec.n_embd;
  const int64_t head_dim = spec.head_dim;
  const int64_t n_head = spec.n_head;
  file->RmsNorm(block + "attn_norm", n_embd);
  file->Matrix(block + "attn_q_a.weight", {n_embd, kMlaQueryRank});
  file->RmsNorm(block + "attn_q_a_norm", kMlaQueryRank);
  file->Matrix(block + "attn_q_b.weight", {kMlaQueryRank, n_head * (head_dim + kMlaRope)},
               kQueryKeyGain);
  file->Matrix(block + "attn_kv_a_mqa.weight", {n_embd, head_dim + kMlaRope}, kQueryKeyGain);
  file->RmsNorm(block + "attn_kv_a_norm", head_dim);
  file->Matrix(block + "attn_k_b.weight", {head_dim, head_dim, n_head}, kQueryKeyGain);
  file->Matrix(block + "attn_v_b.weight", {head_dim, head_dim, n_head});
  file->Matrix(block + "attn_output.weight", {n_head * head_dim, n_embd}, kBranchGain);
  AddFeedForward(file, spec, block);
}

// ---- Keys of the language models --------------------------------------------

void SetHeadKeys(FileBuilder* file, const ModelSpec& spec) {
  file->Set(".feed_forward_length", spec.n_ff);
  file->Set(".attention.head_count", spec.n_head);
  file->Set(".attention.head_count_kv", spec.n_head_kv);
  file->Set(".attention.key_length", spec.head_dim);
  file->Set(".attention.value_length", spec.head_dim);
  file->Set(".rope.dimension_count", spec.head_dim);
  file->Set(".rope.freq_base", 10000.0);
}

// The pairs of channels that rotate with the time, row and column of a token: a quarter with the
// time and half of the rest with each of the others, as in the released models.
void SetQwen2VlKeys(FileBuilder* file, const ModelSpec& spec) {
  SetHeadKeys(file, spec);
  const int n_pairs = spec.head_dim / 2;
  const int n_time = n_pairs / 4;
  const int n_row = (n_pairs - n_time) / 2;
  file->Set(".rope.dimension_sections",
            std::vector<int32_t>{n_time, n_row, n_pairs - n_time - n_row, 0});
}

void SetGemma2Keys(FileBuilder* file, const ModelSpec& spec) {
  SetHeadKeys(file, spec);
  file->Set(".attention.sliding_window", spec.n_ctx_train);
  // Released models cap at 50. Scores of ours reach about 10, so that a cap of 50 would change
  // next to nothing, and an implementation that forgot it would pass for a correct one.
  file->Set(".attn_logit_softcapping", 10.0);
  file->Set(".final_logit_softcapping", 30.0);
}

void SetGemma2SwaKeys(FileBuilder* file, const ModelSpec& spec) {
  SetGemma2Keys(file, spec);
  file->Set(".attention.sliding_window", 512);
}

void SetOpenAiMoeKeys(FileBuilder* file, const ModelSpec& spec) {
  SetHeadKeys(file, spec);
  file->Set(".attention.sliding_window", spec.n_ctx_train);
  file->Set(".expert_count", kExperts);
  file->Set(".expert_used_count", kExpertsUsed);
  file->Set(".expert_feed_forward_length", spec.n_ff);
}

void SetMambaKeys(FileBuilder* file, const ModelSpec& spec) {
  file->Set(".feed_forward_length", 0);
  file->Set(".attention.head_count", 0);
  file->Set(".ssm.conv_kernel", kSsmConv);
  file->Set(".ssm.inner_size", 2 * spec.n_embd);
  file->Set(".ssm.state_size", kSsmState);
  file->Set(".ssm.time_step_rank", kSsmTimeRank);
}

void SetDeepseek2Keys(FileBuilder* file, const ModelSpec& spec) {
  SetHeadKeys(file, spec);
  // To the cache, MLA is one key/value head; the "_mla" lengths are those after expansion.
  file->Set(".attention.head_count_kv", 1);
  file->Set(".attention.key_length", spec.head_dim + kMlaRope);
  file->Set(".attention.value_length", spec.head_dim);
  file->Set(".attention.key_length_mla", spec.head_dim + kMlaRope);
  file->Set(".attention.value_length_mla", spec.head_dim);
  file->Set(".attention.q_lora_rank", kMlaQueryRank);
  file->Set(".attention.kv_lora_rank", spec.head_dim);
  file->Set(".rope.dimension_count", kMlaRope);
  // All blocks are dense, but llama.cpp asks for the sizes of the experts nonetheless.
  file->Set(".leading_dense_block_count", spec.n_layer);
  file->Set(".expert_feed_forward_length", 0);
  file->Set(".expert_shared_count", 0);
}

// ---- Embeddings and output --------------------------------------------------

void AddOutput(FileBuilder* file, const ModelSpec& spec, int n_vocab) {
  file->Matrix("token_embd.weight", {spec.n_embd, n_vocab}, std::sqrt(spec.n_embd));
  file->RmsNorm("output_norm", spec.n_embd);
  file->Matrix("output.weight", {spec.n_embd, n_vocab}, kLogitGain);
}

// Gemma scales its embeddings by sqrt(n_embd) and uses them as the output matrix, too. With norm
// weights around 1, every token would then predict itself; random signs prevent that.
void AddTiedOutput(FileBuilder* file, const ModelSpec& spec, int n_vocab) {
  file->Matrix("token_embd.weight", {spec.n_embd, n_vocab}, 1.0);
  file->Vector("output_norm.weight", spec.n_embd, 0.0, kLogitGain);
}

// ---- Vision projectors ------------------------------------------------------

constexpr int kVisionEmbd = 128;
constexpr int kVisionHeads = 4;
constexpr int kVisionFf = 256;
constexpr int kPatch = 14;
constexpr double kVisionNormEps = 1e-5;
// The projected picture gets the RMS of the token embeddings, about 1: GELU takes away a third.
constexpr double kProjectorGain = 1.7;

void SetVisionKeys(FileBuilder* file, const ModelSpec& spec, const char* projector, int n_layer,
                   int image_size) {
  file->Set("clip.has_vision_encoder", true);
  file->Set("clip.projector_type", projector);
  file->Set("clip.use_gelu", false);  // the quick GELU of CLIP
  file->Set("clip.vision.image_size", image_size);
  file->Set("clip.vision.patch_size", kPatch);
  file->Set("clip.vision.embedding_length", kVisionEmbd);
  file->Set("clip.vision.feed_forward_length", kVisionFf);
  file->Set("clip.vision.projection_dim", spec.n_embd);
  file->Set("clip.vision.block_count", n_layer);
  file->Set("clip.vision.attention.head_count", kVisionHeads);
  file->Set("clip.vision.attention.layer_norm_epsilon", kVisionNormEps);
  file->Set("clip.vision.image_mean", std::vector<float>{0.5f, 0.5f, 0.5f});
  file->Set("clip.vision.image_std", std::vector<float>{0.25f, 0.25f, 0.25f});
}

void AddLinear(FileBuilder* file, const std::string& name, int64_t n_in, int64_t n_out,
               double gain = 1.0) {
  file->Matrix(name + ".weight", {n_in, n_out}, gain);
  file->Bias(name, n_out);
}

void AddVisionLayers(FileBuilder* file, int n_layer) {
  for (int layer = 0; layer < n_layer; ++layer) {
    const std::string block = "v." + Block(layer);
    file->LayerNorm(block + "ln1", kVisionEmbd);
    AddLinear(file, block + "attn_q", kVisionEmbd, kVisionEmbd, kQueryKeyGain);
    AddLinear(file, block + "attn_k", kVisionEmbd, kVisionEmbd, kQueryKeyGain);
    AddLinear(file, block + "attn_v", kVisionEmbd, kVisionEmbd);
    AddLinear(file, block + "attn_out", kVisionEmbd, kVisionEmbd, kBranchGain);
    file->LayerNorm(block + "ln2", kVisionEmbd);
    AddLinear(file, block + "ffn_up", kVisionEmbd, kVisionFf);
    AddLinear(file, block + "ffn_down", kVisionFf, kVisionEmbd, kBranchGain);
  }
}

// The kernel that turns a patch of 3 x kPatch x kPatch pixel values into one vector. Its rows of
// kPatch values do not fit the blocks of quantised types, and ggml convolves with f16 at most.
void AddPatchKernel(FileBuilder* file, const std::string& name) {
  file->Tensor(name, GGML_TYPE_F16, {kPatch, kPatch, 3, kVisionEmbd}, 0.0,
               1.0 / std::sqrt(3.0 * kPatch * kPatch));
}

// Qwen2-VL's vision transformer has no bias on the patches and no learnt positions. It treats a
// picture as two equal frames of a film, each with its kernel; their results are added.
void AddQwen2VlMmproj(FileBuilder* file, const ModelSpec& spec) {
  constexpr int kLayers = 2;
  constexpr int kMerge = 2;  // kMerge x kMerge patches become one token
  SetVisionKeys(file, spec, "qwen2vl_merger", kLayers, 8 * kMerge * kPatch);
  file->Set("clip.vision.spatial_merge_size", kMerge);
  AddPatchKernel(file, "v.patch_embd.weight");
  AddPatchKernel(file, "v.patch_embd.weight.1");
  AddVisionLayers(file, kLayers);
  file->LayerNorm("v.post_ln", kVisionEmbd);
  AddLinear(file, "mm.0", kMerge * kMerge * kVisionEmbd, kMerge * kMerge * kVisionEmbd);
  AddLinear(file, "mm.2", kMerge * kMerge * kVisionEmbd, spec.n_embd, kProjectorGain);
}

// LLaVA-1.5 projects what CLIP's last layer but one sees, so llama.cpp does not run the last.
void AddLlavaMmproj(FileBuilder* file, const ModelSpec& spec) {
  constexpr int kLayers = 3;
  constexpr int kGrid = 4;  // patches per side
  SetVisionKeys(file, spec, "mlp", kLayers, kGrid * kPatch);
  AddPatchKernel(file, "v.patch_embd.weight");
  file->Vector("v.class_embd", kVisionEmbd, 0.0, 1.0);
  file->Tensor("v.position_embd.weight", GGML_TYPE_F32, {kVisionEmbd, kGrid * kGrid + 1}, 0.0, 0.5);
  file->LayerNorm("v.pre_ln", kVisionEmbd);
  AddVisionLayers(file, kLayers);
  // No norm comes between: the residual stream of the layers above has an RMS of about 2.
  AddLinear(file, "mm.0", kVisionEmbd, spec.n_embd, 0.5);
  AddLinear(file, "mm.2", spec.n_embd, spec.n_embd, kProjectorGain);
}

// ---- The architectures ------------------------------------------------------

struct Arch {
  const char* name;       // ModelSpec::arch
  const char* file_arch;  // general.architecture in the file
  bool square_attention;  // llama.cpp loads it with n_embd == n_head * head_dim only
  void (*set_keys)(FileBuilder*, const ModelSpec&);
  void (*add_layer)(FileBuilder*, const ModelSpec&, const std::string& block);
  void (*add_output)(FileBuilder*, const ModelSpec&, int n_vocab);
  void (*add_mmproj)(FileBuilder*, const ModelSpec&);  // nullptr: none
};

constexpr Arch kArchs[] = {
    {"llama", "llama", false, SetHeadKeys, AddLlamaLayer, AddOutput, nullptr},
    {"qwen2", "qwen2", true, SetHeadKeys, AddQwen2Layer, AddOutput, nullptr},
    {"qwen3", "qwen3", false, SetHeadKeys, AddQwen3Layer, AddOutput, nullptr},
    {"qwen2vl", "qwen2vl", true, SetQwen2VlKeys, AddQwen2Layer, AddOutput, AddQwen2VlMmproj},
    {"llava", "llama", false, SetHeadKeys, AddLlamaLayer, AddOutput, AddLlavaMmproj},
    {"gemma2", "gemma2", false, SetGemma2Keys, AddGemma2Layer, AddTiedOutput, nullptr},
    {"openai-moe", "gpt-oss", false, SetOpenAiMoeKeys, AddOpenAiMoeLayer, AddOutput, nullptr},
    {"gemma2-swa", "gemma2", false, SetGemma2SwaKeys, AddGemma2Layer, AddTiedOutput, nullptr},
    {"mamba", "mamba", false, SetMambaKeys, AddMambaLayer, AddOutput, nullptr},
    {"deepseek2", "deepseek2", false, SetDeepseek2Keys, AddDeepseek2Layer, AddOutput, nullptr},
};

constexpr int kDefaultEmbd = 256;

const Arch* FindArch(const std::string& name) {
  for (const Arch& arch : kArchs) {
    if (name == arch.name) return &arch;
  }
  return nullptr;
}

std::string ListOf(const std::vector<std::string>& names) {
  std::string list = names.front();
  for (size_t i = 1; i < names.size(); ++i) list += ", " + names[i];
  return list;
}

// ---- Checks -----------------------------------------------------------------

Status CheckRanges(const ModelSpec& spec) {
  struct Range {
    const char* name;
    int value, min, max;
  };
  const Range ranges[] = {
      {"n_layer", spec.n_layer, 1, 512},  // LLAMA_MAX_LAYERS
      {"n_head", spec.n_head, 1, 256},      {"n_head_kv", spec.n_head_kv, 1, 256},
      {"head_dim", spec.head_dim, 2, 1024}, {"n_embd", spec.n_embd, 1, 1 << 16},
      {"n_ff", spec.n_ff, 1, 1 << 16},      {"n_ctx_train", spec.n_ctx_train, 1, 1 << 24},
  };
  for (const Range& range : ranges) {
    if (range.value < range.min || range.value > range.max) {
      return InvalidArgument(fmt::format("{} is {}; it can be {} to {}", range.name, range.value,
                                         range.min, range.max));
    }
  }
  return OkStatus();
}

// What the dimensions have to do with each other and with the architecture.
Status CheckDims(const ModelSpec& spec, const Arch& arch) {
  if (spec.n_head % spec.n_head_kv != 0) {
    return InvalidArgument(fmt::format("n_head is {}; it must be a multiple of n_head_kv, {}",
                                       spec.n_head, spec.n_head_kv));
  }
  if (spec.head_dim % 2 != 0) {
    return InvalidArgument(fmt::format(
        "head_dim is {}; it must be even, because RoPE rotates pairs of channels", spec.head_dim));
  }
  const int n_q = spec.n_head * spec.head_dim;
  if (arch.square_attention && spec.n_embd != n_q) {
    return InvalidArgument(
        fmt::format("n_embd is {}; for {} it must be n_head * head_dim = {} (0 chooses that)",
                    spec.n_embd, arch.name, n_q));
  }
  if (arch.add_layer == AddDeepseek2Layer && (spec.n_layer == 26 || spec.n_layer == 27)) {
    return InvalidArgument(fmt::format(
        "n_layer is {}, by which llama.cpp tells the Lite variants of deepseek2 apart, and those "
        "have other tensors; it can be any other number",
        spec.n_layer));
  }
  return OkStatus();
}

Status CheckType(const ModelSpec& spec) {
  const WeightType* type = FindWeightType(spec.type);
  if (type == nullptr) {
    std::vector<std::string> names;
    for (const WeightType& known : kWeightTypes) names.push_back(known.name);
    return InvalidArgument(
        fmt::format("unknown weight type '{}'; the types are {}", spec.type, ListOf(names)));
  }
  const int64_t block = ggml_blck_size(type->type);
  const std::pair<const char*, int> sizes[] = {
      {"head_dim", spec.head_dim}, {"n_embd", spec.n_embd}, {"n_ff", spec.n_ff}};
  for (const auto& [name, size] : sizes) {
    if (size % block != 0) {
      return InvalidArgument(
          fmt::format("{} is {}; for {} it must be a multiple of {} (f16 and f32 take any)", name,
                      size, spec.type, block));
    }
  }
  return OkStatus();
}

struct Plan {
  const Arch* arch;
  const WeightType* weights;
  ModelSpec spec;  // with n_embd filled in
};

Result<Plan> Check(const ModelSpec& spec) {
  Plan plan{FindArch(spec.arch), FindWeightType(spec.type), spec};
  if (plan.arch == nullptr) {
    return InvalidArgument(
        fmt::format("unknown arch '{}'; the archs are {}", spec.arch, ListOf(MakeModelArchs())));
  }
  if (spec.n_embd == 0) {
    plan.spec.n_embd = plan.arch->square_attention ? spec.n_head * spec.head_dim : kDefaultEmbd;
  }
  RKV_RETURN_IF_ERROR(CheckRanges(plan.spec));
  RKV_RETURN_IF_ERROR(CheckDims(plan.spec, *plan.arch));
  RKV_RETURN_IF_ERROR(CheckType(plan.spec));
  return plan;
}

}  // namespace

const std::vector<std::string>& MakeModelArchs() {
  static const std::vector<std::string>* const kNames = [] {
    auto* names = new std::vector<std::string>;
    for (const Arch& arch : kArchs) names->push_back(arch.name);
    return names;
  }();
  return *kNames;
}

bool MakeModelHasVision(const std::string& arch) {
  const Arch* found = FindArch(arch);
  return found != nullptr && found->add_mmproj != nullptr;
}

Status MakeModel(const ModelSpec& spec, const std::string& path) {
  RKV_ASSIGN_OR_RETURN(const Plan plan, Check(spec));
  FileBuilder file(plan.arch->file_arch, *plan.weights, spec.seed);
  file.Set("general.name", fmt::format("random {}", spec.arch).c_str());
  file.Set(".block_count", plan.spec.n_layer);
  file.Set(".context_length", plan.spec.n_ctx_train);
  file.Set(".embedding_length", plan.spec.n_embd);
  file.Set(".attention.layer_norm_rms_epsilon", 1e-6);
  plan.arch->set_keys(&file, plan.spec);

  const int n_vocab = AddTokenizer(&file);
  plan.arch->add_output(&file, plan.spec, n_vocab);
  for (int layer = 0; layer < plan.spec.n_layer; ++layer) {
    plan.arch->add_layer(&file, plan.spec, Block(layer));
  }
  return file.Write(path);
}

Status MakeMmproj(const ModelSpec& spec, const std::string& path) {
  RKV_ASSIGN_OR_RETURN(const Plan plan, Check(spec));
  if (plan.arch->add_mmproj == nullptr) {
    std::vector<std::string> names;
    std::copy_if(MakeModelArchs().begin(), MakeModelArchs().end(), std::back_inserter(names),
                 MakeModelHasVision);
    return InvalidArgument(
        fmt::format("arch '{}' has no vision projector; these have: {}", spec.arch, ListOf(names)));
  }
  FileBuilder file("clip", *plan.weights, spec.seed);
  file.Set("general.name", fmt::format("random {} vision", spec.arch).c_str());
  plan.arch->add_mmproj(&file, plan.spec);
  return file.Write(path);
}

}  // namespace rkv
