// Runs the tests of `rkv bench`. Caches alternate within a test, so that drift of the machine
// affects all of them equally.
#include "bench/measure.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>

#include "lab/bench.h"
#include "lab/read_bandwidth.h"

namespace rkv::app {

namespace {

using Clock = std::chrono::steady_clock;

// The parameters that all caches of a test share.
struct Setting {
  int n_threads = 0;
  int n_batch = 0;
  int n_ubatch = 0;
  size_t depth = 0;
};

class Measuring {
 public:
  Measuring(const BenchPlan& plan, const BenchProgress& progress)
      : plan_(plan), progress_(progress) {
    n_runs_ = plan.models.size() * plan.n_threads.size() * plan.n_batch.size() *
              plan.n_ubatch.size() * plan.depths.size() * plan.caches.size() *
              (1 + (plan.prompts.size() + plan.generations.size()) *
                       static_cast<size_t>(plan.repetitions));
  }

  Result<std::vector<BenchRow>> Run() {
    for (const std::string& file : plan_.models) {
      progress_("loading model", 0);
      RKV_ASSIGN_OR_RETURN(model_, BenchModel::Load(file));
      info_ = {.file = file,
               .description = model_->description(),
               .size = model_->size(),
               .n_params = model_->n_params(),
               .read_bytes = model_->read_bytes()};
      for (const int n_threads : plan_.n_threads) {
        for (const int n_batch : plan_.n_batch) {
          for (const int n_ubatch : plan_.n_ubatch) {
            for (const int depth : plan_.depths) {
              RKV_RETURN_IF_ERROR(
                  Measure({n_threads, n_batch, n_ubatch, static_cast<size_t>(depth)}));
            }
          }
        }
      }
    }
    return std::move(rows_);
  }

 private:
  Status Measure(const Setting& setting) {
    std::vector<BenchTest> tests;
    for (const bool prefill : {true, false}) {
      for (const int n : prefill ? plan_.prompts : plan_.generations) {
        tests.push_back({.prefill = prefill, .n = static_cast<size_t>(n), .depth = setting.depth});
      }
    }
    BenchSessionOptions options{.n_threads = setting.n_threads,
                                .n_batch = setting.n_batch,
                                .n_ubatch = std::min(setting.n_ubatch, setting.n_batch),
                                .n_conversations = plan_.n_conversations,
                                .max_tokens = 0,
                                .seed = plan_.seed};
    for (const BenchTest& test : tests) {
      options.max_tokens =
          std::max(options.max_tokens, setting.depth + std::max(test.n, size_t{1}));
    }
    std::vector<std::unique_ptr<BenchSession>> sessions;
    for (const BenchCache& cache : plan_.caches) {
      Show(fmt::format("filling {} to {}", cache.label(), setting.depth));
      Result<std::unique_ptr<BenchSession>> session =
          cache.stock ? model_->NewStockSession(cache.type_k, cache.type_v, options)
                      : model_->NewSession(cache.options, options);
      if (!session.ok()) return session.status();
      sessions.push_back(*std::move(session));
      RKV_RETURN_IF_ERROR(sessions.back()->Fill(setting.depth, plan_.random_depth));
      ++n_done_;
    }
    info_.stock_weights = model_->has_stock_weights();
    for (const BenchTest& test : tests) RKV_RETURN_IF_ERROR(MeasureTest(setting, test, sessions));
    return OkStatus();
  }

  Status MeasureTest(const Setting& setting, const BenchTest& test,
                     const std::vector<std::unique_ptr<BenchSession>>& sessions) {
    std::vector<BenchRow> rows;
    for (const BenchCache& cache : plan_.caches) {
      BenchRow& row = rows.emplace_back();
      row.model = info_;
      row.n_threads = setting.n_threads;
      row.n_batch = setting.n_batch;
      row.n_ubatch = setting.n_ubatch;
      row.n_conversations = plan_.n_conversations;
      row.cache = cache;
      row.test = test;
    }
    std::vector<double> bandwidths;
    for (int repetition = 0; repetition < plan_.repetitions; ++repetition) {
      // Once per repetition, so that the load of other processes is in both measurements.
      bandwidths.push_back(MeasureReadBandwidth(setting.n_threads));
      for (size_t i = 0; i < sessions.size(); ++i) {
        // Rotates the order: no cache is always first, or always after the same one.
        const size_t c = (i + static_cast<size_t>(repetition)) % sessions.size();
        Show(fmt::format("{}, {}, repetition {}", test.name(), plan_.caches[c].label(),
                         repetition + 1));
        RKV_RETURN_IF_ERROR(Repeat(test, *sessions[c], rows[c]));
        ++n_done_;
      }
    }
    for (BenchRow& row : rows) row.bandwidth = Median(bandwidths);
    CompareWithStock(rows);
    std::ranges::move(rows, std::back_inserter(rows_));
    return OkStatus();
  }

  Status Repeat(const BenchTest& test, BenchSession& session, BenchRow& row) {
    RKV_RETURN_IF_ERROR(session.Restore());
    const bool first = row.seconds.empty();
    if (first) session.StartPeak();
    const BenchCacheUse before = session.use();
    const auto start = Clock::now();
    RKV_RETURN_IF_ERROR(test.prefill ? session.Prefill(test.n) : session.Decode(test.n));
    row.seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
    const BenchCacheUse after = session.use();
    if (first) {
      session.EndPeak();
      row.peak = session.peak();
      row.held_bytes = after.held_bytes;
      row.full_bytes = after.full_bytes;
      row.cache_read_bytes = static_cast<double>(before.read_bytes + after.read_bytes) / 2;
    }
    const double n = plan_.repetitions;
    row.compress_seconds += (after.compress_seconds - before.compress_seconds) / n;
    row.observe_seconds += (after.observe_seconds - before.observe_seconds) / n;
    return OkStatus();
  }

  void Show(std::string_view what) {
    progress_(what, static_cast<double>(n_done_) / static_cast<double>(n_runs_));
  }

  const BenchPlan& plan_;
  const BenchProgress& progress_;
  size_t n_runs_ = 0;  // repetitions and fillings
  size_t n_done_ = 0;
  std::unique_ptr<BenchModel> model_;
  BenchModelInfo info_;
  std::vector<BenchRow> rows_;
};

}  // namespace

Result<std::vector<BenchRow>> MeasureBench(const BenchPlan& plan, const BenchProgress& progress) {
  return Measuring(plan, progress).Run();
}

}  // namespace rkv::app
