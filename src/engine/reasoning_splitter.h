// Separates a model's reasoning from its answer while the text grows.
#ifndef RETENTIVEKV_ENGINE_REASONING_SPLITTER_H_
#define RETENTIVEKV_ENGINE_REASONING_SPLITTER_H_

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

#include "llama/chat_template.h"

namespace rkv {

// Takes linear time in the text. Without tags, the whole text is the answer, unchanged. With tags,
// reasoning stands at the beginning; its marks and the white space around them belong to neither
// part.
class ReasoningSplitter {
 public:
  struct Parts {
    std::string reasoning = {};
    std::string answer = {};
  };

  explicit ReasoningSplitter(const ReasoningTags& tags)
      : tags_(tags),
        place_(tags.start.empty() ? Place::kAnswer
               : tags.starts_open ? Place::kReasoning
                                  : Place::kBegin) {}

  // Takes the next piece. Returns the parts of it, and of the text held back, that are already
  // certain.
  Parts Push(std::string_view piece) {
    held_ += piece;
    Parts parts;
    if (place_ == Place::kBegin) Begin();
    if (place_ == Place::kReasoning) Reason(parts);
    if (place_ == Place::kAfter) {
      held_.erase(0, std::min(held_.find_first_not_of(kSpace), held_.size()));
      if (!held_.empty()) place_ = Place::kAnswer;
    }
    if (place_ == Place::kAnswer) parts.answer = std::exchange(held_, {});
    return parts;
  }

  // The text held back, at the end of the text.
  Parts Finish() {
    std::string held = std::exchange(held_, {});
    if (place_ == Place::kReasoning) return {.reasoning = WithoutSpaceAtEnd(std::move(held))};
    return {.answer = std::move(held)};
  }

 private:
  enum class Place { kBegin, kReasoning, kAfter, kAnswer };
  static constexpr std::string_view kSpace = " \t\r\n";

  static std::string WithoutSpaceAtEnd(std::string text) {
    text.resize(text.find_last_not_of(kSpace) + 1);  // npos + 1 is 0
    return text;
  }

  // Leaves kBegin once it is known whether the text begins with the start of reasoning.
  void Begin() {
    const size_t begin = held_.find_first_not_of(kSpace);
    if (begin == std::string::npos) return;
    const std::string_view text = std::string_view(held_).substr(begin);
    if (text.starts_with(tags_.start)) {
      held_.erase(0, begin + tags_.start.size());
      place_ = Place::kReasoning;
    } else if (!tags_.start.starts_with(text)) {
      place_ = Place::kAnswer;
    }
  }

  void Reason(Parts& parts) {
    if (!reasoned_) held_.erase(0, std::min(held_.find_first_not_of(kSpace), held_.size()));
    size_t end = std::string::npos;
    size_t after = 0;
    for (const std::string& tag : tags_.end) {
      const size_t at = held_.find(tag);
      if (at < end) {
        end = at;
        after = at + tag.size();
      }
    }
    if (end != std::string::npos) {
      parts.reasoning = WithoutSpaceAtEnd(held_.substr(0, end));
      held_.erase(0, after);
      place_ = Place::kAfter;
      return;
    }
    // Holds back white space and any possible beginning of the end mark.
    size_t keep = 0;
    for (const std::string& tag : tags_.end) {
      for (size_t n = std::min(tag.size() - 1, held_.size()); n > keep; --n) {
        if (held_.ends_with(std::string_view(tag).substr(0, n))) keep = n;
      }
    }
    parts.reasoning = WithoutSpaceAtEnd(held_.substr(0, held_.size() - keep));
    held_.erase(0, parts.reasoning.size());
    reasoned_ |= !parts.reasoning.empty();
  }

  ReasoningTags tags_;
  Place place_;
  std::string held_;
  bool reasoned_ = false;
};

}  // namespace rkv

#endif  // RETENTIVEKV_ENGINE_REASONING_SPLITTER_H_
