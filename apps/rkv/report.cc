// Texts and JSON about an answer's cost and the cache.
#include "report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "output.h"

namespace rkv::app {

namespace {

struct ByteUnit {
  const char* name;
  double bytes;
};

ByteUnit UnitFor(uint64_t bytes) {
  if (bytes >= uint64_t{10} << 30) return {"GiB", 1024.0 * 1024 * 1024};
  if (bytes >= uint64_t{10} << 20) return {"MiB", 1024.0 * 1024};
  return {"KiB", 1024.0};
}

double PerSecond(size_t n, double seconds) {
  return seconds > 0 ? static_cast<double>(n) / seconds : 0.0;
}

}  // namespace

std::string DescribeCache(const Conversation& conversation) {
  const CacheStats stats = conversation.stats();
  const CacheOptions& options = conversation.cache_options();
  const ByteUnit unit = UnitFor(std::max(stats.full_bytes, stats.held_bytes));
  const auto bytes = [&unit](uint64_t n) { return static_cast<double>(n) / unit.bytes; };
  if (options.budget.unlimited() && stats.held_bytes >= stats.full_bytes) {
    // Nothing is saved: report the bytes beside the rows that llama.cpp's cache would have.
    const bool f16 = !options.type_k.has_value() && !options.type_v.has_value();
    return fmt::format(
        "cache: holds {:.1f} {}: {:.1f} {} of {}rows and {:.1f} {} of tables; "
        "policy {}, no budget",
        bytes(stats.held_bytes), unit.name, bytes(stats.exact_bytes), unit.name, f16 ? "f16 " : "",
        bytes(stats.held_bytes - stats.exact_bytes), unit.name, ToString(options.policy));
  }
  const double kept = 100 * stats.kept();
  std::string text =
      fmt::format("cache: holds {:.1f} of {:.1f} {} ({:.0f} % kept, {:.0f} % saved), policy {}",
                  bytes(stats.held_bytes), bytes(stats.full_bytes), unit.name, kept,
                  std::max(100 - std::round(kept), 0.0), ToString(options.policy));
  if (options.budget.unlimited()) return text + ", no budget";
  text += fmt::format(", budget {}", ToString(options.budget));
  const double share = options.budget.amount / 100 * static_cast<double>(stats.full_bytes);
  if (options.budget.unit == Budget::Unit::kPercent &&
      static_cast<double>(stats.budget_bytes) > share + 1) {
    text += fmt::format(" (raised to {:.1f} {}, the minimum for sinks and window)",
                        bytes(stats.budget_bytes), unit.name);
  }
  if (stats.tokens_evicted == 0 && stats.tokens_absorbed > 0) {
    return text + fmt::format(": states absorbed up to {} of {} tokens of a KV head",
                              stats.tokens_absorbed, stats.tokens_seen);
  }
  if (stats.tokens_evicted == 0) return text + ": no tokens evicted";
  return text + fmt::format(": {} of {} tokens evicted", stats.tokens_evicted, stats.tokens_seen);
}

std::string DescribeSpeed(const AnswerResult& answer) {
  std::string text =
      fmt::format("speed: read {} tokens in {:.2f} s ({:.0f} t/s)", answer.n_prompt_tokens,
                  answer.prompt_seconds, PerSecond(answer.n_prompt_tokens, answer.prompt_seconds));
  if (answer.encode_seconds > 0)
    text += fmt::format(" after {:.2f} s of encoding", answer.encode_seconds);
  // Reading the prompt gives the first token.
  const size_t n_decoded = answer.n_generated > 0 ? answer.n_generated - 1 : 0;
  return text + fmt::format(", wrote {} tokens ({:.0f} t/s)", answer.n_generated,
                            PerSecond(n_decoded, answer.decode_seconds));
}

nlohmann::json CacheJson(const Conversation& conversation) {
  const CacheStats stats = conversation.stats();
  const CacheOptions& options = conversation.cache_options();
  nlohmann::json types = nlohmann::json::object();
  for (size_t i = 0; i < kElementTypes; ++i) {
    if (stats.bytes_by_type[i] == 0) continue;
    types[std::string(ToString(static_cast<ElementType>(i)))] = {{"bytes", stats.bytes_by_type[i]},
                                                                 {"rows", stats.tokens_by_type[i]}};
  }
  return {{"policy", ToString(options.policy)},
          {"budget", options.budget.unlimited() ? "none" : ToString(options.budget)},
          {"budget_bytes", stats.budget_bytes},
          {"held_bytes", stats.held_bytes},
          {"full_bytes", stats.full_bytes},
          {"exact_bytes", stats.exact_bytes},
          {"state_bytes", stats.state_bytes},
          {"metadata_bytes", stats.metadata_bytes},
          {"types", types},
          {"tokens_seen", stats.tokens_seen},
          {"tokens_exact", stats.tokens_exact},
          {"tokens_evicted", stats.tokens_evicted},
          {"tokens_absorbed", stats.tokens_absorbed},
          {"states", stats.states},
          {"state_share", stats.state_share},
          {"reactivated", stats.reactivations},
          {"compressions", stats.compressions},
          {"compress_ms", 1000 * stats.compress_seconds},
          {"observe_ms", 1000 * stats.observe_seconds},
          {"kept", stats.kept()},
          {"compression_ratio", 1 - stats.kept()}};
}

Status WriteReport(const std::string& path, const Conversation& conversation,
                   const AnswerResult& answer) {
  if (path.empty()) return OkStatus();
  const nlohmann::json report = {{"kv", CacheJson(conversation)},
                                 {"timings",
                                  {{"prompt_n", answer.n_prompt_tokens},
                                   {"prompt_ms", 1000 * answer.prompt_seconds},
                                   {"encode_ms", 1000 * answer.encode_seconds},
                                   {"predicted_n", answer.n_generated},
                                   {"predicted_ms", 1000 * answer.decode_seconds}}}};
  return WriteOutput(path, report.dump(2) + "\n", "the report ");
}

}  // namespace rkv::app
