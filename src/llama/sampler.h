#ifndef RETENTIVEKV_LLAMA_SAMPLER_H_
#define RETENTIVEKV_LLAMA_SAMPLER_H_

#include "llama/model.h"
#include "retentivekv/engine.h"

namespace rkv {

// llama.cpp's samplers in its default order: top-k, top-p, min-p, temperature. A temperature of 0
// or less is greedy.
class Sampler {
 public:
  Sampler(const SamplingOptions& options, const llama_vocab* vocab);

  // Samples from the logits of row `i` of the last decode.
  llama_token Sample(llama_context* ctx, int32_t i);

 private:
  LlamaPtr<llama_sampler> chain_;
};

}  // namespace rkv

#endif  // RETENTIVEKV_LLAMA_SAMPLER_H_
