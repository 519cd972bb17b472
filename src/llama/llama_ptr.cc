#include "llama/llama_ptr.h"

#include <ggml.h>
#include <gguf.h>
#include <llama.h>
#include <mtmd.h>

namespace rkv {

void LlamaDeleter::operator()(ggml_context* p) const { ggml_free(p); }
void LlamaDeleter::operator()(gguf_context* p) const { gguf_free(p); }
void LlamaDeleter::operator()(llama_context* p) const { llama_free(p); }
void LlamaDeleter::operator()(llama_model* p) const { llama_model_free(p); }
void LlamaDeleter::operator()(llama_sampler* p) const { llama_sampler_free(p); }
void LlamaDeleter::operator()(mtmd_bitmap* p) const { mtmd_bitmap_free(p); }
void LlamaDeleter::operator()(mtmd_context* p) const { mtmd_free(p); }
void LlamaDeleter::operator()(mtmd_input_chunk* p) const { mtmd_input_chunk_free(p); }
void LlamaDeleter::operator()(mtmd_input_chunks* p) const { mtmd_input_chunks_free(p); }

}  // namespace rkv
