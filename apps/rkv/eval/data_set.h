// Reads pictures and questions from JSON lines, and makes suite `data` of them.
#ifndef RETENTIVEKV_APPS_RKV_EVAL_DATA_SET_H_
#define RETENTIVEKV_APPS_RKV_EVAL_DATA_SET_H_

#include <cstdint>
#include <string>
#include <vector>

#include "eval/conversations.h"

namespace rkv::app {

struct DataQuestion {
  std::string text;
  std::vector<std::string> answers;  // any of them is right
  std::string family;                // "" where the file has none
};

// Questions about the same pictures.
struct DataConversation {
  std::vector<std::string> images;  // paths
  std::vector<DataQuestion> questions;
  uint64_t seed = 1;  // for Measurement::by_seed
};

// Reads a file, or all *.jsonl of a folder in the order of their names. Each line is an object with
//   "image" or "images"      a path, or a list of paths, relative to the file;
//   "question", and "answer" or "answers": a string, or a list of strings of which any is right;
//   or "questions"           a list of such objects, or of strings, with "answers", a list of as
//                            many of these; "turns" is another name for it;
//   "family"                 the kind of question, for accuracy by it (optional);
//   "seed"                   a number, for accuracy by it (optional; 1).
// Consecutive lines about the same images are one conversation. Other fields are ignored. kBadFile,
// with the file and line, for fields that are missing or of another type.
Result<std::vector<DataConversation>> ReadDataSet(const std::string& path);

// Regime `known`: the images come with the first question; `unknown`: before it, alone.
std::vector<ScriptSet> DataScripts(const std::vector<DataConversation>& conversations);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_EVAL_DATA_SET_H_
