// Splits text at special tokens, and tokenizes the parts within bounds of stack and length. Results
// equal those of llama.cpp's tokenizer.
#include "llama/tokenizer.h"

#include <fmt/format.h>
#include <llama.h>

#include <algorithm>
#include <cctype>

#include "base/deep_stack.h"
#include "base/utf8.h"

namespace rkv {

namespace {

// Some pre-tokenizers are std::regex, which recurses for each character of a match. GCC's library
// has taken 300 bytes of stack a character, and more without optimisation or with sanitizers.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t kStackBytesPerChar = 8192;
#else
constexpr size_t kStackBytesPerChar = 2048;
#endif
constexpr size_t kUsualStackChars = 2000;
constexpr size_t kMaxLineBytes = size_t{1} << 20;
constexpr size_t kMinStackBytes = size_t{1} << 20;

// A longer text is first tokenized in pieces, to stop as soon as it is too long.
constexpr size_t kUsualBytesPerToken = 4;
constexpr size_t kPieceBytes = size_t{32} << 10;

// The maximum length of a pre-tokenizer's match. Matches end at the ends of lines, or contain only
// white space.
size_t LongestRun(std::string_view text) {
  size_t longest = 0;
  size_t line = 0;
  size_t space = 0;
  for (const char c : text) {
    line = c == '\n' ? 0 : line + 1;
    space = std::isspace(static_cast<unsigned char>(c)) != 0 ? space + 1 : 0;
    longest = std::max({longest, line, space});
  }
  return longest;
}

std::string WithoutBreaks(std::string_view text) {
  std::string result;
  while (true) {
    const size_t at = text.find(kTextBreak);
    result += text.substr(0, at);
    if (at == std::string_view::npos) return result;
    text.remove_prefix(at + kTextBreak.size());
  }
}

size_t FirstCharacter(std::string_view text) {
  size_t n = 1;
  while (n < text.size() && (static_cast<unsigned char>(text[n]) & 0xC0) == 0x80) ++n;
  return n;
}

bool IsSpace(char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; }

void LlamaTokenize(const llama_vocab* vocab, std::string_view text, std::vector<Token>& out) {
  const size_t before = out.size();
  const auto run = [&](size_t room) {
    out.resize(before + room);
    return llama_tokenize(vocab, text.data(), static_cast<int32_t>(text.size()),
                          out.data() + before, static_cast<int32_t>(room), false, false);
  };
  int32_t n = run(text.size() + 2);
  if (n < 0) n = run(static_cast<size_t>(-n));
  out.resize(before + static_cast<size_t>(std::max(n, 0)));
}

Status TooManyTokens(size_t max_tokens) {
  return ResourceExhausted(
      fmt::format("the text has more than the {} tokens that the context has room for; shorten it "
                  "or raise --ctx-size",
                  max_tokens));
}

Status LineTooLong(size_t n_bytes) {
  return ResourceExhausted(
      fmt::format("the text has a line of {} bytes; at most {} are accepted, so break it up",
                  n_bytes, kMaxLineBytes));
}

}  // namespace

uint32_t Tokenizer::Node::Next(char c) const {
  const auto found = std::ranges::lower_bound(next, c, {}, &std::pair<char, uint32_t>::first);
  return found != next.end() && found->first == c ? found->second : 0;
}

Tokenizer::Tokenizer(const llama_vocab* vocab) : vocab_(vocab), nodes_(1) {
  const int32_t n_tokens = llama_vocab_n_tokens(vocab);
  if (llama_vocab_type(vocab) == LLAMA_VOCAB_TYPE_NONE) return;
  constexpr int kSpecial =
      LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_USER_DEFINED | LLAMA_TOKEN_ATTR_UNKNOWN;
  for (Token token = 0; token < n_tokens; ++token) {
    const std::string_view text = llama_vocab_get_text(vocab, token);
    longest_token_ = std::max(longest_token_, text.size());
    if ((llama_vocab_get_attr(vocab, token) & kSpecial) != 0 && !text.empty()) AddSpecial(token);
  }
}

void Tokenizer::AddSpecial(Token token) {
  uint32_t at = 0;
  for (const char c : std::string_view(llama_vocab_get_text(vocab_, token))) {
    uint32_t next = nodes_[at].Next(c);
    if (next == 0) {
      next = static_cast<uint32_t>(nodes_.size());
      nodes_.emplace_back();
      auto& list = nodes_[at].next;
      list.insert(std::ranges::lower_bound(list, c, {}, &std::pair<char, uint32_t>::first),
                  {c, next});
    }
    at = next;
  }
  nodes_[at].token = token;
}

template <typename Found>
void Tokenizer::ForEachAtFront(std::string_view text, const Found& found) const {
  uint32_t at = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    at = nodes_[at].Next(text[i]);
    if (at == 0) return;
    if (nodes_[at].token != kNoToken) found(nodes_[at].token, i + 1);
  }
}

