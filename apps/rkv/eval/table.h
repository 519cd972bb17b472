// Writes the results of a suite as Markdown, JSON and CSV.
#ifndef RETENTIVEKV_APPS_RKV_EVAL_TABLE_H_
#define RETENTIVEKV_APPS_RKV_EVAL_TABLE_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "eval/measurement.h"

namespace rkv::app {

struct EvalHeader {
  std::string suite;
  std::string command;
  std::string model;
  std::string version;                // of rkv and llama.cpp
  std::vector<uint64_t> seeds = {1};  // the bootstrap uses the first one, too
  int n_conversations = 0;            // for each seed
  double seconds = 0;  // of all measurements, including earlier runs that --resume continues
  std::vector<std::string> notes;
  std::string curves;  // file of the curves, beside the table; empty: none
};

std::string MarkdownTable(const EvalHeader& header, const SuiteResult& result);
std::string JsonTable(const EvalHeader& header, const SuiteResult& result);
std::string CsvTable(const EvalHeader& header, const SuiteResult& result);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_EVAL_TABLE_H_
