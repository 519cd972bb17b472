// What llama.cpp and mtmd trust of a GGUF file, looked at before they read it.
#ifndef RETENTIVEKV_LLAMA_GGUF_CHECK_H_
#define RETENTIVEKV_LLAMA_GGUF_CHECK_H_

#include <mtmd.h>

#include <string>

#include "retentivekv/status.h"

namespace rkv {

// kBadFile where a tensor ends beyond the file, is empty, or has a type that nothing computes with.
Status CheckModelFile(const std::string& path);

// The same for the vision or audio part of a model, and for all else for which mtmd would end the
// process, read what is not there or never end: tensors that its graph reads and are missing, and
// sizes that contradict each other. Only metadata is read. `params` are those that the file will be
// loaded with.
Status CheckProjectorFile(const std::string& path, mtmd_context_params params);

}  // namespace rkv

#endif  // RETENTIVEKV_LLAMA_GGUF_CHECK_H_
