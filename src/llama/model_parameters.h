// Converts EngineOptions to llama.cpp's parameters.
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

// Parses "KEY=TYPE:VALUE" entries and appends the empty entry that ends llama.cpp's list.
// kInvalidArgument names the fault of an entry.
Result<std::vector<llama_model_kv_override>> ParseOverrides(std::span<const std::string> texts);

// kInvalidArgument for values that no rotation can have.
Status SetRope(const RopeOptions& rope, llama_context_params& params);

// The options that change the keys and values of the same weights, as text; empty: none.
std::string DescribeChanges(const EngineOptions& options);

}  // namespace rkv

#endif  // RETENTIVEKV_LLAMA_MODEL_PARAMETERS_H_
