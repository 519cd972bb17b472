#include "llama/sampler.h"

namespace rkv {

Sampler::Sampler(const SamplingOptions& options)
    : chain_(llama_sampler_chain_init(llama_sampler_chain_default_params())) {
  if (options.temperature <= 0) {
    llama_sampler_chain_add(chain_.get(), llama_sampler_init_greedy());
    return;
  }
  llama_sampler_chain_add(chain_.get(), llama_sampler_init_top_k(options.top_k));
  llama_sampler_chain_add(chain_.get(), llama_sampler_init_top_p(options.top_p, 1));
  llama_sampler_chain_add(chain_.get(), llama_sampler_init_min_p(options.min_p, 1));
  llama_sampler_chain_add(chain_.get(), llama_sampler_init_temp(options.temperature));
  llama_sampler_chain_add(chain_.get(), llama_sampler_init_dist(options.seed));
}

llama_token Sampler::Sample(llama_context* ctx, int32_t i) {
  return llama_sampler_sample(chain_.get(), ctx, i);  // Accepts the token too.
}

}  // namespace rkv
