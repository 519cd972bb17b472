#include "llama/chat_template.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

#include "base/strings.h"

namespace rkv {

namespace {

// Length of the rendered prompt, or a negative number for a template llama.cpp does not know.
int32_t Apply(const std::string& jinja, std::span<const llama_chat_message> messages,
              bool add_assistant, std::string& out) {
  const auto apply = [&] {
    return llama_chat_apply_template(jinja.c_str(), messages.data(), messages.size(), add_assistant,
                                     out.data(), static_cast<int32_t>(out.size()));
  };
  int32_t n = apply();
  if (n > static_cast<int32_t>(out.size())) {
    out.resize(static_cast<size_t>(n));
    n = apply();
  }
  out.resize(static_cast<size_t>(std::max(n, 0)));
  return n;
}

std::vector<std::string_view> BuiltinNames() {
  std::vector<const char*> names(static_cast<size_t>(llama_chat_builtin_templates(nullptr, 0)));
  llama_chat_builtin_templates(names.data(), names.size());
  return {names.begin(), names.end()};
}

}  // namespace

std::optional<std::string> ChatTemplate::EndMarkerOnly(std::string_view jinja) {
  // Text outside of blocks is what the template adds; only one piece of it, after answers, is ours.
  std::string marker;
  bool after_answer = false;
  while (!jinja.empty()) {
    const size_t block = jinja.find('{');
    const std::string_view text = TrimSpace(jinja.substr(0, block));
    if (!text.empty()) {
      if (!marker.empty() || !after_answer) return std::nullopt;
      marker = std::string(text);
    }
    if (block == std::string_view::npos) break;
    jinja.remove_prefix(block);
    const bool statement = jinja.starts_with("{%");
    const size_t end = jinja.find(statement ? "%}" : "}}");
    if (end == std::string_view::npos || (!statement && !jinja.starts_with("{{"))) {
      return std::nullopt;
    }
    const std::string_view body = jinja.substr(2, end - 2);
    const bool quotes = body.find_first_of("'\"") != std::string_view::npos;
    if (!statement && quotes) return std::nullopt;  // Output of literal text.
    after_answer = statement && body.find("role") != std::string_view::npos &&
                   body.find("assistant") != std::string_view::npos;
    jinja.remove_prefix(end + 2);
  }
  return marker;
}

Result<ChatTemplate> ChatTemplate::Create(const llama_model* model, std::string_view choice) {
  ChatTemplate result;
  if (choice == "none") {
    result.end_marker_ = "";
    return result;
  }
  if (!choice.empty()) {
    const std::vector<std::string_view> names = BuiltinNames();
    if (std::ranges::find(names, choice) == names.end()) {
      return InvalidArgument(fmt::format("unknown chat template '{}'; templates are: none, {}",
                                         choice, fmt::join(names, ", ")));
    }
    result.builtin_ = std::string(choice);
    return result;
  }
  const char* own = llama_model_chat_template(model, nullptr);
  if (own == nullptr) {  // A base model: it continues text.
    result.end_marker_ = "";
    return result;
  }
  const llama_chat_message probe{.role = "user", .content = "x"};
  std::string rendered(256, '\0');
  if (Apply(own, {&probe, 1}, true, rendered) >= 0) {
    result.builtin_ = own;
    return result;
  }
  result.end_marker_ = EndMarkerOnly(own);
  if (!result.end_marker_.has_value()) {
    return Unsupported(fmt::format(
        "the model's chat template is not one that is recognised; choose one with --chat-template: "
        "none, {}",
        fmt::join(BuiltinNames(), ", ")));
  }
  return result;
}

std::string ChatTemplate::Render(std::span<const ChatMessage> messages, bool add_assistant) const {
  if (end_marker_.has_value()) {
    std::string text;
    for (const ChatMessage& message : messages) {
      text += message.content;
      if (message.role == "assistant") text += *end_marker_;
    }
    return text;
  }
  std::vector<llama_chat_message> parts;
  size_t n_bytes = 256;
  for (const ChatMessage& message : messages) {
    parts.push_back({.role = message.role.c_str(), .content = message.content.c_str()});
    n_bytes += 2 * message.content.size();
  }
  std::string text(n_bytes, '\0');
  Apply(builtin_, parts, add_assistant, text);
  return text;
}

}  // namespace rkv
