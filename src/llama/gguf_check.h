// Checks the parts of a GGUF file that llama.cpp and mtmd trust, before they read it.
#ifndef RETENTIVEKV_LLAMA_GGUF_CHECK_H_
#define RETENTIVEKV_LLAMA_GGUF_CHECK_H_

#include <mtmd.h>

#include <string>

#include "retentivekv/status.h"

namespace rkv {

// kBadFile if a tensor ends beyond the file, is empty, or has a type that no operation supports.
Status CheckModelFile(const std::string& path);

// Checks the vision or audio part of a model likewise. Also refuses files with which mtmd would
// abort, read out of bounds or never end: its graph lacks tensors, or sizes contradict each other.
// Reads only metadata. `params`: the parameters that the file will be loaded with.
Status CheckProjectorFile(const std::string& path, mtmd_context_params params);

}  // namespace rkv

#endif  // RETENTIVEKV_LLAMA_GGUF_CHECK_H_
