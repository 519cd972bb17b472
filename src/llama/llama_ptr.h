// Owning pointers to objects of llama.cpp and mtmd. Includes none of their headers.
#ifndef RETENTIVEKV_LLAMA_LLAMA_PTR_H_
#define RETENTIVEKV_LLAMA_LLAMA_PTR_H_

#include <memory>

struct ggml_context;
struct gguf_context;
struct llama_context;
struct llama_model;
struct llama_sampler;
struct mtmd_bitmap;
struct mtmd_context;
struct mtmd_input_chunk;
struct mtmd_input_chunks;

namespace rkv {

struct LlamaDeleter {
  void operator()(ggml_context* p) const;
  void operator()(gguf_context* p) const;
  void operator()(llama_context* p) const;
  void operator()(llama_model* p) const;
  void operator()(llama_sampler* p) const;
  void operator()(mtmd_bitmap* p) const;
  void operator()(mtmd_context* p) const;
  void operator()(mtmd_input_chunk* p) const;
  void operator()(mtmd_input_chunks* p) const;
};
template <typename T>
using LlamaPtr = std::unique_ptr<T, LlamaDeleter>;

}  // namespace rkv

#endif  // RETENTIVEKV_LLAMA_LLAMA_PTR_H_
