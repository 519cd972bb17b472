#include "llama/sampler.h"

#include <cmath>
#include <vector>

namespace rkv {

namespace {

// Makes every token that ends an answer impossible.
llama_sampler* NeverEnd(const llama_vocab* vocab) {
  const int32_t n_vocab = llama_vocab_n_tokens(vocab);
  std::vector<llama_logit_bias> biases;
  for (llama_token token = 0; token < n_vocab; ++token) {
    if (llama_vocab_is_eog(vocab, token)) biases.push_back({.token = token, .bias = -INFINITY});
  }
  return llama_sampler_init_logit_bias(n_vocab, static_cast<int32_t>(biases.size()), biases.data());
}

}  // namespace

Sampler::Sampler(const SamplingOptions& options, const llama_vocab* vocab)
    : chain_(llama_sampler_chain_init(llama_sampler_chain_default_params())) {
  if (options.ignore_eos) llama_sampler_chain_add(chain_.get(), NeverEnd(vocab));
  // Logits are divided by it, and must stay numbers.
  constexpr float kLeastTemperature = 1e-5f;
  if (options.temperature < kLeastTemperature) {
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
