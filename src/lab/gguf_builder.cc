// Makes random weights of a seed, and writes GGUF files tensor by tensor. The same seed gives the
// same bytes on every platform.
#include "lab/gguf_builder.h"

#include <algorithm>
#include <deque>
#include <future>
#include <span>
#include <string_view>
#include <thread>

#include "base/file.h"
#include "base/random.h"

namespace rkv {

namespace {

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
    const double deviation = std::sqrt(8 * (65536.0 * 65536.0 - 1) / 12);
    return (static_cast<double>(sum) - kMean) / deviation;
  }

 private:
  Random random_;
};

constexpr WeightType kWeightTypes[] = {
    {"f32", GGML_TYPE_F32, GGML_FTYPE_ALL_F32},
    {"f16", GGML_TYPE_F16, GGML_FTYPE_MOSTLY_F16},
    {"q8_0", GGML_TYPE_Q8_0, GGML_FTYPE_MOSTLY_Q8_0},
    {"q4_0", GGML_TYPE_Q4_0, GGML_FTYPE_MOSTLY_Q4_0},
};

}  // namespace

const WeightType* FindWeightType(const std::string& name) {
  for (const WeightType& type : kWeightTypes) {
    if (name == type.name) return &type;
  }
  return nullptr;
}

std::vector<std::string> WeightTypeNames() {
  std::vector<std::string> names;
  for (const WeightType& type : kWeightTypes) names.push_back(type.name);
  return names;
}

std::string FileBuilder::Weights(const TensorSpec& spec) const {
  constexpr int64_t kValuesAtOnce = 1 << 20;
  const int64_t n_per_row = spec.shape[0];
  int64_t n_rows = 1;
  for (size_t i = 1; i < spec.shape.size(); ++i) n_rows *= spec.shape[i];
  const size_t row_bytes = ggml_row_size(spec.type, n_per_row);
  const int64_t rows_at_once = std::clamp<int64_t>(kValuesAtOnce / n_per_row, 1, n_rows);

  NormalStream stream(seed_, spec.name);
  std::vector<float> values(static_cast<size_t>(rows_at_once * n_per_row));
  std::string bytes(row_bytes * static_cast<size_t>(n_rows), '\0');
  for (int64_t row = 0; row < n_rows; row += rows_at_once) {
    const int64_t n = std::min(rows_at_once, n_rows - row);
    for (float& value : std::span(values).first(static_cast<size_t>(n * n_per_row))) {
      value = static_cast<float>(spec.mean + spec.std * stream.Next());
    }
    ggml_quantize_chunk(spec.type, values.data(),
                        bytes.data() + static_cast<size_t>(row) * row_bytes, 0, n, n_per_row,
                        nullptr);
  }
  return bytes;
}

// gguf.h writes straight to the target, where a full disk would leave half a model behind. So the
// file is put together here: the metadata, then each tensor padded to the alignment. Tensors are
// made ahead on all cores, and at most one per core is held.
Status FileBuilder::Write(const std::string& path) {
  const ggml_init_params params = {(tensors_.size() + 1) * ggml_tensor_overhead(), nullptr,
                                   /*no_alloc=*/true};
  LlamaPtr<ggml_context> ggml(ggml_init(params));
  for (const TensorSpec& spec : tensors_) {
    ggml_tensor* tensor = ggml_new_tensor(ggml.get(), spec.type,
                                          static_cast<int>(spec.shape.size()), spec.shape.data());
    ggml_set_name(tensor, spec.name.c_str());
    gguf_add_tensor(gguf_.get(), tensor);
  }
  std::string piece(gguf_get_meta_size(gguf_.get()), '\0');
  gguf_get_meta_data(gguf_.get(), piece.data());
  const size_t alignment = gguf_get_alignment(gguf_.get());
  const size_t n_ahead = std::max(1u, std::thread::hardware_concurrency());
  std::deque<std::future<std::string>> ahead;
  size_t n_begun = 0;
  bool metadata = true;
  return WriteFileAtomically(path, [&]() -> std::string_view {
    while (n_begun < tensors_.size() && ahead.size() < n_ahead) {
      const TensorSpec& spec = tensors_[n_begun++];
      ahead.push_back(std::async(std::launch::async, [this, &spec] { return Weights(spec); }));
    }
    if (std::exchange(metadata, false)) return piece;
    if (ahead.empty()) return {};
    piece = ahead.front().get();
    ahead.pop_front();
    piece.resize(GGML_PAD(piece.size(), alignment), '\0');
    return piece;
  });
}

std::vector<float> ReadFloatTensor(const std::string& path, const std::string& name) {
  ggml_context* tensors = nullptr;
  const LlamaPtr<gguf_context> file(
      gguf_init_from_file(path.c_str(), {.no_alloc = false, .ctx = &tensors}));
  if (file == nullptr) return {};
  const LlamaPtr<ggml_context> owner(tensors);
  const ggml_tensor* tensor = ggml_get_tensor(tensors, name.c_str());
  if (tensor == nullptr || tensor->type != GGML_TYPE_F32) return {};
  const auto* data = static_cast<const float*>(tensor->data);
  return {data, data + ggml_nelements(tensor)};
}

}  // namespace rkv
