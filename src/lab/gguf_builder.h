// Collects the keys and tensors of a GGUF file of random weights, and writes it.
#ifndef RETENTIVEKV_LAB_GGUF_BUILDER_H_
#define RETENTIVEKV_LAB_GGUF_BUILDER_H_

#include <ggml.h>
#include <gguf.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "llama/llama_ptr.h"
#include "retentivekv/status.h"

namespace rkv {

struct WeightType {
  const char* name;
  ggml_type type;
  ggml_ftype file_type;
};

// The type of that name, or null. WeightTypeNames() lists them.
const WeightType* FindWeightType(const std::string& name);
std::vector<std::string> WeightTypeNames();

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
  LlamaPtr<gguf_context> gguf_;
  std::vector<TensorSpec> tensors_;
};

// The elements of an f32 tensor in a GGUF file. Empty if the file has no such tensor.
std::vector<float> ReadFloatTensor(const std::string& path, const std::string& name);

}  // namespace rkv

#endif  // RETENTIVEKV_LAB_GGUF_BUILDER_H_
