// The fields of a request that say how tokens are chosen.
#include <fmt/format.h>

#include <charconv>
#include <limits>

#include "serve/api_fields.h"

namespace rkv::app {

using nlohmann::json;

namespace {

// {"15043": 1} in OpenAI's form, or [[15043, 1], [15044, false]] in llama.cpp's; false forbids the
// token.
Status ReadLogitBias(const Fields& fields, SamplingOptions& sampling) {
  const json* field = fields.Find("logit_bias");
  if (field == nullptr) return OkStatus();
  const Status wrong = fields.Wrong(
      "logit_bias",
      "an object {\"TOKEN\": BIAS, ...}, or a list [[TOKEN, BIAS], ...], of token ids");
  if (!field->is_object() && !field->is_array()) return wrong;
  sampling.logit_bias.clear();
  const auto add = [&sampling](int64_t token, const json& bias) {
    const bool never = bias.is_boolean() && !bias.get<bool>();
    if ((!never && !bias.is_number()) || token < 0 || token > std::numeric_limits<int32_t>::max()) {
      return false;
    }
    sampling.logit_bias.emplace_back(
        static_cast<int32_t>(token),
        never ? -std::numeric_limits<float>::infinity() : bias.get<float>());
    return true;
  };
  if (field->is_object()) {
    for (const auto& [key, bias] : field->items()) {
      int64_t token = 0;
      const char* const end = key.data() + key.size();
      const auto [at, error] = std::from_chars(key.data(), end, token);
      if (error != std::errc() || at != end || !add(token, bias)) return wrong;
    }
    return OkStatus();
  }
  for (const json& pair : *field) {
    const bool good = pair.is_array() && pair.size() == 2 && pair[0].is_number_integer() &&
                      add(pair[0].get<int64_t>(), pair[1]);
    if (!good) return wrong;
  }
  return OkStatus();
}

Status ReadSamplers(const Fields& fields, SamplingOptions& sampling) {
  const json* field = fields.Find("samplers");
  if (field == nullptr) return OkStatus();
  if (field->is_string()) {
    RKV_ASSIGN_OR_RETURN(sampling.samplers,
                         ParseSamplerLetters(field->get_ref<const std::string&>()));
    return OkStatus();
  }
  std::string names;
  for (const json& name : *field) {
    if (!field->is_array() || !name.is_string()) names.clear();
    if (!field->is_array() || !name.is_string()) break;
    names += fmt::format("{}{}", names.empty() ? "" : ";", name.get_ref<const std::string&>());
  }
  if (names.empty()) return fields.Wrong("samplers", "a list of samplers' names, or their letters");
  RKV_ASSIGN_OR_RETURN(sampling.samplers, ParseSamplers(names));
  return OkStatus();
}

// llama.cpp's samplers beside temperature, top-k, top-p and min-p. The engine checks the values
// when the answer begins.
Status ReadMoreSamplers(const Fields& fields, SamplingOptions& sampling) {
  constexpr double kMax = std::numeric_limits<float>::max();
  const std::pair<const char*, float*> numbers[] = {
      {"typical_p", &sampling.typical_p},
      {"top_n_sigma", &sampling.top_n_sigma},
      {"xtc_probability", &sampling.xtc_probability},
      {"xtc_threshold", &sampling.xtc_threshold},
      {"dynatemp_range", &sampling.dynatemp_range},
      {"dynatemp_exponent", &sampling.dynatemp_exponent},
      {"repeat_penalty", &sampling.repeat_penalty},
      {"presence_penalty", &sampling.presence_penalty},
      {"frequency_penalty", &sampling.frequency_penalty},
      {"dry_multiplier", &sampling.dry_multiplier},
      {"dry_base", &sampling.dry_base},
      {"mirostat_tau", &sampling.mirostat_tau},
      {"mirostat_eta", &sampling.mirostat_eta},
      {"adaptive_target", &sampling.adaptive_target},
      {"adaptive_decay", &sampling.adaptive_decay}};
  for (const auto& [name, value] : numbers) {
    RKV_RETURN_IF_ERROR(fields.Read(name, -kMax, kMax, *value));
  }
  const std::pair<const char*, int*> counts[] = {
      {"repeat_last_n", &sampling.repeat_last_n},
      {"dry_allowed_length", &sampling.dry_allowed_length},
      {"dry_penalty_last_n", &sampling.dry_penalty_last_n},
      {"mirostat", &sampling.mirostat}};
  for (const auto& [name, value] : counts) {
    int64_t number = *value;
    RKV_RETURN_IF_ERROR(fields.Read(name, std::numeric_limits<int>::min(),
                                    std::numeric_limits<int>::max(), number));
    *value = static_cast<int>(number);
  }
  RKV_RETURN_IF_ERROR(fields.Read("dry_sequence_breakers", sampling.dry_sequence_breakers));
  RKV_RETURN_IF_ERROR(fields.Read("grammar", sampling.grammar));
  RKV_RETURN_IF_ERROR(ReadLogitBias(fields, sampling));
  return ReadSamplers(fields, sampling);
}

}  // namespace

Status ReadSampling(const Fields& fields, SamplingOptions& sampling) {
  RKV_RETURN_IF_ERROR(fields.Read("temperature", 0, 100, sampling.temperature));
  RKV_RETURN_IF_ERROR(fields.Read("top_p", 0, 1, sampling.top_p));
  RKV_RETURN_IF_ERROR(fields.Read("min_p", 0, 1, sampling.min_p));
  int64_t top_k = sampling.top_k;
  RKV_RETURN_IF_ERROR(fields.Read("top_k", -1, std::numeric_limits<int>::max(), top_k));
  sampling.top_k = static_cast<int>(top_k);
  int64_t seed = sampling.seed;
  RKV_RETURN_IF_ERROR(fields.Read("seed", std::numeric_limits<int64_t>::min(),
                                  std::numeric_limits<int64_t>::max(), seed));
  sampling.seed = static_cast<uint32_t>(seed);  // -1: random
  RKV_RETURN_IF_ERROR(fields.Read("ignore_eos", sampling.ignore_eos));
  return ReadMoreSamplers(fields, sampling);
}

}  // namespace rkv::app
