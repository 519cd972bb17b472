// The tokenizer that all made models share.
#ifndef RETENTIVEKV_LAB_MODEL_MAKER_TOKENIZER_H_
#define RETENTIVEKV_LAB_MODEL_MAKER_TOKENIZER_H_

#include "lab/gguf_builder.h"

namespace rkv {

// Writes its keys (lab/model_maker.h describes it), and returns the number of its tokens. Unused
// tokens fill the vocabulary up to `n_vocab`.
int AddTokenizer(FileBuilder* file, int n_vocab);
// The minimum of n_vocab, apart from 0.
int TokenizerSize();

}  // namespace rkv

#endif  // RETENTIVEKV_LAB_MODEL_MAKER_TOKENIZER_H_
