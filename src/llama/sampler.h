#ifndef RETENTIVEKV_LLAMA_SAMPLER_H_
#define RETENTIVEKV_LLAMA_SAMPLER_H_

#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "llama/llama_ptr.h"
#include "llama/token.h"
#include "retentivekv/chat.h"
#include "retentivekv/status.h"

struct llama_token_data;
struct llama_vocab;

namespace rkv {

class Model;

// llama.cpp's samplers, in its order unless the options set another. A temperature of 0 is greedy.
class Sampler {
 public:
  // kInvalidArgument, with the reason, for options that cannot sample.
  static Result<std::unique_ptr<Sampler>> Create(const SamplingOptions& options,
                                                 const Model& model);
  ~Sampler();

  // The number of tokens before the answer that affect sampling; 0 if none do.
  size_t n_history() const { return n_history_; }
  // Passes those tokens in, the last one last.
  void AcceptHistory(std::span<const Token> tokens);

  // Samples from the logits of a row of the model's last ubatch. kNoToken: the grammar allows no
  // continuation that the vocabulary can spell.
  Token Sample(const Model& model, size_t row);

 private:
  explicit Sampler(const llama_vocab* vocab);
  Token SampleWithin(const float* logits, bool grammar_first);
  bool IsAllowed(Token token);

  const llama_vocab* vocab_;
  LlamaPtr<llama_sampler> chain_;
  LlamaPtr<llama_sampler> grammar_;  // null without a grammar
  size_t n_history_ = 0;
  std::vector<llama_token_data> candidates_;  // with a grammar
};

// kInvalidArgument for a GBNF grammar that needs too much stack or memory in llama.cpp's parser.
// The parser recurses for every level of brackets and for every rule that begins with another one.
Status CheckGrammarSize(std::string_view grammar);

}  // namespace rkv

#endif  // RETENTIVEKV_LLAMA_SAMPLER_H_
