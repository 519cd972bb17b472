// ModelOptions in llama.cpp's parameters.
#ifndef RETENTIVEKV_LLAMA_MODEL_PARAMETERS_H_
#define RETENTIVEKV_LLAMA_MODEL_PARAMETERS_H_

#include <llama.h>

#include <span>
#include <string>
#include <vector>

#include "llama/model.h"
#include "retentivekv/model_options.h"
#include "retentivekv/status.h"

namespace rkv {

llama_load_mode ToLlama(LoadMode mode);

// "KEY=TYPE:VALUE" each, with the empty entry that llama.cpp's list ends with. kInvalidArgument
// says what is wrong with one.
Result<std::vector<llama_model_kv_override>> ParseOverrides(std::span<const std::string> texts);

// kInvalidArgument for values that no rotation has.
Status SetRope(const RopeOptions& rope, llama_context_params& params);

// Options under which the same weights give other keys and values, as text; empty: none.
std::string DescribeChanges(const ModelOptions& options);

}  // namespace rkv

#endif  // RETENTIVEKV_LLAMA_MODEL_PARAMETERS_H_
