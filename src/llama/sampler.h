#ifndef RETENTIVEKV_LLAMA_SAMPLER_H_
#define RETENTIVEKV_LLAMA_SAMPLER_H_

#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "llama/model.h"
#include "retentivekv/engine.h"

namespace rkv {

// llama.cpp's samplers, in its order unless the options say another. A temperature of 0 is greedy.
class Sampler {
 public:
  // kInvalidArgument, with the reason, for options that nothing can be sampled with.
  static Result<std::unique_ptr<Sampler>> Create(const SamplingOptions& options,
                                                 const llama_vocab* vocab);

  // How many tokens before the answer count; 0 if it does not matter what they were.
  size_t n_history() const { return n_history_; }
  // Tells those tokens, the last one last.
  void AcceptHistory(std::span<const llama_token> tokens);

  // Samples from the logits of row `i` of the last decode. LLAMA_TOKEN_NULL: the grammar lets
  // nothing more follow that the vocabulary can spell.
  llama_token Sample(llama_context* ctx, int32_t i);

 private:
  explicit Sampler(const llama_vocab* vocab) : vocab_(vocab) {}
  llama_token SampleWithin(const float* logits, bool grammar_first);
  bool IsAllowed(llama_token token);

  const llama_vocab* vocab_;
  LlamaPtr<llama_sampler> chain_;
  LlamaPtr<llama_sampler> grammar_;  // null without one
  size_t n_history_ = 0;
  std::vector<llama_token_data> candidates_;  // with a grammar
};

// kInvalidArgument for a GBNF grammar that llama.cpp's parser would need too much stack or memory
// for: it calls itself for every level of brackets and for every rule that begins with another one.
Status CheckGrammarSize(std::string_view grammar);

}  // namespace rkv

#endif  // RETENTIVEKV_LLAMA_SAMPLER_H_
