// The only file that includes a header of llama.cpp's `common`, which is no public library. It is
// pinned with llama.cpp itself; docs/decisions/003 tells why it is used.
#include "llama/chat_template.h"

#include <chat.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <llama.h>
#include <log.h>

#include <algorithm>
#include <exception>
#include <functional>
#include <iterator>

#include "base/deep_stack.h"
#include "base/strings.h"

namespace rkv {

namespace {

// Templates of released models have up to 40 KB.
constexpr size_t kMaxTemplateBytes = size_t{256} << 10;
// The engine recurses to the depth of a template's nesting; its frames take up to this much.
constexpr size_t kStackBytesPerByte = 4096;
constexpr size_t kMinStackBytes = size_t{8} << 20;
constexpr size_t kMaxNesting = 500;

// `common` would log to stderr.
class QuietLog {
 public:
  QuietLog() : before_(common_log_get_verbosity_thold()) { common_log_set_verbosity_thold(-1); }
  ~QuietLog() { common_log_set_verbosity_thold(before_); }
  QuietLog(const QuietLog&) = delete;
  QuietLog& operator=(const QuietLog&) = delete;

 private:
  int before_;
};

std::vector<std::string_view> BuiltinNames() {
  std::vector<const char*> names(static_cast<size_t>(llama_chat_builtin_templates(nullptr, 0)));
  llama_chat_builtin_templates(names.data(), names.size());
  return {names.begin(), names.end()};
}

std::string TheChoices() {
  return fmt::format(
      "choose one with --chat-template NAME (none, {}), or pass a Jinja file with "
      "--chat-template-file",
      fmt::join(BuiltinNames(), ", "));
}

// Counts brackets, including those in strings: templates nest a dozen deep.
size_t Nesting(std::string_view jinja) {
  size_t depth = 0;
  size_t deepest = 0;
  for (const char c : jinja) {
    if (c == '(' || c == '[' || c == '{') deepest = std::max(deepest, ++depth);
    if (depth > 0 && (c == ')' || c == ']' || c == '}')) --depth;
  }
  return deepest;
}

// The first line of the engine's message, without the excerpt of the template below it.
std::string Reason(const std::exception& error) {
  std::string_view text = error.what();
  for (const std::string_view prefix : {"Error while executing template: ", "Jinja Exception: "}) {
    if (const size_t at = text.find(prefix); at != std::string_view::npos) {
      text.remove_prefix(at + prefix.size());
    }
  }
  return std::string(TrimSpace(text.substr(0, text.find('\n'))));
}

ReasoningTags TagsOf(const common_chat_params& params, const llama_vocab* vocab) {
  ReasoningTags tags;
  if (params.thinking_start_tag.empty() || params.thinking_end_tags.empty()) return tags;
  tags.start = params.thinking_start_tag;
  tags.end = params.thinking_end_tags;
  const std::string& prompt = params.generation_prompt;
  const size_t open = prompt.rfind(tags.start);
  tags.starts_open =
      open != std::string::npos && std::ranges::none_of(tags.end, [&](const std::string& end) {
        return prompt.find(end, open) != std::string::npos;
      });
  std::vector<std::string> texts = tags.end;
  texts.push_back(tags.start);
  for (const std::string& text : texts) {
    std::vector<Token> tokens(text.size() + 2);
    const int32_t n =
        llama_tokenize(vocab, text.data(), static_cast<int32_t>(text.size()), tokens.data(),
                       static_cast<int32_t>(tokens.size()), false, true);
    tokens.resize(static_cast<size_t>(std::max(n, 0)));
    std::ranges::copy_if(tokens, std::back_inserter(tags.tokens), [vocab](Token token) {
      return (llama_vocab_get_attr(vocab, token) & LLAMA_TOKEN_ATTR_CONTROL) != 0;
    });
  }
  return tags;
}

}  // namespace

class ChatTemplate::Jinja {
 public:
  // Both can throw the engine's exceptions.
  Jinja(const llama_model* model, const std::string& source, const ChatTemplateOptions& options)
      : templates_(common_chat_templates_init(model, source)), options_(options) {}

  common_chat_params Apply(std::span<const ChatMessage> messages, bool add_assistant) const {
    common_chat_templates_inputs inputs;
    for (const ChatMessage& message : messages) {
      common_chat_msg one;
      one.role = message.role;
      one.content = message.content;
      inputs.messages.push_back(std::move(one));
    }
    inputs.add_generation_prompt = add_assistant;
    inputs.enable_thinking = options_.enable_thinking;
    inputs.chat_template_kwargs = options_.kwargs;
    return common_chat_templates_apply(templates_.get(), inputs);
  }

