#include "serve/metrics.h"

#include <fmt/format.h>

namespace rkv::app {

std::string MetricsText(const SchedulerStats& stats) {
  std::string text;
  const auto add = [&text](const char* type, const char* name, const char* help, double value) {
    text += fmt::format("# HELP rkv:{0} {1}\n# TYPE rkv:{0} {2}\nrkv:{0} {3}\n", name, help, type,
                        value);
  };
  const auto counter = [&add](const char* name, const char* help, auto value) {
    add("counter", name, help, static_cast<double>(value));
  };
  const auto gauge = [&add](const char* name, const char* help, auto value) {
    add("gauge", name, help, static_cast<double>(value));
  };
  const auto rate = [](uint64_t n, double seconds) {
    return seconds > 0 ? static_cast<double>(n) / seconds : 0.0;
  };
  counter("prompt_tokens_total", "Prompt tokens read.", stats.prompt_tokens);
  counter("prompt_tokens_cached_total", "Prompt tokens found in the cache.", stats.cached_tokens);
  counter("prompt_seconds_total", "Time spent reading prompts.", stats.prompt_seconds);
  counter("tokens_predicted_total", "Tokens generated.", stats.predicted_tokens);
  counter("tokens_predicted_seconds_total", "Time spent generating.", stats.predicted_seconds);
  counter("n_decode_total", "Batches decoded.", stats.steps);
  gauge("prompt_tokens_seconds", "Mean speed of reading prompts, in tokens per second.",
        rate(stats.prompt_tokens, stats.prompt_seconds));
  gauge("predicted_tokens_seconds", "Mean speed of an answer, in tokens per second.",
        rate(stats.predicted_tokens, stats.predicted_seconds));
  gauge("requests_processing", "Requests being answered.", stats.running);
  gauge("requests_deferred", "Requests waiting.", stats.waiting);
  counter("requests_total", "Requests started.", stats.requests);
  counter("requests_cancelled_total", "Requests whose client disconnected.",
          stats.requests_cancelled);
  counter("requests_refused_total", "Requests refused with 503.", stats.requests_refused);
  gauge("conversations_idle", "Conversations in memory between their turns.", stats.idle);
  counter("conversations_continued_total", "Requests that continued a known conversation.",
          stats.conversations_continued);
  counter("conversations_parked_total", "Conversations moved to disk to make room.",
          stats.conversations_parked);
  counter("conversations_restored_total", "Conversations restored from disk.",
          stats.conversations_restored);
  counter("conversations_dropped_total", "Conversations dropped to make room.",
          stats.conversations_dropped);
  counter("park_failures_total", "Conversations that could not be written to disk.",
          stats.park_failures);
  gauge("kv_bytes", "Bytes held by caches.", stats.kv_bytes);
  gauge("kv_bytes_full", "Bytes that full f16 caches would hold.", stats.kv_bytes_full);
  gauge("kv_state_bytes", "Bytes held by states.", stats.kv_state_bytes);
  gauge("kv_bytes_reserved", "Bytes held or reserved for answers in progress.",
        stats.kv_bytes_reserved);
  gauge("kv_bytes_peak", "Maximum of the bytes held so far.", stats.kv_bytes_peak);
  gauge("kv_bytes_limit", "Limit of the bytes held (--memory).", stats.kv_bytes_limit);
  const double usage = stats.kv_bytes_limit > 0 ? static_cast<double>(stats.kv_bytes_reserved) /
                                                      static_cast<double>(stats.kv_bytes_limit)
                                                : 0.0;
  gauge("kv_cache_usage_perc", "Share of --memory that is held or reserved; 1 is all.", usage);
  counter("tokens_absorbed_total", "Tokens absorbed by states, the maximum over KV heads.",
          stats.tokens_absorbed);
  counter("reactivations_total", "Times a state took over 5 % of a softmax.", stats.reactivations);
  return text;
}

}  // namespace rkv::app
