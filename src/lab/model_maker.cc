// The layers, keys and checks of each architecture. Gains are chosen so that attention scores and
// logits are as in trained models.
#include "lab/model_maker.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <memory>
#include <string_view>
#include <utility>

#include "lab/gguf_builder.h"
#include "lab/model_maker_tokenizer.h"

namespace rkv {
namespace {

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

// Sizes of the compressed attention. A cache row holds head_dim channels that all heads share; keys
// and values are expanded from them. It also holds kMlaRope channels of a key with the position.
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

// The text part of Qwen3-VL: M-RoPE with interleaved sections. Pictures also add vectors to the
// first layers; the file only has the number of these layers.
void SetQwen3VlKeys(FileBuilder* file, const ModelSpec& spec) {
  SetHeadKeys(file, spec);
  const int n_pairs = spec.head_dim / 2;
  const int n_side = n_pairs * 5 / 16;  // 20 of 64, as in the released models
  file->Set(".rope.dimension_sections",
            std::vector<int32_t>{n_pairs - 2 * n_side, n_side, n_side, 0});
  file->Set(".n_deepstack_layers", std::min(3, spec.n_layer));
}

void SetGemma2Keys(FileBuilder* file, const ModelSpec& spec) {
  SetHeadKeys(file, spec);
  file->Set(".attention.sliding_window", spec.n_ctx_train);
  // Released models cap at 50. Our scores reach about 10, so a cap of 50 would have almost no
  // effect. An implementation that forgot the cap would pass for a correct one.
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
  file->Set(".expert_used_count", spec.n_expert_used);
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
  // To the cache, MLA is one key/value head; the "_mla" keys have the lengths after expansion.
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

// The embeddings are the output matrix, too. With norm weights around 1, every token would then
// predict itself; random signs prevent that.
void AddTiedOutput(FileBuilder* file, const ModelSpec& spec, int n_vocab) {
  const double embd_gain = std::sqrt(spec.n_embd);
  file->Matrix("token_embd.weight", {spec.n_embd, n_vocab}, embd_gain);
  file->Vector("output_norm.weight", spec.n_embd, 0.0, kLogitGain / embd_gain);
}

// The same for Gemma, which scales its embeddings by sqrt(n_embd).
void AddGemmaOutput(FileBuilder* file, const ModelSpec& spec, int n_vocab) {
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

// LLaVA-1.5 projects the output of CLIP's last layer but one, so llama.cpp does not run the last.
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
    {"qwen3vl", "qwen3vl", false, SetQwen3VlKeys, AddQwen3Layer, AddOutput, nullptr},
    {"llava", "llama", false, SetHeadKeys, AddLlamaLayer, AddOutput, AddLlavaMmproj},
    {"gemma2", "gemma2", false, SetGemma2Keys, AddGemma2Layer, AddGemmaOutput, nullptr},
    {"openai-moe", "gpt-oss", false, SetOpenAiMoeKeys, AddOpenAiMoeLayer, AddOutput, nullptr},
    {"gemma2-swa", "gemma2", false, SetGemma2SwaKeys, AddGemma2Layer, AddGemmaOutput, nullptr},
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
      {"n_head", spec.n_head, 1, 256},
      {"n_head_kv", spec.n_head_kv, 1, 256},
      {"head_dim", spec.head_dim, 2, 1024},
      {"n_embd", spec.n_embd, 1, 1 << 16},
      {"n_ff", spec.n_ff, 1, 1 << 16},
      {"n_expert_used", spec.n_expert_used, 1, kExperts},
      {"n_ctx_train", spec.n_ctx_train, 1, 1 << 24},
      {"n_vocab", spec.n_vocab == 0 ? TokenizerSize() : spec.n_vocab, TokenizerSize(), 1 << 20},
  };
  for (const Range& range : ranges) {
    if (range.value < range.min || range.value > range.max) {
      return InvalidArgument(fmt::format("{} is {}; it can be {} to {}", range.name, range.value,
                                         range.min, range.max));
    }
  }
  return OkStatus();
}

// Checks the dimensions against each other and against the architecture.
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
        fmt::format("n_embd is {}; for {} it must be n_head * head_dim = {} (0: chosen to fit)",
                    spec.n_embd, arch.name, n_q));
  }
  if (arch.add_layer == AddDeepseek2Layer && (spec.n_layer == 26 || spec.n_layer == 27)) {
    return InvalidArgument(
        fmt::format("n_layer is {}, which llama.cpp takes for a Lite variant of deepseek2 with "
                    "other tensors; it can be any other number",
                    spec.n_layer));
  }
  return OkStatus();
}

Status CheckType(const ModelSpec& spec) {
  const WeightType* type = FindWeightType(spec.type);
  if (type == nullptr) {
    return InvalidArgument(fmt::format("unknown weight type '{}'; choose one of: {}", spec.type,
                                       ListOf(WeightTypeNames())));
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
        fmt::format("unknown arch '{}'; choose one of: {}", spec.arch, ListOf(MakeModelArchs())));
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

const std::vector<ReleasedShape>& ReleasedShapes() {
  static const auto* const kShapes = new std::vector<ReleasedShape>{
      {"qwen2-1.5b",
       {.arch = "qwen2",
        .n_layer = 28,
        .n_head = 12,
        .n_head_kv = 2,
        .head_dim = 128,
        .n_embd = 1536,
        .n_ff = 8960,
        .n_ctx_train = 32768,
        .n_vocab = 151936,
        .tied_output = true,
        .type = "q4_0"}},
      {"qwen3-vl-4b",
       {.arch = "qwen3vl",
        .n_layer = 36,
        .n_head = 32,
        .n_head_kv = 8,
        .head_dim = 128,
        .n_embd = 2560,
        .n_ff = 9728,
        .n_ctx_train = 262144,
        .n_vocab = 151936,
        .tied_output = true,
        .type = "q4_0"}},
      {"llava-1.5-7b",
       {.arch = "llava",
        .n_layer = 32,
        .n_head = 32,
        .n_head_kv = 32,
        .head_dim = 128,
        .n_embd = 4096,
        .n_ff = 11008,
        .n_ctx_train = 4096,
        .n_vocab = 32000,
        .type = "q4_0"}},
  };
  return *kShapes;
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

  const int n_vocab = AddTokenizer(&file, spec.n_vocab);
  const auto add_output = spec.tied_output ? AddTiedOutput : plan.arch->add_output;
  add_output(&file, plan.spec, n_vocab);
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
