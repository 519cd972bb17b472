// Converts text to tokens. Results equal those of llama.cpp's tokenizer, in linear time and within
// bounds. Users' texts contain no control tokens.
#ifndef RETENTIVEKV_LLAMA_TOKENIZER_H_
#define RETENTIVEKV_LLAMA_TOKENIZER_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "llama/token.h"
#include "retentivekv/status.h"

struct llama_vocab;

namespace rkv {

// Three invisible characters that Tokenize() removes. A text with a break inside is no control
// token and no media marker.
inline constexpr std::string_view kTextBreak = "\u2060\u2063\u2060";

// Thread-safe. The vocabulary must outlive it.
class Tokenizer {
 public:
  explicit Tokenizer(const llama_vocab* vocab);

  // The tokens of `text`, in which texts of special tokens become these tokens. `add_special` adds
  // the model's tokens for the begin and end of a text. kResourceExhausted for a text of more than
  // `max_tokens`, usually before it is tokenized. Also for a line of more than a million bytes, as
  // llama.cpp recurses along lines.
  Result<std::vector<Token>> Tokenize(std::string_view text, bool add_special,
                                      size_t max_tokens) const;

  // Checks that a text of this length can have at most `max_tokens`; else the error of Tokenize().
  Status CheckSize(size_t n_bytes, size_t max_tokens) const;

  // `text` with a kTextBreak inside each text of a control token, so that it stays text. Texts in
  // `keep` are unchanged.
  std::string BreakControlTokens(std::string_view text, const std::vector<std::string>& keep) const;

 private:
  // A part of a text: a special token, or if `token` is null, text that is not yet tokenized.
  struct Fragment {
    std::string_view text;
    Token token = kNoToken;
  };
  // A node in a tree of the texts of special tokens.
  struct Node {
    std::vector<std::pair<char, uint32_t>> next;
    Token token = kNoToken;  // the token whose text ends here

    uint32_t Next(char c) const;  // 0: none
  };

  void AddSpecial(Token token);
  // Calls found(token, length) for each special token whose text begins `text`, the shortest first.
  template <typename Found>
  void ForEachAtFront(std::string_view text, const Found& found) const;
  bool IsControl(Token token) const;
  std::vector<Token> SpecialsIn(std::string_view text) const;
  std::vector<Fragment> Partition(std::string_view text) const;
  void Split(const Fragment& fragment, Token token, std::vector<Fragment>& parts) const;
  Status AppendText(std::string_view text, size_t max_tokens, std::vector<Token>& out) const;
  Status AppendPlain(std::string_view text, std::vector<Token>& out) const;
  bool IsTooLong(std::string_view text, size_t max_tokens) const;

  const llama_vocab* vocab_;
  std::vector<Node> nodes_;
  size_t longest_token_ = 1;  // bytes of the longest text
};

}  // namespace rkv

#endif  // RETENTIVEKV_LLAMA_TOKENIZER_H_