bool Tokenizer::IsControl(Token token) const {
  return (llama_vocab_get_attr(vocab_, token) &
          (LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_UNKNOWN)) != 0;
}

// In llama.cpp's order: the longest first.
std::vector<Token> Tokenizer::SpecialsIn(std::string_view text) const {
  std::vector<Token> tokens;
  std::vector<bool> seen(static_cast<size_t>(llama_vocab_n_tokens(vocab_)));
  for (size_t i = 0; i < text.size(); ++i) {
    ForEachAtFront(text.substr(i), [&](Token token, size_t) {
      if (!seen[static_cast<size_t>(token)]) tokens.push_back(token);
      seen[static_cast<size_t>(token)] = true;
    });
  }
  const auto length = [this](Token token) {
    return std::string_view(llama_vocab_get_text(vocab_, token)).size();
  };
  std::ranges::sort(
      tokens, [&](Token a, Token b) { return std::pair(length(b), a) < std::pair(length(a), b); });
  return tokens;
}

void Tokenizer::Split(const Fragment& fragment, Token token, std::vector<Fragment>& parts) const {
  const std::string_view special = llama_vocab_get_text(vocab_, token);
  const int attributes = llama_vocab_get_attr(vocab_, token);
  std::string_view rest = fragment.text;
  for (size_t at = rest.find(special); at != std::string_view::npos; at = rest.find(special)) {
    std::string_view left = rest.substr(0, at);
    rest.remove_prefix(at + special.size());
    if ((attributes & LLAMA_TOKEN_ATTR_LSTRIP) != 0) {
      while (!left.empty() && IsSpace(left.back())) left.remove_suffix(1);
    }
    if ((attributes & LLAMA_TOKEN_ATTR_RSTRIP) != 0) {
      while (!rest.empty() && IsSpace(rest.front())) rest.remove_prefix(1);
    }
    if (!left.empty()) parts.push_back({.text = left});
    parts.push_back({.text = {}, .token = token});
  }
  if (!rest.empty()) parts.push_back({.text = rest});
}

std::vector<Tokenizer::Fragment> Tokenizer::Partition(std::string_view text) const {
  std::vector<Fragment> fragments;
  if (!text.empty()) fragments.push_back({.text = text});
  for (const Token token : SpecialsIn(text)) {
    std::vector<Fragment> parts;
    for (const Fragment& fragment : fragments) {
      if (fragment.token != kNoToken) {
        parts.push_back(fragment);
      } else {
        Split(fragment, token, parts);
      }
    }
    fragments = std::move(parts);
  }
  return fragments;
}

// Whether `text` has more than `max_tokens`. Allows two wrong tokens per piece for its ends, and
// reads only as much as necessary.
bool Tokenizer::IsTooLong(std::string_view text, size_t max_tokens) const {
  size_t n_tokens = 0;
  size_t n_pieces = 0;
  std::vector<Token> tokens;
  while (!text.empty() && n_tokens <= max_tokens + 2 * n_pieces) {
    std::string_view piece = text.substr(0, kPieceBytes);
    const size_t space = piece.find_last_of(" \n");
    const bool at_space =
        piece.size() < text.size() && space != std::string_view::npos && space > 0;
    piece = piece.substr(0, at_space ? space : CompleteUtf8Prefix(piece));
    if (piece.empty()) piece = text.substr(0, kPieceBytes);
    tokens.clear();
    if (!AppendPlain(piece, tokens).ok())
      return false;  // The caller reports it with the whole text.
    n_tokens += tokens.size();
    ++n_pieces;
    text.remove_prefix(piece.size());
  }
  return n_tokens > max_tokens + 2 * n_pieces;
}

