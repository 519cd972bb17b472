// Loads LoRA adapters, and adds up control vectors by layer.
#include "llama/adapters.h"

#include <fmt/format.h>
#include <ggml.h>
#include <gguf.h>
#include <llama.h>

#include <charconv>
#include <string>
#include <string_view>
#include <vector>

#include "llama/abort_guard.h"
#include "llama/llama_ptr.h"
#include "llama/log.h"

namespace rkv {

namespace {

constexpr std::string_view kDirection = "direction.";

// Adds the directions of one file, by layer from 1 on, to `sum`.
Status AddDirections(const Adapter& vector, int n_embd, int n_layer, std::vector<float>& sum) {
  const auto refuse = [&vector](const std::string& why) {
    return BadFile(fmt::format("cannot use control vector '{}': {}", vector.path, why));
  };
  const LlamaErrorLog log;
  ggml_context* tensors = nullptr;
  const LlamaPtr<gguf_context> file(LoadOrNull([&] {
    return gguf_init_from_file(vector.path.c_str(), {.no_alloc = false, .ctx = &tensors});
  }));
  const LlamaPtr<ggml_context> owner(tensors);
  if (file == nullptr || tensors == nullptr) {
    return refuse(fmt::format("it is not a readable GGUF file{}", log.Reason()));
  }
  bool any = false;
  for (ggml_tensor* t = ggml_get_first_tensor(tensors); t != nullptr;
       t = ggml_get_next_tensor(tensors, t)) {
    const std::string_view name = t->name;
    if (!name.starts_with(kDirection))
      continue;  // The data of all tensors is listed as a tensor, too.
    const std::string_view number = name.substr(kDirection.size());
    int layer = 0;
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), layer);
    if (error != std::errc() || end != number.data() + number.size() || layer < 1) {
      return refuse(fmt::format("'{}' does not name a layer of 1 or more", name));
    }
    if (t->type != GGML_TYPE_F32 || ggml_n_dims(t) != 1 || t->ne[0] != n_embd) {
      return refuse(fmt::format("'{}' must be {} numbers of f32, the embedding size of the model",
                                name, n_embd));
    }
    any = true;
    if (layer >= n_layer) continue;  // As in llama.cpp: such a layer does not exist.
    const auto* data = static_cast<const float*>(t->data);
    float* out = sum.data() + static_cast<ptrdiff_t>(layer - 1) * n_embd;
    for (int i = 0; i < n_embd; ++i) out[i] += vector.scale * data[i];
  }
  return any ? OkStatus() : refuse("it has no tensors named direction.1 and so on");
}

}  // namespace

Status AddLoras(std::span<const Adapter> loras, llama_model* model, llama_context* context) {
  if (loras.empty()) return OkStatus();
  std::vector<llama_adapter_lora*> adapters;
  std::vector<float> scales;
  for (const Adapter& lora : loras) {
    const LlamaErrorLog log;
    llama_adapter_lora* adapter =
        LoadOrNull([&] { return llama_adapter_lora_init(model, lora.path.c_str()); });
    if (adapter == nullptr) {
      return BadFile(
          fmt::format("cannot use LoRA adapter '{}' with this model{}", lora.path, log.Reason()));
    }
    if (llama_adapter_get_alora_n_invocation_tokens(adapter) > 0) {
      return Unsupported(
          fmt::format("LoRA adapter '{}' is an activated one (aLoRA), which applies only from "
                      "certain tokens on; only adapters that always apply are possible",
                      lora.path));
    }
    adapters.push_back(adapter);
    scales.push_back(lora.scale);
  }
  if (llama_set_adapters_lora(context, adapters.data(), adapters.size(), scales.data()) != 0) {
    return Internal("llama.cpp refused the LoRA adapters");
  }
  return OkStatus();
}

Status AddControlVectors(std::span<const Adapter> vectors, int first, int last, llama_model* model,
                         llama_context* context) {
  if (vectors.empty()) return OkStatus();
  const int n_embd = llama_model_n_embd(model);
  const int n_layer = llama_model_n_layer(model);
  if (first < 0 || last < 0 || (last > 0 && first > last)) {
    return InvalidArgument(
        fmt::format("control vectors cannot act on the layers {} to {}; the model has 1 to {}",
                    first, last, n_layer - 1));
  }
  std::vector<float> sum(static_cast<size_t>(n_embd) * static_cast<size_t>(n_layer));
  for (const Adapter& vector : vectors) {
    RKV_RETURN_IF_ERROR(AddDirections(vector, n_embd, n_layer, sum));
  }
  sum.resize(static_cast<size_t>(n_embd) * static_cast<size_t>(n_layer - 1));
  if (llama_set_adapter_cvec(context, sum.data(), sum.size(), n_embd, first > 0 ? first : 1,
                             last > 0 ? last : n_layer) != 0) {
    return Internal("llama.cpp refused the control vectors");
  }
  return OkStatus();
}

}  // namespace rkv
