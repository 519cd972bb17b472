// Checks tensors, types and sizes of a GGUF file. Reads metadata only, never weights.
#include "llama/gguf_check.h"

#include <fmt/format.h>
#include <ggml.h>
#include <gguf.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "llama/abort_guard.h"
#include "llama/llama_ptr.h"
#include "llama/log.h"

namespace rkv {

namespace {

// Patches along each side that become one token. Preprocessing and padding grow with the square.
constexpr uint32_t kMaxMerge = 16;

class GgufFile {
 public:
  // `what`: the role of the file in messages.
  GgufFile(const std::string& path, std::string_view what) : path_(path), what_(what) {
    const LlamaErrorLog log;
    gguf_.reset(LoadOrNull(
        [&path] { return gguf_init_from_file(path.c_str(), {.no_alloc = true, .ctx = nullptr}); }));
    if (gguf_ == nullptr) reason_ = log.Reason();
  }

  Status CheckModel() const { return CheckTensors(false); }

  Status CheckProjector() const {
    RKV_RETURN_IF_ERROR(CheckTensors(true));
    RKV_RETURN_IF_ERROR(CheckEncoder("vision", "v"));
    RKV_RETURN_IF_ERROR(CheckEncoder("audio", "a"));
    return CheckQwen();
  }

 private:
  // Tensors that every transformer block needs, once any block has them.
  static constexpr std::string_view kOfEveryBlock[] = {
      "attn_q.weight", "attn_k.weight", "attn_v.weight", "attn_qkv.weight", "attn_q.bias",
      "attn_k.bias",   "attn_v.bias",   "attn_qkv.bias", "attn_out.weight", "attn_out.bias",
      "ln1.weight",    "ln1.bias",      "ln2.weight",    "ln2.bias"};

  Status Refuse(std::string_view why) const {
    return BadFile(fmt::format("{} '{}' is damaged: {}", what_, path_, why));
  }

  // Whether an operation supports a tensor of that name and type.
  static bool TypeFits(std::string_view name, ggml_type type, bool is_vector, bool of_projector) {
    const bool is_float = type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16;
    if (!of_projector) {
      // Models also have tables of numbers, such as that of each token's expert.
      if (name.ends_with(".bias")) return type == GGML_TYPE_F32;
      return is_float || ggml_is_quantized(type) || !name.ends_with(".weight") ||
             name.find("tid2eid") != std::string_view::npos;
    }
    // Tensors added to activations, or multiplied with them element by element.
    const bool is_added =
        name.ends_with(".bias") || (is_vector && (name.find("norm") != std::string_view::npos ||
                                                  name.find("ln") != std::string_view::npos));
    if (is_added) return type == GGML_TYPE_F32;
    if (name.starts_with("v.patch_embd.weight")) {
      return type == GGML_TYPE_F32 || type == GGML_TYPE_F16;
    }
    return is_float || ggml_is_quantized(type);
  }

  Status CheckTensors(bool of_projector) const {
    if (gguf_ == nullptr) return Refuse(fmt::format("it is not a readable GGUF file{}", reason_));
    std::error_code error;
    const uint64_t file_bytes = std::filesystem::file_size(path_, error);
    const uint64_t data_begin = gguf_get_data_offset(gguf_.get());
    for (int64_t i = 0; i < gguf_get_n_tensors(gguf_.get()); ++i) {
      const std::string_view name = gguf_get_tensor_name(gguf_.get(), i);
      const uint64_t offset = gguf_get_tensor_offset(gguf_.get(), i);
      const uint64_t bytes = gguf_get_tensor_size(gguf_.get(), i);
      if (error || data_begin > file_bytes || offset > file_bytes - data_begin ||
          bytes > file_bytes - data_begin - offset) {
        return Refuse(fmt::format("tensor '{}' ends beyond the file", name));
      }
      const std::span<const int64_t> shape(gguf_get_tensor_ne(gguf_.get(), i), GGML_MAX_DIMS);
      if (std::ranges::any_of(shape, [](int64_t n) { return n < 1; })) {
        return Refuse(fmt::format("tensor '{}' is empty", name));
      }
      const bool is_vector = shape[1] == 1 && shape[2] == 1 && shape[3] == 1;
      const ggml_type type = gguf_get_tensor_type(gguf_.get(), i);
      if (!TypeFits(name, type, is_vector, of_projector)) {
        return Refuse(fmt::format("tensor '{}' has type {}, which is not possible for it", name,
                                  ggml_type_name(type)));
      }
      names_.emplace(name);
    }
    return OkStatus();
  }

