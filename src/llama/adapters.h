// LoRA adapters and control vectors, added to a context.
#ifndef RETENTIVEKV_LLAMA_ADAPTERS_H_
#define RETENTIVEKV_LLAMA_ADAPTERS_H_

#include <span>

#include "retentivekv/model_options.h"
#include "retentivekv/status.h"

struct llama_context;
struct llama_model;

namespace rkv {

// The model owns the loaded adapters. kBadFile for a file that is no adapter or of another model.
Status AddLoras(std::span<const Adapter> loras, llama_model* model, llama_context* context);

// The sum of the vectors, for layers `first` to `last`, counted from 1. 0 as `first`: the first
// layer; 0 as `last`: the last.
Status AddControlVectors(std::span<const Adapter> vectors, int first, int last, llama_model* model,
                         llama_context* context);

}  // namespace rkv

#endif  // RETENTIVEKV_LLAMA_ADAPTERS_H_
