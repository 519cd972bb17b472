// Runs a suite part by part; each part measures one configuration and budget after the other.
#ifndef RETENTIVEKV_APPS_RKV_EVAL_SUITE_H_
#define RETENTIVEKV_APPS_RKV_EVAL_SUITE_H_

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "eval/journal.h"
#include "eval/measurement.h"
#include "lab/stock_reader.h"

namespace rkv::app {

// Some of a suite's conversations, or one place of a text. During its life it keeps the results of
// `full`, for comparison with the others.
class SuitePart {
 public:
  virtual ~SuitePart() = default;
  // Fills in one measurement for each of the part's regimes. The first call must be for `full`.
  virtual Status Measure(const CacheOptions& options, std::span<Measurement> measurements) = 0;
  // Likewise of stock llama.cpp. kUnsupported for parts that cannot.
  virtual Status MeasureStock(StockReader& stock, bool flash_attention,
                              std::span<Measurement> measurements);
};

struct SuitePlan {
  struct Part {
    std::string name;             // unique
    std::vector<size_t> regimes;  // regimes that it contributes to
    std::function<std::unique_ptr<SuitePart>()> make;
  };

  std::string accuracy_name;  // as in SuiteResult
  std::string unit_name;
  std::vector<Regime> regimes;  // without cells
  std::vector<Part> parts;
  // Loads stock llama.cpp when the first configuration needs it. May be empty if none does.
  std::function<Result<std::unique_ptr<StockReader>>()> load_stock = {};
};

// The key of a measurement in a journal.
std::string JournalKey(const std::string& part, const CacheOptions& options,
                       Stock stock = Stock::kNo);

// `journal` may be null. REQUIRES: configuration 0 is `full`.
Result<SuiteResult> RunSuite(const SuitePlan& plan,
                             const std::vector<Configuration>& configurations,
                             const std::vector<Budget>& budgets, Journal* journal,
                             const EvalProgress& progress);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_EVAL_SUITE_H_
