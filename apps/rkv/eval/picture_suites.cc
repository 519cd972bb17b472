// Scripts of the suites about pictures, from a data set or the bundled pages.
#include "eval/picture_suites.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <span>
#include <utility>

namespace rkv::app {

namespace {

ScriptTurn Ask(const DataQuestion& question, bool measured) {
  return {.text = question.text,
          .answers = question.answers,
          .families = {question.family},
          .measured = measured};
}

ScriptTurn Show(std::vector<std::string> files) { return {.files = std::move(files)}; }

using MakeTurns = std::function<std::vector<ScriptTurn>(const DataConversation& conversation)>;

ScriptSet MakeSet(std::string name, std::string description,
                  const std::vector<DataConversation>& conversations, const MakeTurns& make_turns) {
  ScriptSet set{.regimes = {{.name = std::move(name), .description = std::move(description)}},
                .scripts = {}};
  for (const DataConversation& conversation : conversations) {
    set.scripts.push_back({.turns = make_turns(conversation), .seed = conversation.seed});
  }
  return set;
}

std::span<const DataQuestion> FirstQuestions(const DataConversation& conversation,
                                             size_t max_questions) {
  return std::span(conversation.questions)
      .first(std::min(max_questions, conversation.questions.size()));
}

}  // namespace

std::vector<ScriptSet> DeferredScripts(const std::vector<DataConversation>& conversations) {
  const auto known = [](const DataConversation& conversation) {
    std::vector<ScriptTurn> turns;
    for (const DataQuestion& question : FirstQuestions(conversation, kDeferredQuestions + 1)) {
      turns.push_back(Ask(question, !turns.empty()));
    }
    turns.front().files = conversation.images;
    return turns;
  };
  const auto unknown = [](const DataConversation& conversation) {
    std::vector<ScriptTurn> turns = {Show(conversation.images)};
    for (const DataQuestion& question : FirstQuestions(conversation, kDeferredQuestions)) {
      turns.push_back(Ask(question, true));
    }
    return turns;
  };
  return {
      MakeSet("known",
              "the first message has the pictures and a question; the later answers are measured",
              conversations, known),
      MakeSet("unknown", "the first message has only the pictures; all later answers are measured",
              conversations, unknown)};
}

std::vector<ScriptSet> PagesScripts(const std::vector<DataConversation>& conversations) {
  const auto turns_of = [](const DataConversation& conversation, bool known) {
    std::vector<ScriptTurn> turns;
    for (const std::string& page : conversation.images) turns.push_back(Show({page}));
    std::vector<std::string> last;
    if (known) {
      last = std::move(turns.back().files);
      turns.pop_back();
    }
    const size_t first = turns.size();
    for (const DataQuestion& question : FirstQuestions(conversation, kPagesQuestions)) {
      turns.push_back(Ask(question, true));
    }
    turns[first].files = std::move(last);
    return turns;
  };
  return {
      MakeSet("known", "one message for each page; the first question comes with the last page",
              conversations,
              [&](const DataConversation& conversation) { return turns_of(conversation, true); }),
      MakeSet("unknown", "one message for each page, then the questions", conversations,
              [&](const DataConversation& conversation) { return turns_of(conversation, false); })};
}

std::vector<ScriptSet> TurnsScripts(const std::vector<DataConversation>& conversations) {
  const auto make_turns = [](const DataConversation& conversation) {
    std::vector<ScriptTurn> turns;
    for (size_t turn = 0; turn < kTurns; ++turn) {
      turns.push_back(Ask(conversation.questions[turn % conversation.questions.size()], true));
    }
    turns.front().files = conversation.images;
    return turns;
  };
  return {MakeSet(
      "turns",
      fmt::format("the first of {} messages has the pictures; all answers are measured", kTurns),
      conversations, make_turns)};
}

}  // namespace rkv::app
