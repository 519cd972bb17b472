#include "engine/reasoning_splitter.h"

#include <gtest/gtest.h>

namespace rkv {
namespace {

using Parts = std::pair<std::string, std::string>;

// The parts of `text`, pushed in pieces of `n` bytes.
Parts Split(const ReasoningTags& tags, std::string_view text, size_t n) {
  ReasoningSplitter splitter(tags);
  Parts all;
  const auto add = [&](const ReasoningSplitter::Parts& parts) {
    all.first += parts.reasoning;
    all.second += parts.answer;
  };
  for (size_t i = 0; i < text.size(); i += n) add(splitter.Push(text.substr(i, n)));
  add(splitter.Finish());
  return all;
}

const ReasoningTags kThink{.start = "<think>", .end = {"</think>", "<|done|>"}};

TEST(ReasoningSplitterTest, TellsTheTwoApartHoweverThePiecesFall) {
  for (size_t n = 1; n < 12; ++n) {
    EXPECT_EQ(Split(kThink, "<think>\nA < b.\n\nSo </thin.\n</think>\n\nYes.\n", n),
              Parts("A < b.\n\nSo </thin.", "Yes.\n"));
    EXPECT_EQ(Split(kThink, "\n<think>\n\n</think>\n\nYes.", n), Parts("", "Yes."));
    EXPECT_EQ(Split(kThink, "<think>a<|done|>b</think>", n), Parts("a", "b</think>"));
    // Marks count only at the beginning.
    EXPECT_EQ(Split(kThink, " Say <think>x</think>", n), Parts("", " Say <think>x</think>"));
    // The text ends inside the reasoning, or inside a mark.
    EXPECT_EQ(Split(kThink, "<think>I wonder ", n), Parts("I wonder", ""));
    EXPECT_EQ(Split(kThink, "<think>I wonder </thi", n), Parts("I wonder </thi", ""));
    EXPECT_EQ(Split(kThink, "<thi", n), Parts("", "<thi"));
  }
}

TEST(ReasoningSplitterTest, APromptMayEndWithinReasoning) {
  ReasoningTags open = kThink;
  open.starts_open = true;
  for (size_t n = 1; n < 12; ++n) {
    EXPECT_EQ(Split(open, "hm\n</think>\n\nNo.", n), Parts("hm", "No."));
  }
}

TEST(ReasoningSplitterTest, WithoutTagsAllIsTheAnswerAsItIs) {
  EXPECT_EQ(Split({}, " <think>a</think> b \n", 3), Parts("", " <think>a</think> b \n"));
}

}  // namespace
}  // namespace rkv
