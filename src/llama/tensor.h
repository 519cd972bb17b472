// Questions about the tensors of a compute graph.
#ifndef RETENTIVEKV_LLAMA_TENSOR_H_
#define RETENTIVEKV_LLAMA_TENSOR_H_

#include <ggml-backend.h>
#include <ggml.h>

namespace rkv {

// The tensor that owns the data of `tensor`.
inline const ggml_tensor* Root(const ggml_tensor* tensor) {
  while (tensor->view_src != nullptr) tensor = tensor->view_src;
  return tensor;
}

// True if its data can be read here, in ggml's own layout. An accelerator's buffers may have
// others.
inline bool IsOnHost(const ggml_tensor* tensor) {
  const ggml_backend_buffer_t buffer = Root(tensor)->buffer;
  return buffer != nullptr && ggml_backend_buffer_is_host(buffer);
}

}  // namespace rkv

#endif  // RETENTIVEKV_LLAMA_TENSOR_H_
