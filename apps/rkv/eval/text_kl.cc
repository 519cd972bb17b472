// Suite `text-kl`. Texts are forced, so that all configurations see the same tokens as `full`.
#include "eval/text_kl.h"

#include <fmt/format.h>

#include <array>
#include <chrono>
#include <memory>
#include <span>

namespace rkv::app {

namespace {

constexpr size_t kBlock = 16;  // positions that the bootstrap resamples together
constexpr size_t kLead = 4;    // tokens of a continuation, read but not measured

// The regimes.
constexpr size_t kContinue = 0;
constexpr size_t kChange = 1;
constexpr size_t kEnds = 2;

// A place of a text and its two continuations.
struct Window {
  std::string name;  // of the text
  std::string prompt;
  std::array<std::string, kEnds> leads;
  std::array<std::string, kEnds> forced;
};

// Appends the windows of one text.
Status AddWindows(const Engine& engine, const EvalText& text, const std::vector<int32_t>& then,
                  const TextKlOptions& options, std::vector<Window>& windows) {
  RKV_ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, engine.Tokenize(text.text));
  const auto n_context = static_cast<size_t>(options.n_context);
  const size_t n_end = kLead + static_cast<size_t>(options.n_forced);
  const size_t n_window = n_context + n_end;
  if (tokens.size() < n_window) {
    return InvalidArgument(
        fmt::format("the text '{}' has {} tokens, but {} are needed: pass a longer "
                    "--text or a shorter --context",
                    text.name, tokens.size(), n_window));
  }
  const auto words = [&engine](const std::vector<int32_t>& from, size_t begin, size_t n) {
    return *engine.Detokenize(std::span(from).subspan(begin, n));
  };
  const auto n_windows = static_cast<size_t>(options.n_windows);
  for (size_t i = 0; i < n_windows; ++i) {
    const size_t steps = std::max<size_t>(1, n_windows - 1);
    const size_t begin = i * (tokens.size() - n_window) / steps;
    const size_t then_begin = i * (then.size() - n_end) / steps;
    Window window;
    window.name = text.name;
    window.prompt = words(tokens, begin, n_context);
    window.leads[kContinue] = words(tokens, begin + n_context, kLead);
    window.forced[kContinue] = words(tokens, begin + n_context + kLead, n_end - kLead);
    window.leads[kChange] = "\n\n" + words(then, then_begin, kLead);
    window.forced[kChange] = words(then, then_begin + kLead, n_end - kLead);
    windows.push_back(std::move(window));
  }
  return OkStatus();
}

Result<std::vector<Window>> MakeWindows(const Engine& engine, const TextKlOptions& options) {
  RKV_ASSIGN_OR_RETURN(const std::vector<int32_t> then, engine.Tokenize(options.then));
  const size_t n_end = kLead + static_cast<size_t>(options.n_forced);
  if (then.size() < n_end) {
    return InvalidArgument(
        fmt::format("the text of --then has {} tokens, but {} are needed", then.size(), n_end));
  }
  // Some spare tokens: a text alone may be split in another way.
  if (static_cast<size_t>(options.n_context) + n_end + 16 > static_cast<size_t>(engine.n_ctx())) {
    return InvalidArgument(fmt::format(
        "a context of {} tokens and {} tokens after it do not fit into the model's {}: pass a "
        "shorter --context",
        options.n_context, n_end, engine.n_ctx()));
  }
  std::vector<Window> windows;
  for (const EvalText& text : options.texts) {
    RKV_RETURN_IF_ERROR(AddWindows(engine, text, then, options, windows));
  }
  return windows;
}

// The next-token logits at every measured position.
using Logits = std::vector<std::vector<float>>;

class WindowPart : public SuitePart {
 public:
  WindowPart(Engine& engine, const Window& window) : engine_(engine), window_(window) {
    for (size_t end = 0; end < kEnds; ++end) {
      n_positions_[end] = engine.Tokenize(window.forced[end])->size();
    }
  }

