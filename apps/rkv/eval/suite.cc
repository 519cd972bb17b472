#include "eval/suite.h"

#include <fmt/format.h>

#include <algorithm>

namespace rkv::app {

namespace {

// A configuration with one of its budgets.
struct Cell {
  size_t configuration = 0;
  size_t budget = 0;
  CacheOptions options;
  Stock stock = Stock::kNo;
  std::string name;
};

std::vector<Cell> CellsOf(const std::vector<Configuration>& configurations,
                          const std::vector<Budget>& budgets) {
  std::vector<Cell> cells;
  for (size_t c = 0; c < configurations.size(); ++c) {
    const auto row = BudgetsOf(configurations[c], budgets);
    for (size_t b = 0; b < row.size(); ++b) {
      cells.push_back({.configuration = c,
                       .budget = b,
                       .options = WithBudget(configurations[c].options, row[b]),
                       .stock = configurations[c].stock,
                       .name = NameOf(configurations[c], row[b])});
    }
  }
  return cells;
}

// Measures parts, and loads stock llama.cpp once for all.
class Runner {
 public:
  explicit Runner(const SuitePlan& plan) : plan_(plan) {}

  Status Measure(SuitePart& part, const Cell& cell, std::vector<Measurement>& measured) {
    if (cell.stock == Stock::kNo) return part.Measure(cell.options, measured);
    if (stock_ == nullptr) {
      RKV_ASSIGN_OR_RETURN(stock_, plan_.load_stock());
    }
    return part.MeasureStock(*stock_, cell.stock == Stock::kFlashAttention, measured);
  }

 private:
  const SuitePlan& plan_;
  std::unique_ptr<StockReader> stock_;
};

}  // namespace

Status SuitePart::MeasureStock(StockReader&, bool, std::span<Measurement>) {
  return Unsupported("this suite does not measure stock llama.cpp");
}

std::string JournalKey(const std::string& part, const CacheOptions& options, Stock stock) {
  if (stock != Stock::kNo) {
    return fmt::format("{} | llama.cpp, flash attention {}", part,
                       stock == Stock::kFlashAttention ? "on" : "off");
  }
  const bool unlimited = options.budget.unlimited();
  return fmt::format("{} | {} | {}", part, ToString(options.policy),
                     unlimited ? "none" : ToString(options.budget)) +
         UnusualOptions(options, !unlimited, " | ");
}

Result<SuiteResult> RunSuite(const SuitePlan& plan,
                             const std::vector<Configuration>& configurations,
                             const std::vector<Budget>& budgets, Journal* journal,
                             const EvalProgress& progress) {
  SuiteResult result{.accuracy_name = plan.accuracy_name,
                     .unit_name = plan.unit_name,
                     .configurations = configurations,
                     .budgets = budgets,
                     .regimes = plan.regimes};
  for (Regime& regime : result.regimes) {
    for (const Configuration& configuration : configurations) {
      regime.cells.emplace_back(BudgetsOf(configuration, budgets).size());
    }
  }
  const std::vector<Cell> cells = CellsOf(configurations, budgets);
  const auto finished = [&](const SuitePlan::Part& part, const Cell& cell) {
    return journal == nullptr ? nullptr
                              : journal->Find(JournalKey(part.name, cell.options, cell.stock));
  };
  // Measures `full` again for each unfinished part: the other results are compared with it.
  std::vector<size_t> n_left;
  size_t n_total = 0;
  for (const SuitePlan::Part& part : plan.parts) {
    const auto n = static_cast<size_t>(std::ranges::count_if(
        cells, [&](const Cell& cell) { return finished(part, cell) == nullptr; }));
    const bool full_again = n > 0 && finished(part, cells.front()) != nullptr;
    n_left.push_back(n);
    n_total += n + (full_again ? 1 : 0);
  }
  size_t n_done = 0;
  Runner runner(plan);
  for (size_t p = 0; p < plan.parts.size(); ++p) {
    const SuitePlan::Part& part = plan.parts[p];
    const std::unique_ptr<SuitePart> measurable = n_left[p] > 0 ? part.make() : nullptr;
    for (const Cell& cell : cells) {
      const std::vector<Measurement>* found = finished(part, cell);
      std::vector<Measurement> measured(part.regimes.size());
      if (found == nullptr || (measurable != nullptr && &cell == &cells.front())) {
        progress(fmt::format("{}, {}", cell.name, part.name),
                 static_cast<double>(n_done++) / static_cast<double>(n_total));
        RKV_RETURN_IF_ERROR(runner.Measure(*measurable, cell, measured));
      }
      if (found != nullptr) {
        if (found->size() != measured.size()) {
          return BadFile(fmt::format("the file of --resume has {} measurements of {}, not {}",
                                     found->size(), part.name, measured.size()));
        }
        measured = *found;
      } else if (journal != nullptr) {
        RKV_RETURN_IF_ERROR(
            journal->Append(JournalKey(part.name, cell.options, cell.stock), measured));
      }
      for (size_t r = 0; r < part.regimes.size(); ++r) {
        result.regimes[part.regimes[r]].cells[cell.configuration][cell.budget].Add(measured[r]);
      }
    }
  }
  return result;
}

}  // namespace rkv::app
