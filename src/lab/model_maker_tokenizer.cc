#include "lab/model_maker_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace rkv {

namespace {

constexpr int kTokenNormal = 1;   // LLAMA_TOKEN_TYPE_NORMAL
constexpr int kTokenControl = 3;  // LLAMA_TOKEN_TYPE_CONTROL
constexpr int kTokenUnused = 5;   // LLAMA_TOKEN_TYPE_UNUSED

// Common English pairs, each of tokens made before it. "Ġ" is how byte-level BPE spells a space.
// llama.cpp refuses a vocabulary without merges.
constexpr const char* kMerges[] = {
    "h e", "i n", "Ġ t", "Ġt he", "e r", "Ġ a", "o n",  "r e",  "Ġ s",
    "a t", "e n", "o r", "Ġ w",   "n d", "i s", "Ġ o",  "e s",  "Ġa nd",
    "o u", "i t", "a n", "Ġo f",  "a l", "a r", "in g", "Ġt o",
};

constexpr const char* kControlTokens[] = {
    "<|im_start|>",     "<|im_end|>",     "<|endoftext|>",
    "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
};

constexpr const char kChatTemplate[] =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.content is string %}{{ m.content }}"
    "{% else %}{% for c in m.content %}{% if c.type == 'text' %}{{ c.text }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

// The printable character for each byte in byte-level BPE: the byte's own Latin-1 character if that
// is printable, else the next free one from U+0100 on.
std::vector<std::string> ByteTokens() {
  std::vector<std::string> tokens;
  uint32_t next_free = 0x100;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable =
        (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    const uint32_t code = printable ? byte : next_free++;
    if (code < 0x80) {
      tokens.push_back(std::string(1, static_cast<char>(code)));
    } else {
      tokens.push_back(
          {static_cast<char>(0xc0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3f))});
    }
  }
  return tokens;
}

}  // namespace

int TokenizerSize() {
  return 256 + static_cast<int>(std::size(kMerges) + std::size(kControlTokens));
}

int AddTokenizer(FileBuilder* file, int n_vocab) {
  std::vector<std::string> tokens = ByteTokens();
  for (std::string merge : kMerges) {
    merge.erase(merge.find(' '), 1);
    tokens.push_back(merge);
  }
  std::vector<int32_t> types(tokens.size(), kTokenNormal);
  for (const char* token : kControlTokens) {
    tokens.push_back(token);
    types.push_back(kTokenControl);
  }
  for (int i = TokenizerSize(); i < n_vocab; ++i) {
    tokens.push_back(fmt::format("<|unused_{}|>", i));
    types.push_back(kTokenUnused);
  }
  const auto id_of = [&tokens](const char* token) {
    return static_cast<int>(std::find(tokens.begin(), tokens.end(), token) - tokens.begin());
  };

  file->Set("tokenizer.ggml.model", "gpt2");
  file->Set("tokenizer.ggml.pre", "qwen2");
  file->Set("tokenizer.ggml.tokens", tokens);
  file->Set("tokenizer.ggml.token_type", types);
  file->Set("tokenizer.ggml.merges",
            std::vector<std::string>(std::begin(kMerges), std::end(kMerges)));
  file->Set("tokenizer.ggml.bos_token_id", id_of("<|endoftext|>"));
  file->Set("tokenizer.ggml.eos_token_id", id_of("<|im_end|>"));
  file->Set("tokenizer.ggml.padding_token_id", id_of("<|endoftext|>"));
  file->Set("tokenizer.ggml.add_bos_token", false);
  file->Set("tokenizer.chat_template", kChatTemplate);
  return static_cast<int>(tokens.size());
}

}  // namespace rkv