Status Tokenizer::AppendPlain(std::string_view text, std::vector<Token>& out) const {
  const size_t run = LongestRun(text);
  if (run > kMaxLineBytes) return LineTooLong(run);
  if (run <= kUsualStackChars) {
    LlamaTokenize(vocab_, text, out);
    return OkStatus();
  }
  return RunOnStackOf(kMinStackBytes + kStackBytesPerChar * run,
                      [&] { LlamaTokenize(vocab_, text, out); });
}

// Text without special tokens. Merges of some vocabularies still make control tokens of it.
Status Tokenizer::AppendText(std::string_view text, size_t max_tokens,
                             std::vector<Token>& out) const {
  if (text.size() > kUsualBytesPerToken * max_tokens && IsTooLong(text, max_tokens)) {
    return TooManyTokens(max_tokens);
  }
  const size_t before = out.size();
  RKV_RETURN_IF_ERROR(AppendPlain(text, out));
  const auto made = std::ranges::find_if(
      out.begin() + static_cast<ptrdiff_t>(before), out.end(), [this](Token t) {
        return (llama_vocab_get_attr(vocab_, t) & LLAMA_TOKEN_ATTR_CONTROL) != 0;
      });
  if (made == out.end()) return OkStatus();
  // Cut inside each text of that token.
  const std::string_view control = llama_vocab_get_text(vocab_, *made);
  size_t at = control.empty() ? std::string_view::npos : text.find(control);
  if (at == std::string_view::npos || FirstCharacter(control) == control.size()) return OkStatus();
  out.resize(before);
  for (; at != std::string_view::npos; at = text.find(control)) {
    const size_t cut = at + FirstCharacter(control);
    RKV_RETURN_IF_ERROR(AppendText(text.substr(0, cut), max_tokens, out));
    text.remove_prefix(cut);
  }
  return AppendText(text, max_tokens, out);
}

Status Tokenizer::CheckSize(size_t n_bytes, size_t max_tokens) const {
  return n_bytes / longest_token_ > max_tokens ? TooManyTokens(max_tokens) : OkStatus();
}

Result<std::vector<Token>> Tokenizer::Tokenize(std::string_view text, bool add_special,
                                               size_t max_tokens) const {
  RKV_RETURN_IF_ERROR(CheckSize(text.size(), max_tokens));
  std::vector<Fragment> fragments = Partition(text);
  if (fragments.size() / 2 > max_tokens) return TooManyTokens(max_tokens);
  std::vector<Token> tokens;
  if (add_special && llama_vocab_get_add_bos(vocab_)) tokens.push_back(llama_vocab_bos(vocab_));
  for (const Fragment& fragment : fragments) {
    if (fragment.token != kNoToken) {
      tokens.push_back(fragment.token);
    } else {
      RKV_RETURN_IF_ERROR(AppendText(WithoutBreaks(fragment.text), max_tokens, tokens));
    }
    if (tokens.size() > max_tokens) return TooManyTokens(max_tokens);
  }
  if (add_special && llama_vocab_get_add_eos(vocab_)) tokens.push_back(llama_vocab_eos(vocab_));
  return tokens;
}

std::string Tokenizer::BreakControlTokens(std::string_view text,
                                          const std::vector<std::string>& keep) const {
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    result += text[i];
    // Breaks stand between characters, never inside one.
    bool breaks = false;
    const size_t first = FirstCharacter(text.substr(i));
    ForEachAtFront(text.substr(i), [&](Token token, size_t length) {
      breaks |= length > first && IsControl(token) &&
                std::ranges::find(keep, text.substr(i, length)) == keep.end();
    });
    if (!breaks) continue;
    result += text.substr(i + 1, first - 1);
    result += kTextBreak;
    i += first - 1;
  }
  return result;
}

}  // namespace rkv
