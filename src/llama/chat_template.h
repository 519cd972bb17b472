// Chat messages to prompt text.
#ifndef RETENTIVEKV_LLAMA_CHAT_TEMPLATE_H_
#define RETENTIVEKV_LLAMA_CHAT_TEMPLATE_H_

#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "llama/token.h"
#include "retentivekv/chat.h"
#include "retentivekv/status.h"

struct llama_model;

namespace rkv {

// The marks of reasoning in a template, e.g. "<think>" and "</think>".
struct ReasoningTags {
  std::string start = {};             // empty: the template knows no reasoning
  std::vector<std::string> end = {};  // any of these
  bool starts_open = false;           // the prompt ends with the start
  std::vector<Token> tokens = {};     // control tokens in the marks
};

struct ChatTemplateOptions {
  // Empty: the model's own. "none": texts follow each other unchanged. One of llama.cpp's names,
  // such as "chatml". Anything with "{%" or "{{": Jinja.
  std::string choice = {};
  std::map<std::string, std::string> kwargs = {};  // variables of the template: name, JSON
  bool enable_thinking = true;                     // the variable `enable_thinking`
  bool split_reasoning = true;                     // false: reasoning() has tokens only
};

// llama.cpp's Jinja engine runs the model's template, as its programs do.
class ChatTemplate {
 public:
  // kInvalidArgument for an unknown name and for kwargs that are not JSON. kBadFile for a template
  // that cannot be parsed or run; kUnsupported for a model without one.
  static Result<ChatTemplate> Create(const llama_model* model, const ChatTemplateOptions& options);

  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  // The prompt of a whole conversation; with `add_assistant`, up to the beginning of the answer. It
  // has no beginning-of-sequence token if the model's tokenizer adds one. kInvalidArgument for
  // messages that the template refuses.
  Result<std::string> Render(std::span<const ChatMessage> messages, bool add_assistant) const;

  const ReasoningTags& reasoning() const { return reasoning_; }
  // The template "none": texts follow each other unchanged.
  bool is_plain() const;

 private:
  class Jinja;
  ChatTemplate();
  static Result<std::string> RenderBuiltin(const std::string& name,
                                           std::span<const ChatMessage> messages,
                                           bool add_assistant);

  std::string builtin_;           // one of llama.cpp's names
  std::unique_ptr<Jinja> jinja_;  // neither set: plain
  ReasoningTags reasoning_;
};

}  // namespace rkv

#endif  // RETENTIVEKV_LLAMA_CHAT_TEMPLATE_H_
