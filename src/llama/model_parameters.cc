// Parses overrides and RoPE options, and checks their ranges before llama.cpp sees them.
#include "llama/model_parameters.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>
#include <cmath>
#include <cstring>
#include <string_view>

namespace rkv {

namespace {

template <typename T>
bool ParseNumber(std::string_view text, T& number) {
  const char* const end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, number);
  return error == std::errc() && at == end;
}

Result<llama_model_kv_override> ParseOverride(const std::string& text) {
  const auto refuse = [&text](std::string_view why) {
    return InvalidArgument(fmt::format(
        "the override '{}' {}; write KEY=TYPE:VALUE with the type int, float, bool or str, as in "
        "tokenizer.ggml.add_bos_token=bool:false",
        text, why));
  };
  llama_model_kv_override result{};
  const size_t equals = text.find('=');
  const size_t colon = text.find(':', equals == std::string::npos ? 0 : equals);
  if (equals == std::string::npos || equals == 0) return refuse("names no key");
  if (colon == std::string::npos) return refuse("names no type");
  if (equals >= sizeof(result.key)) return refuse("has a key of more than 127 characters");
  std::memcpy(result.key, text.data(), equals);
  const std::string_view type = std::string_view(text).substr(equals + 1, colon - equals - 1);
  const std::string_view value = std::string_view(text).substr(colon + 1);
  if (type == "int") {
    result.tag = LLAMA_KV_OVERRIDE_TYPE_INT;
    if (!ParseNumber(value, result.val_i64)) return refuse("has no whole number");
  } else if (type == "float") {
    result.tag = LLAMA_KV_OVERRIDE_TYPE_FLOAT;
    if (!ParseNumber(value, result.val_f64) || !std::isfinite(result.val_f64)) {
      return refuse("has no finite number");
    }
  } else if (type == "bool") {
    result.tag = LLAMA_KV_OVERRIDE_TYPE_BOOL;
    if (value != "true" && value != "false") return refuse("is neither true nor false");
    result.val_bool = value == "true";
  } else if (type == "str") {
    result.tag = LLAMA_KV_OVERRIDE_TYPE_STR;
    if (value.size() >= sizeof(result.val_str)) return refuse("has more than 127 characters");
    std::memcpy(result.val_str, value.data(), value.size());
  } else {
    return refuse("has an unknown type");
  }
  return result;
}

}  // namespace

llama_load_mode ToLlama(LoadMode mode) {
  switch (mode) {
    case LoadMode::kAuto:
      return LLAMA_LOAD_MODE_AUTO;
    case LoadMode::kNone:
      return LLAMA_LOAD_MODE_NONE;
    case LoadMode::kMmap:
      return LLAMA_LOAD_MODE_MMAP;
    case LoadMode::kMlock:
      return LLAMA_LOAD_MODE_MLOCK;
    case LoadMode::kMmapMlock:
      return LLAMA_LOAD_MODE_MMAP_MLOCK;
    case LoadMode::kDirectIo:
      return LLAMA_LOAD_MODE_DIRECT_IO;
  }
  return LLAMA_LOAD_MODE_AUTO;
}

Result<std::vector<llama_model_kv_override>> ParseOverrides(std::span<const std::string> texts) {
  std::vector<llama_model_kv_override> overrides;
  for (const std::string& text : texts) {
    RKV_ASSIGN_OR_RETURN(const llama_model_kv_override override, ParseOverride(text));
    overrides.push_back(override);
  }
  overrides.emplace_back();
  return overrides;
}

Status SetRope(const RopeOptions& rope, llama_context_params& params) {
  const struct {
    const char* name;
    float value;
    bool may_be_unset;
  } numbers[] = {{"the RoPE base frequency", rope.freq_base, rope.freq_base == 0},
                 {"the RoPE frequency factor", rope.freq_scale, rope.freq_scale == 0},
                 {"YaRN's mix factor", rope.yarn_ext_factor, rope.yarn_ext_factor <= 0},
                 {"YaRN's attention factor", rope.yarn_attn_factor, rope.yarn_attn_factor < 0},
                 {"YaRN's slow beta", rope.yarn_beta_slow, rope.yarn_beta_slow < 0},
                 {"YaRN's fast beta", rope.yarn_beta_fast, rope.yarn_beta_fast < 0}};
  for (const auto& [name, value, unset] : numbers) {
    if (std::isfinite(value) && (unset || value > 0)) continue;
    return InvalidArgument(fmt::format("{} is {}; it must be above 0", name, value));
  }
  if (rope.yarn_orig_ctx < 0) {
    return InvalidArgument(
        fmt::format("YaRN's original context is {}; it must be above 0", rope.yarn_orig_ctx));
  }
  if (rope.scaling == "none") {
    params.rope_scaling_type = LLAMA_ROPE_SCALING_TYPE_NONE;
  } else if (rope.scaling == "linear") {
    params.rope_scaling_type = LLAMA_ROPE_SCALING_TYPE_LINEAR;
  } else if (rope.scaling == "yarn") {
    params.rope_scaling_type = LLAMA_ROPE_SCALING_TYPE_YARN;
  } else if (!rope.scaling.empty()) {
    return InvalidArgument(
        fmt::format("unknown RoPE scaling '{}'; choose one of: none, linear, yarn", rope.scaling));
  }
  params.rope_freq_base = rope.freq_base;
  params.rope_freq_scale = rope.freq_scale;
  params.yarn_orig_ctx = static_cast<uint32_t>(rope.yarn_orig_ctx);
  params.yarn_ext_factor = rope.yarn_ext_factor;
  params.yarn_attn_factor = rope.yarn_attn_factor;
  params.yarn_beta_slow = rope.yarn_beta_slow;
  params.yarn_beta_fast = rope.yarn_beta_fast;
  return OkStatus();
}

std::string DescribeChanges(const EngineOptions& options) {
  std::string text;
  const RopeOptions& rope = options.rope;
  if (rope != RopeOptions()) {
    text += fmt::format("rope {} {:a} {:a} {} {:a} {:a} {:a} {:a}\n", rope.scaling, rope.freq_base,
                        rope.freq_scale, rope.yarn_orig_ctx, rope.yarn_ext_factor,
                        rope.yarn_attn_factor, rope.yarn_beta_slow, rope.yarn_beta_fast);
  }
  for (const std::string& override : options.overrides) text += fmt::format("kv {}\n", override);
  if (!options.control_vectors.empty()) {
    text += fmt::format("layers {} {}\n", options.control_vector_first_layer,
                        options.control_vector_last_layer);
  }
  return text;
}

}  // namespace rkv
