// Reads data sets of pictures and questions. Errors name the file and line.
#include "eval/data_set.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "input.h"

namespace rkv::app {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

// A string, or a list of strings with at least one.
Result<std::vector<std::string>> Strings(const Json& json, std::string_view name) {
  std::vector<std::string> strings;
  if (json.is_string()) {
    strings.push_back(json.get<std::string>());
  } else if (json.is_array()) {
    for (const Json& item : json) {
      if (!item.is_string()) {
        return BadFile(fmt::format("\"{}\" contains {}, which is not a string", name, item.dump()));
      }
      strings.push_back(item.get<std::string>());
    }
  }
  if (strings.empty()) {
    return BadFile(fmt::format("\"{}\" is neither a string nor a list of strings", name));
  }
  return strings;
}

// The first of two names that the object has; null: it has neither.
const Json* Either(const Json& object, const char* one, const char* other) {
  for (const char* name : {one, other}) {
    if (object.contains(name)) return &object[name];
  }
  return nullptr;
}

Result<std::string> FamilyOf(const Json& object, const std::string& otherwise) {
  if (!object.contains("family")) return otherwise;
  if (!object["family"].is_string()) return BadFile("\"family\" is not a string");
  return object["family"].get<std::string>();
}

Result<DataQuestion> ParseQuestion(const Json& object, const std::string& family) {
  if (!object.is_object()) return BadFile(object.dump() + " is not a question with an answer");
  if (!object.contains("question") || !object["question"].is_string()) {
    return BadFile("\"question\" is missing or not a string");
  }
  const Json* answers = Either(object, "answers", "answer");
  if (answers == nullptr) return BadFile("\"answer\" is missing");
  DataQuestion question{.text = object["question"].get<std::string>(), .answers = {}, .family = {}};
  RKV_ASSIGN_OR_RETURN(question.answers, Strings(*answers, "answers"));
  RKV_ASSIGN_OR_RETURN(question.family, FamilyOf(object, family));
  return question;
}

Result<std::vector<DataQuestion>> ParseQuestions(const Json& object) {
  RKV_ASSIGN_OR_RETURN(const std::string family, FamilyOf(object, ""));
  const Json* list = Either(object, "questions", "turns");
  if (list == nullptr) {
    RKV_ASSIGN_OR_RETURN(DataQuestion question, ParseQuestion(object, family));
    return std::vector<DataQuestion>{std::move(question)};
  }
  if (!list->is_array() || list->empty())
    return BadFile("\"questions\" is not a list of questions");
  std::vector<DataQuestion> questions;
  for (size_t i = 0; i < list->size(); ++i) {
    const Json& item = (*list)[i];
    if (!item.is_string()) {
      RKV_ASSIGN_OR_RETURN(questions.emplace_back(), ParseQuestion(item, family));
      continue;
    }
    const Json* answers = Either(object, "answers", "answer");
    if (answers == nullptr || !answers->is_array() || answers->size() != list->size()) {
      return BadFile(fmt::format("\"answers\" is not a list of {} answers, one for each question",
                                 list->size()));
    }
    DataQuestion& question = questions.emplace_back();
    question.text = item.get<std::string>();
    question.family = family;
    RKV_ASSIGN_OR_RETURN(question.answers, Strings((*answers)[i], "answers"));
  }
  return questions;
}

Result<DataConversation> ParseLine(const std::string& line, const fs::path& folder) {
  const Json object = Json::parse(line, nullptr, false);
  if (!object.is_object()) return BadFile("the line is not a JSON object");
  const Json* images = Either(object, "images", "image");
  if (images == nullptr) return BadFile("\"image\" is missing");
  RKV_ASSIGN_OR_RETURN(const std::vector<std::string> names, Strings(*images, "images"));
  DataConversation conversation;
  for (const std::string& image : names) {
    const fs::path path = folder / image;
    std::error_code error;
    if (!fs::is_regular_file(path, error)) {
      return BadFile(fmt::format("there is no picture '{}'", path.string()));
    }
    conversation.images.push_back(path.string());
  }
  if (object.contains("seed")) {
    if (!object["seed"].is_number_unsigned())
      return BadFile("\"seed\" is not a whole number of 0 or more");
    conversation.seed = object["seed"].get<uint64_t>();
  }
  RKV_ASSIGN_OR_RETURN(conversation.questions, ParseQuestions(object));
  return conversation;
}

Status ReadLines(const fs::path& path, std::vector<DataConversation>& conversations) {
  RKV_ASSIGN_OR_RETURN(std::string text, ReadInput(path.string(), "data set"));
  std::istringstream file(std::move(text));
  std::string line;
  for (size_t number = 1; std::getline(file, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    Result<DataConversation> parsed = ParseLine(line, path.parent_path());
    if (!parsed.ok()) {
      return BadFile(fmt::format("{}:{}: {}", path.string(), number, parsed.status().message()));
    }
    if (!conversations.empty() && conversations.back().images == parsed->images) {
      std::ranges::move(parsed->questions, std::back_inserter(conversations.back().questions));
    } else {
      conversations.push_back(*std::move(parsed));
    }
  }
  return OkStatus();
}

}  // namespace

Result<std::vector<DataConversation>> ReadDataSet(const std::string& path) {
  std::vector<fs::path> files;
  std::error_code error;
  if (fs::is_directory(path, error)) {
    for (const fs::directory_entry& entry : fs::directory_iterator(path, error)) {
      if (entry.path().extension() == ".jsonl") files.push_back(entry.path());
    }
    if (files.empty()) return BadFile(fmt::format("there is no *.jsonl file in '{}'", path));
    std::ranges::sort(files);
  } else {
    files.emplace_back(path);
  }
  std::vector<DataConversation> conversations;
  for (const fs::path& file : files) RKV_RETURN_IF_ERROR(ReadLines(file, conversations));
  if (conversations.empty()) return BadFile(fmt::format("there is no question in '{}'", path));
  return conversations;
}

std::vector<ScriptSet> DataScripts(const std::vector<DataConversation>& conversations) {
  std::vector<ScriptSet> sets = {
      {.regimes = {{.name = "known",
                    .description = "the first message has the pictures and the first question; all "
                                   "answers are measured"}},
       .scripts = {}},
      {.regimes = {{.name = "unknown",
                    .description =
                        "the first message has only the pictures; all later answers are measured"}},
       .scripts = {}}};
  for (const DataConversation& conversation : conversations) {
    Script known{.turns = {}, .seed = conversation.seed};
    for (const DataQuestion& question : conversation.questions) {
      known.turns.push_back({.text = question.text,
                             .answers = question.answers,
                             .families = {question.family},
                             .measured = true});
    }
    Script unknown = known;
    known.turns.front().files = conversation.images;
    ScriptTurn pictures;
    pictures.files = conversation.images;
    unknown.turns.insert(unknown.turns.begin(), std::move(pictures));
    sets[0].scripts.push_back(std::move(known));
    sets[1].scripts.push_back(std::move(unknown));
  }
  return sets;
}

}  // namespace rkv::app