  std::optional<uint32_t> Number(const std::string& key) const {
    const int64_t id = gguf_find_key(gguf_.get(), key.c_str());
    if (id < 0 || gguf_get_kv_type(gguf_.get(), id) != GGUF_TYPE_UINT32) return std::nullopt;
    return gguf_get_val_u32(gguf_.get(), id);
  }

  std::string Text(const std::string& key) const {
    const int64_t id = gguf_find_key(gguf_.get(), key.c_str());
    if (id < 0 || gguf_get_kv_type(gguf_.get(), id) != GGUF_TYPE_STRING) return {};
    return gguf_get_val_str(gguf_.get(), id);
  }

  bool Has(const std::string& tensor) const { return names_.contains(tensor); }

  // Whether any block has the tensor.
  bool AnyBlockHas(std::string_view prefix, std::string_view part) const {
    const std::string begin = fmt::format("{}.blk.", prefix);
    for (auto name = names_.lower_bound(begin); name != names_.end() && name->starts_with(begin);
         ++name) {
      const size_t dot = name->find('.', begin.size());
      if (dot != std::string::npos && std::string_view(*name).substr(dot + 1) == part) return true;
    }
    return false;
  }

  // `modality`: prefix of the keys; `prefix`: prefix of the tensors.
  Status CheckEncoder(std::string_view modality, std::string_view prefix) const {
    const auto key = [modality](std::string_view name) {
      return fmt::format("clip.{}.{}", modality, name);
    };
    const std::string eps_key = key("attention.layer_norm_epsilon");
    const int64_t eps = gguf_find_key(gguf_.get(), eps_key.c_str());
    if (eps >= 0 && gguf_get_kv_type(gguf_.get(), eps) == GGUF_TYPE_FLOAT32) {
      const float value = gguf_get_val_f32(gguf_.get(), eps);
      if (!(value >= 0) || std::isinf(value)) {
        return Refuse(fmt::format("{} is {}", eps_key, value));
      }
    }
    for (const std::string& merge : {key("spatial_merge_size"), key("projector.scale_factor")}) {
      const uint32_t value = Number(merge).value_or(1);
      if (value < 1 || value > kMaxMerge) return Refuse(fmt::format("{} is {}", merge, value));
    }
    const bool transformer =
        AnyBlockHas(prefix, "attn_q.weight") || AnyBlockHas(prefix, "attn_qkv.weight");
    return transformer ? CheckTransformer(modality, prefix) : OkStatus();
  }

  Status CheckTransformer(std::string_view modality, std::string_view prefix) const {
    const auto key = [modality](std::string_view name) {
      return fmt::format("clip.{}.{}", modality, name);
    };
    const uint32_t n_embd = Number(key("embedding_length")).value_or(0);
    const uint32_t n_head = Number(key("attention.head_count")).value_or(0);
    const uint32_t n_blocks = Number(key("block_count")).value_or(0);
    const bool own_head_size = Number(key("attention.head_dim")).has_value();
    if (n_head == 0 || n_embd == 0 || (!own_head_size && n_embd % n_head != 0)) {
      return Refuse(fmt::format("{} attention heads cannot share {} channels", n_head, n_embd));
    }
    if (n_blocks == 0) return Refuse(fmt::format("it has no {} blocks", modality));
    for (const std::string_view part : kOfEveryBlock) {
      if (!AnyBlockHas(prefix, part)) continue;
      for (uint32_t block = 0; block < n_blocks; ++block) {
        const std::string name = fmt::format("{}.blk.{}.{}", prefix, block, part);
        if (!Has(name)) return Refuse(fmt::format("tensor '{}' is missing", name));
      }
    }
    for (const std::string_view part : {"attn_k.weight", "attn_v.weight"}) {
      if (AnyBlockHas(prefix, "attn_qkv.weight") || AnyBlockHas(prefix, part)) continue;
      return Refuse(fmt::format("tensor '{}.blk.0.{}' is missing", prefix, part));
    }
    return OkStatus();
  }

