// LoRA adapters and control vectors, added to a context.
#ifndef RETENTIVEKV_LLAMA_ADAPTERS_H_
#define RETENTIVEKV_LLAMA_ADAPTERS_H_

#include <span>

#include "retentivekv/model_options.h"
#include "retentivekv/status.h"

struct llama_context;
struct llama_model;

namespace rkv {

// The model owns what is loaded. kBadFile for files that are none or of another model.
Status AddLoras(std::span<const Adapter> loras, llama_model* model, llama_context* context);

// Their sum, from layer `first` to `last` of 1 and on; 0: from the first, to the last.
Status AddControlVectors(std::span<const Adapter> vectors, int first, int last, llama_model* model,
                         llama_context* context);

}  // namespace rkv

#endif  // RETENTIVEKV_LLAMA_ADAPTERS_H_