  Status Measure(const CacheOptions& options, std::span<Measurement> measurements) override {
    const auto start = std::chrono::steady_clock::now();
    Result<std::unique_ptr<Conversation>> created = engine_.NewConversation(options);
    if (!created.ok()) {
      for (Measurement& measurement : measurements) {
        measurement.refused = created.status().message();
      }
      return OkStatus();
    }
    std::array<std::unique_ptr<Conversation>, kEnds> conversations;
    conversations[kContinue] = *std::move(created);
    const bool is_full = full_[kContinue].empty();
    if (is_full) conversations[kContinue]->StartTracing();
    RKV_RETURN_IF_ERROR(conversations[kContinue]->AddUserMessage(window_.prompt));
    if (is_full) prompt_ = conversations[kContinue]->waiting_tokens();
    AnswerOptions nothing;
    nothing.forced_text = "";
    RKV_RETURN_IF_ERROR(Answered(engine_.Answer(*conversations[kContinue], nothing)));
    for (Measurement& measurement : measurements) {
      measurement.AddStats(conversations[kContinue]->stats());
    }
    RKV_ASSIGN_OR_RETURN(conversations[kChange],
                         engine_.CopyConversation(*conversations[kContinue]));

    std::array<Logits, kEnds> logits;
    std::vector<AnswerRequest> requests(kEnds);
    for (size_t end = 0; end < kEnds; ++end) {
      RKV_RETURN_IF_ERROR(conversations[end]->AddUserMessage(window_.leads[end]));
      if (is_full) leads_[end] = conversations[end]->waiting_tokens();
      requests[end].conversation = conversations[end].get();
      requests[end].options.forced_text = window_.forced[end];
      requests[end].options.on_logits = [&logits, end](std::span<const float> row, int32_t) {
        logits[end].emplace_back(row.begin(), row.end());
      };
    }
    RKV_RETURN_IF_ERROR(engine_.AnswerAll(requests));
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    for (size_t end = 0; end < kEnds; ++end) {
      RKV_RETURN_IF_ERROR(Answered(std::move(requests[end].result)));
      measurements[end].AddStats(conversations[end]->stats());
      measurements[end].seconds += elapsed.count() / kEnds;
      logits[end].resize(n_positions_[end]);  // The answer ends here, but the text continues.
      const Inspection inspection = conversations[end]->Inspect();
      if (is_full) {
        full_[end] = logits[end];
        shares_[end] = SharesOf(inspection);
      }
      measurements[end].missed.Add(MissedShare(shares_[end], inspection), 1);
      Compare(logits[end], full_[end], measurements[end]);
    }
    return OkStatus();
  }

  Status MeasureStock(StockReader& stock, bool flash_attention,
                      std::span<Measurement> measurements) override {
    RKV_RETURN_IF_ERROR(stock.Read(prompt_, flash_attention));
    for (size_t end = 0; end < kEnds; ++end) {
      std::vector<int32_t> tokens = leads_[end];
      const std::vector<int32_t> forced = *engine_.Tokenize(window_.forced[end]);
      tokens.insert(tokens.end(), forced.begin(), forced.end());
      RKV_ASSIGN_OR_RETURN(Logits logits, stock.Continue(tokens, leads_[end].size() - 1));
      logits.resize(n_positions_[end]);
      Measurement& measurement = measurements[end];
      measurement.held_bytes =
          (prompt_.size() + tokens.size()) * engine_.shape().full_token_bytes();
      measurement.kept = 1;
      measurement.missed.Add(0, 1);
      Compare(logits, full_[end], measurement);
    }
    return OkStatus();
  }

 private:
  static Status Answered(const Result<AnswerResult>& answer) {
    if (!answer.ok()) return answer.status();
    RKV_RETURN_IF_ERROR(CheckFinite(*answer));
    if (answer->stop == StopReason::kEndOfAnswer) return OkStatus();
    return ResourceExhausted("the text does not fit into the context");
  }

  void Compare(const Logits& logits, const Logits& full, Measurement& measurement) const {
    for (size_t begin = 0; begin < full.size(); begin += kBlock) {
      const size_t end = std::min(begin + kBlock, full.size());
      double kl = 0;
      double same = 0;
      for (size_t i = begin; i < end; ++i) {
        kl += KlDivergence(full[i], logits[i]);
        same += ArgMax(full[i]) == ArgMax(logits[i]) ? 1 : 0;
      }
      measurement.kl.Add(kl, static_cast<double>(end - begin));
      measurement.accuracy.Add(same, static_cast<double>(end - begin));
      Tally& tally = measurement.by_family["text " + window_.name];
      tally.right += same;
      tally.n += static_cast<double>(end - begin);
    }
  }

  Engine& engine_;
  Window window_;
  std::array<size_t, kEnds> n_positions_ = {};
  std::array<Logits, kEnds> full_;
  std::array<HeadShares, kEnds> shares_;  // of `full`
  std::vector<int32_t> prompt_;           // tokens of `full`, for stock llama.cpp
  std::array<std::vector<int32_t>, kEnds> leads_;
};

}  // namespace

Result<SuitePlan> PlanTextKl(Engine& engine, const TextKlOptions& options) {
  RKV_ASSIGN_OR_RETURN(const std::vector<Window> windows, MakeWindows(engine, options));
  SuitePlan plan{.accuracy_name = "top-1 agreement with full",
                 .unit_name = fmt::format("blocks of {} positions", kBlock),
                 .regimes = {},
                 .parts = {}};
  plan.regimes = {{.name = "continue",
                   .description = fmt::format("{} tokens of a text, then the next {} of it",
                                              options.n_context, options.n_forced),
                   .cells = {}},
                  {.name = "change",
                   .description = fmt::format("{} tokens of a text, then {} of another",
                                              options.n_context, options.n_forced),
                   .cells = {}}};
  // One window after the other, since the logits of one take a hundred megabytes.
  for (size_t w = 0; w < windows.size(); ++w) {
    plan.parts.push_back({.name = fmt::format("window {} of {}", w + 1, windows.size()),
                          .regimes = {kContinue, kChange},
                          .make = [&engine, window = windows[w]]() -> std::unique_ptr<SuitePart> {
                            return std::make_unique<WindowPart>(engine, window);
                          }});
  }
  return plan;
}

}  // namespace rkv::app