  // Graphs of these projectors read without checks, and always merge two patches along each side.
  Status CheckQwen() const {
    std::string projector = Text("clip.projector_type");
    if (projector.empty()) projector = Text("clip.vision.projector_type");
    const bool qwen2 = projector == "qwen2vl_merger" || projector == "qwen2.5vl_merger";
    if (!qwen2 && projector != "qwen3vl_merger") return OkStatus();
    if (const uint32_t merge = Number("clip.vision.spatial_merge_size").value_or(2); merge != 2) {
      return Refuse(fmt::format("clip.vision.spatial_merge_size is {}, not 2", merge));
    }
    const uint32_t n_head = Number("clip.vision.attention.head_count").value_or(1);
    const uint32_t n_embd = Number("clip.vision.embedding_length").value_or(0);
    if (n_head == 0 || n_embd / n_head % 4 != 0) {
      return Refuse(fmt::format("RoPE does not fit heads of {} / {} elements", n_embd, n_head));
    }
    // Otherwise the graph's picture differs in size from the picture that its convolution cuts into
    // patches.
    const int64_t patch = gguf_find_tensor(gguf_.get(), "v.patch_embd.weight");
    const uint32_t patch_size = Number("clip.vision.patch_size").value_or(0);
    if (patch >= 0 && gguf_get_tensor_ne(gguf_.get(), patch)[0] != int64_t{patch_size}) {
      return Refuse(fmt::format("clip.vision.patch_size is {}, and patches have {} pixels a side",
                                patch_size, gguf_get_tensor_ne(gguf_.get(), patch)[0]));
    }
    std::vector<std::string> needed = {"v.patch_embd.weight", "v.patch_embd.weight.1",
                                       "mm.0.weight",         "mm.0.bias",
                                       "mm.2.weight",         "mm.2.bias"};
    if (!AnyBlockHas("v", "attn_qkv.weight")) {
      for (const char* part : {"attn_q", "attn_k", "attn_v"}) {
        needed.push_back(fmt::format("v.blk.0.{}.weight", part));
        needed.push_back(fmt::format("v.blk.0.{}.bias", part));
      }
    }
    for (const std::string& name : needed) {
      if (!Has(name)) return Refuse(fmt::format("tensor '{}' is missing", name));
    }
    return OkStatus();
  }

  const std::string& path_;
  std::string_view what_;
  LlamaPtr<gguf_context> gguf_;
  std::string reason_;
  mutable std::set<std::string> names_;  // of tensors, from CheckTensors() on
};

}  // namespace

Status CheckModelFile(const std::string& path) { return GgufFile(path, "model").CheckModel(); }

Status CheckProjectorFile(const std::string& path, mtmd_context_params params) {
  RKV_RETURN_IF_ERROR(GgufFile(path, "mmproj").CheckProjector());
  // Building the graph checks that the tensors' shapes fit each other. That needs no weights, and
  // the CPU is sufficient, since shapes do not depend on the device.
  params.use_gpu = false;
  params.warmup = true;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  const LlamaErrorLog log;
  const LlamaAbortGuard guard;  // Its exception ends up in the log.
  if (mtmd_get_memory_usage(path.c_str(), params).empty()) {
    return BadFile(fmt::format("cannot use mmproj '{}'{}", path, log.Reason()));
  }
  return OkStatus();
}

}  // namespace rkv