  // Runs `work` with a deep stack, and returns the engine's errors with this code.
  Status Guard(StatusCode code, std::string_view what, const std::function<void()>& work) const {
    return Guard(stack_bytes_, code, what, work);
  }
  static Status Guard(size_t stack_bytes, StatusCode code, std::string_view what,
                      const std::function<void()>& work) {
    const QuietLog quiet;
    try {
      return RunOnStackOf(stack_bytes, work);
    } catch (const std::exception& error) {
      return Status(code, fmt::format("{}: {}", what, Reason(error)));
    }
  }

  void set_stack_bytes(size_t stack_bytes) { stack_bytes_ = stack_bytes; }

 private:
  common_chat_templates_ptr templates_;
  ChatTemplateOptions options_;
  size_t stack_bytes_ = kMinStackBytes;
};

ChatTemplate::ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

Result<ChatTemplate> ChatTemplate::Create(const llama_model* model,
                                          const ChatTemplateOptions& options) {
  ChatTemplate result;
  if (options.choice == "none") return result;
  std::string source = options.choice;
  const bool is_jinja =
      source.find("{%") != std::string::npos || source.find("{{") != std::string::npos;
  if (!source.empty() && !is_jinja) {
    const std::vector<std::string_view> names = BuiltinNames();
    if (std::ranges::find(names, source) == names.end()) {
      return InvalidArgument(fmt::format("unknown chat template '{}'; {}", source, TheChoices()));
    }
    result.builtin_ = source;
    return result;
  }
  if (source.empty()) {
    const char* own = llama_model_chat_template(model, nullptr);
    if (own == nullptr) own = llama_model_chat_template(model, "tool_use");
    if (own == nullptr) {
      return Unsupported(fmt::format("the model has no chat template; {}", TheChoices()));
    }
    source = own;
  }
  if (source.size() > kMaxTemplateBytes || Nesting(source) > kMaxNesting) {
    return BadFile(
        fmt::format("the chat template has {} bytes, nested {} deep; at most {} and {} "
                    "are accepted",
                    source.size(), Nesting(source), kMaxTemplateBytes, kMaxNesting));
  }
  const size_t stack_bytes = kMinStackBytes + kStackBytesPerByte * source.size();
  // Most templates require a conversation that begins with the user.
  const ChatMessage probe{.role = "user", .content = "x"};
  common_chat_params params;
  RKV_RETURN_IF_ERROR(
      Jinja::Guard(stack_bytes, StatusCode::kBadFile,
                   fmt::format("the chat template cannot be run ({})", TheChoices()), [&] {
                     result.jinja_ = std::make_unique<Jinja>(model, options.choice, options);
                     params = result.jinja_->Apply({&probe, 1}, true);
                   }));
  result.jinja_->set_stack_bytes(stack_bytes);
  result.reasoning_ = TagsOf(params, llama_model_get_vocab(model));
  if (!options.split_reasoning) {
    result.reasoning_.start.clear();
    result.reasoning_.end.clear();
  }
  return result;
}

bool ChatTemplate::is_plain() const { return builtin_.empty() && jinja_ == nullptr; }

Result<std::string> ChatTemplate::Render(std::span<const ChatMessage> messages,
                                         bool add_assistant) const {
  if (!builtin_.empty()) return RenderBuiltin(builtin_, messages, add_assistant);
  std::string text;
  if (jinja_ == nullptr) {
    for (const ChatMessage& message : messages) text += message.content;
    return text;
  }
  RKV_RETURN_IF_ERROR(jinja_->Guard(StatusCode::kInvalidArgument,
                                    "the chat template refuses these messages",
                                    [&] { text = jinja_->Apply(messages, add_assistant).prompt; }));
  return text;
}

Result<std::string> ChatTemplate::RenderBuiltin(const std::string& name,
                                                std::span<const ChatMessage> messages,
                                                bool add_assistant) {
  std::vector<llama_chat_message> parts;
  size_t n_bytes = 256;
  for (const ChatMessage& message : messages) {
    parts.push_back({.role = message.role.c_str(), .content = message.content.c_str()});
    n_bytes += 2 * message.content.size();
  }
  std::string text(n_bytes, '\0');
  const auto apply = [&] {
    return llama_chat_apply_template(name.c_str(), parts.data(), parts.size(), add_assistant,
                                     text.data(), static_cast<int32_t>(text.size()));
  };
  int32_t n = apply();
  if (n > static_cast<int32_t>(text.size())) {
    text.resize(static_cast<size_t>(n));
    n = apply();
  }
  if (n < 0) {
    return InvalidArgument(fmt::format("the chat template '{}' refuses these messages", name));
  }
  text.resize(static_cast<size_t>(n));
  return text;
}

}  // namespace rkv
