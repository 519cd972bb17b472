#ifndef RETENTIVEKV_LLAMA_MODEL_MAKER_TOKENIZER_H_
#define RETENTIVEKV_LLAMA_MODEL_MAKER_TOKENIZER_H_

#include "llama/gguf_builder.h"

namespace rkv {

// Writes the keys of the tokenizer that all made models share (retentivekv/model_maker.h describes
// it), and returns the number of its tokens.
int AddTokenizer(FileBuilder* file);

}  // namespace rkv

#endif  // RETENTIVEKV_LLAMA_MODEL_MAKER_TOKENIZER_H_
