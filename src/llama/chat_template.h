// Chat messages to prompt text.
#ifndef RETENTIVEKV_LLAMA_CHAT_TEMPLATE_H_
#define RETENTIVEKV_LLAMA_CHAT_TEMPLATE_H_

#include <llama.h>

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "retentivekv/engine.h"
#include "retentivekv/status.h"

namespace rkv {

// llama.cpp's public API recognises the templates of some fifty model families; it does not run
// Jinja. Beside those: "none" (texts follow each other as they are), and templates that add nothing
// but an end marker after each answer, which are recognised from the model file.
class ChatTemplate {
 public:
  // `choice`: empty for the model's own template, a built-in name such as "chatml", or "none".
  static Result<ChatTemplate> Create(const llama_model* model, std::string_view choice);

  // The prompt of a whole conversation; with `add_assistant`, up to where the answer begins.
  std::string Render(std::span<const ChatMessage> messages, bool add_assistant) const;

  // What follows an answer in a template that only marks ends, e.g. "<|im_end|>"; nothing for
  // templates that do more. For tests.
  static std::optional<std::string> EndMarkerOnly(std::string_view jinja);

 private:
  std::string builtin_;                    // a template that llama.cpp knows
  std::optional<std::string> end_marker_;  // otherwise: texts, with this after each answer
};

}  // namespace rkv

#endif  // RETENTIVEKV_LLAMA_CHAT_TEMPLATE_H_
