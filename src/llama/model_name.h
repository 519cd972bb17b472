// The name of a model, for all output that users read.
#ifndef RETENTIVEKV_LLAMA_MODEL_NAME_H_
#define RETENTIVEKV_LLAMA_MODEL_NAME_H_

#include <cstdint>
#include <string>
#include <string_view>

struct llama_model;

namespace rkv {

// "SmolLM2-135M Q4_1": the name in the file, with its size, and the type of the weights. `path`:
// the model file; if its name begins with the model's name, its spelling is used.
std::string DescribeModel(const llama_model* model, std::string_view path);

// The parts of the name in the file's metadata.
struct ModelNames {
  std::string name;        // general.name
  std::string basename;    // general.basename
  std::string size_label;  // general.size_label
  std::string arch;        // general.architecture
};
std::string ModelName(const ModelNames& names, uint64_t n_parameters, std::string_view path);

}  // namespace rkv

#endif  // RETENTIVEKV_LLAMA_MODEL_NAME_H_
