// Runs a suite: part by part, and in each part one configuration and budget after the other.
#ifndef RETENTIVEKV_APPS_RKV_EVAL_SUITE_H_
#define RETENTIVEKV_APPS_RKV_EVAL_SUITE_H_

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "eval/journal.h"
#include "eval/measurement.h"

namespace rkv::app {

// Some of a suite's conversations, or one place of a text. What `full` said about it is kept as
// long as it lives, for the others to be compared with.
class SuitePart {
 public:
  virtual ~SuitePart() = default;
  // Fills in one measurement for each of the part's regimes. The first call is that of `full`.
  virtual Status Measure(const CacheOptions& options, std::span<Measurement> measurements) = 0;
};

struct SuitePlan {
  struct Part {
    std::string name;             // unique
    std::vector<size_t> regimes;  // that it adds to
    std::function<std::unique_ptr<SuitePart>()> make;
  };

  std::string accuracy_name;  // as in SuiteResult
  std::string unit_name;
  std::vector<Regime> regimes;  // without cells
  std::vector<Part> parts;
};

// What a measurement is found by in a journal.
std::string JournalKey(const std::string& part, const CacheOptions& options);

// `journal` may be null. REQUIRES: configuration 0 is `full`.
Result<SuiteResult> RunSuite(const SuitePlan& plan,
                             const std::vector<Configuration>& configurations,
                             const std::vector<Budget>& budgets, Journal* journal,
                             const EvalProgress& progress);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_EVAL_SUITE_H_
