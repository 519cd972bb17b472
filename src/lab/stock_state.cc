// Builds the bytes of a saved sequence of llama.cpp, and restores them. The format is learned from
// two small saved sequences and checked against them.
#include "lab/stock_state.h"

#include <fmt/format.h>
#include <ggml.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

namespace rkv {

namespace {

// The format of a saved sequence. A header of kHeaderBytes ends with the number of tokens. Some
// words per token follow; the words with its position count up. After two words come all keys,
// layer by layer, then all values. Each layer begins with its type (32 bits) and the bytes of a
// token (64 bits). The end is for other streams, and is empty.
constexpr size_t kHeaderBytes = 4 * sizeof(uint32_t);
constexpr size_t kLayersHeaderBytes = 2 * sizeof(uint32_t);
constexpr size_t kLayerHeaderBytes = sizeof(int32_t) + sizeof(uint64_t);

Result<std::string> SavedTokens(llama_context* ctx, int n_tokens) {
  llama_memory_clear(llama_get_memory(ctx), true);
  for (int i = 0; i < n_tokens; ++i) {
    llama_token token = 0;
    if (llama_decode(ctx, llama_batch_get_one(&token, 1)) != 0) {
      return Internal("llama_decode failed on its first tokens");
    }
  }
  llama_synchronize(ctx);
  std::string bytes(llama_state_seq_get_size(ctx, 0), '\0');
  if (llama_state_seq_get_data(ctx, reinterpret_cast<uint8_t*>(bytes.data()), bytes.size(), 0) !=
      bytes.size()) {
    return Internal("llama.cpp cannot save the state of a sequence");
  }
  llama_memory_clear(llama_get_memory(ctx), true);
  return bytes;
}

uint32_t Word(const std::string& bytes, size_t offset) {
  uint32_t word = 0;
  std::memcpy(&word, bytes.data() + offset, sizeof(word));
  return word;
}

void SetWord(std::string& bytes, size_t offset, uint32_t word) {
  std::memcpy(bytes.data() + offset, &word, sizeof(word));
}

// The bytes of one layer's keys or values, header included, appended.
void AppendRows(std::string& bytes, ggml_type type, size_t width, size_t n_tokens, Random& random) {
  const auto row_type = static_cast<int32_t>(type);
  const uint64_t row_bytes = ggml_row_size(type, static_cast<int64_t>(width));
  bytes.append(reinterpret_cast<const char*>(&row_type), sizeof(row_type));
  bytes.append(reinterpret_cast<const char*>(&row_bytes), sizeof(row_bytes));
  const size_t begin = bytes.size();
  bytes.resize(begin + row_bytes * n_tokens);
  std::vector<float> row(width);
  for (size_t i = 0; i < n_tokens; ++i) {
    FillNormal(random, row.data(), width);
    ggml_quantize_chunk(type, row.data(), bytes.data() + begin + i * row_bytes, 0, 1,
                        static_cast<int64_t>(width), nullptr);
  }
}

}  // namespace

void FillNormal(Random& random, float* x, size_t n) {
  constexpr float kMean = 4 * 127.5f;
  constexpr float kStd = 147.80f;  // of the sum of four: sqrt(4 * (256^2 - 1) / 12)
  for (size_t i = 0; i < n; i += 2) {
    const uint64_t bits = random.NextU64();
    uint32_t sums[2] = {};
    for (size_t byte = 0; byte < 8; ++byte) sums[byte / 4] += (bits >> (8 * byte)) & 0xff;
    for (size_t j = 0; j < 2 && i + j < n; ++j) {
      x[i + j] = (static_cast<float>(sums[j]) - kMean) / kStd;
    }
  }
}

Status FillStockCache(llama_context* ctx, const CacheShape& shape, ggml_type type_k,
                      ggml_type type_v, size_t n_tokens, uint64_t seed) {
  const Status unknown = Unsupported(
      "this llama.cpp saves its cache in an unknown format, so it cannot be filled with random "
      "values; let the model read it");
  RKV_ASSIGN_OR_RETURN(const std::string one, SavedTokens(ctx, 1));
  RKV_ASSIGN_OR_RETURN(const std::string two, SavedTokens(ctx, 2));
  size_t token_bytes = 0;  // keys and values
  for (const LayerShape& layer : shape.layers) {
    token_bytes += ggml_row_size(type_k, static_cast<int64_t>(layer.n_kv_head * layer.d_k)) +
                   ggml_row_size(type_v, static_cast<int64_t>(layer.n_kv_head * layer.d_v));
  }
  const size_t layer_headers = 2 * shape.layers.size() * kLayerHeaderBytes;
  const size_t min_bytes = kHeaderBytes + kLayersHeaderBytes + layer_headers + token_bytes;
  if (two.size() < one.size() + token_bytes || one.size() < min_bytes) return unknown;
  const size_t meta_bytes = two.size() - one.size() - token_bytes;
  if (meta_bytes % sizeof(uint32_t) != 0 || one.size() < min_bytes + meta_bytes ||
      Word(one, kHeaderBytes - 4) != 1 || Word(two, kHeaderBytes - 4) != 2) {
    return unknown;
  }
  const size_t layers = kHeaderBytes + 2 * meta_bytes;  // offset in `two`
  if (Word(two, layers) != 0 || Word(two, layers + 4) != shape.layers.size()) return unknown;

  std::string bytes = two.substr(0, kHeaderBytes);
  SetWord(bytes, kHeaderBytes - 4, static_cast<uint32_t>(n_tokens));
  bytes.reserve(two.size() + n_tokens * (meta_bytes + token_bytes));
  for (uint32_t i = 0; i < n_tokens; ++i) {
    for (size_t w = kHeaderBytes; w < kHeaderBytes + meta_bytes; w += sizeof(uint32_t)) {
      const uint32_t step = Word(two, w + meta_bytes) - Word(two, w);
      const uint32_t word = Word(two, w) + i * step;
      bytes.append(reinterpret_cast<const char*>(&word), sizeof(word));
    }
  }
  bytes += two.substr(layers, kLayersHeaderBytes);
  Random random(seed);
  for (const LayerShape& layer : shape.layers) {
    AppendRows(bytes, type_k, layer.n_kv_head * layer.d_k, n_tokens, random);
  }
  for (const LayerShape& layer : shape.layers) {
    AppendRows(bytes, type_v, layer.n_kv_head * layer.d_v, n_tokens, random);
  }
  bytes += one.substr(min_bytes + meta_bytes);
  const auto* data = reinterpret_cast<const uint8_t*>(bytes.data());
  if (llama_state_seq_set_data(ctx, data, bytes.size(), 0) != bytes.size()) return unknown;
  return OkStatus();
}

}  // namespace rkv
