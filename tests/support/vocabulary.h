// Models without their weights.
#ifndef RETENTIVEKV_TESTS_SUPPORT_VOCABULARY_H_
#define RETENTIVEKV_TESTS_SUPPORT_VOCABULARY_H_

#include <llama.h>

#include <string>

#include "llama/log.h"
#include "llama/model.h"

namespace rkv {

// The vocabulary and metadata of a GGUF file; null for one that cannot be loaded.
inline LlamaPtr<llama_model> LoadVocabulary(const std::string& path) {
  CaptureLlamaLogs();
  llama_model_params params = llama_model_default_params();
  params.vocab_only = true;
  return LlamaPtr<llama_model>(llama_model_load_from_file(path.c_str(), params));
}

}  // namespace rkv

#endif  // RETENTIVEKV_TESTS_SUPPORT_VOCABULARY_H_
