#include "eval/deferred.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>

#include "eval/pictures.h"

namespace rkv::app {

namespace {

// One turn, and whether it is measured.
struct Turn {
  std::string text;
  std::string answer;
  bool measured = false;
};

struct Script {
  std::vector<MediaFile> pictures;  // before the first turn
  std::vector<Turn> turns;
};

// Logits at each place where a token of a measured answer is chosen.
struct Answered {
  std::vector<std::vector<float>> logits;
  std::vector<bool> right;  // one for each measured turn
};

std::vector<Script> MakeScripts(const DeferredOptions& options, bool known) {
  std::vector<Script> scripts;
  for (int i = 0; i < options.n_conversations; ++i) {
    PictureConversation made = MakePictureConversation(
        options.seed * 1000003 + static_cast<uint64_t>(i), options.n_pictures);
    Script script;
    for (size_t p = 0; p < made.pictures.size(); ++p) {
      script.pictures.push_back(
          {.name = fmt::format("picture {}", p + 1), .bytes = PngBytes(made.pictures[p])});
    }
    if (!known) script.turns.push_back({});
    const auto n_questions = static_cast<size_t>(1 + options.n_later_questions);
    for (size_t q = 0; q < std::min(n_questions, made.questions.size()); ++q) {
      script.turns.push_back({.text = made.questions[q].text,
                              .answer = made.questions[q].answer,
                              .measured = !known || q > 0});
    }
    scripts.push_back(std::move(script));
  }
  return scripts;
}

class Runner {
 public:
  Runner(Engine& engine, std::vector<Script> scripts)
      : engine_(engine), scripts_(std::move(scripts)) {}

  Status Measure(const MemoryOptions& options, Measurement& measurement) {
    const auto start = std::chrono::steady_clock::now();
    const Result<std::unique_ptr<Conversation>> possible = engine_.NewConversation(options);
    if (!possible.ok()) {
      measurement.refused = possible.status().message();
      return OkStatus();
    }
    const bool is_full = full_.empty();
    if (is_full) full_.resize(scripts_.size());
    const auto at_once = static_cast<size_t>(engine_.options().max_conversations);
    for (size_t begin = 0; begin < scripts_.size(); begin += at_once) {
      const size_t end = std::min(begin + at_once, scripts_.size());
      std::vector<Answered> answered(end - begin);
      RKV_RETURN_IF_ERROR(Converse(options, begin, answered, measurement));
      for (size_t i = begin; i < end; ++i) {
        if (is_full) full_[i] = answered[i - begin].logits;
        Compare(answered[i - begin], full_[i], measurement);
      }
    }
    measurement.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return OkStatus();
  }

 private:
  // The conversations from `begin` on, all at once.
  Status Converse(const MemoryOptions& options, size_t begin, std::vector<Answered>& answered,
                  Measurement& measurement) {
    std::vector<std::unique_ptr<Conversation>> conversations(answered.size());
    size_t n_turns = 0;
    for (size_t i = 0; i < answered.size(); ++i) {
      RKV_ASSIGN_OR_RETURN(conversations[i], engine_.NewConversation(options));
      n_turns = std::max(n_turns, scripts_[begin + i].turns.size());
    }
    for (size_t turn = 0; turn < n_turns; ++turn) {
      std::vector<AnswerRequest> requests;
      for (size_t i = 0; i < answered.size(); ++i) {
        const Script& script = scripts_[begin + i];
        if (turn >= script.turns.size()) continue;
        RKV_RETURN_IF_ERROR(conversations[i]->AddUserMessageWithMedia(
            script.turns[turn].text, turn == 0 ? std::span<const MediaFile>(script.pictures)
                                               : std::span<const MediaFile>()));
        requests.push_back({.conversation = conversations[i].get(),
                            .options = Forced(script.turns[turn], answered[i]),
                            .result = {}});
      }
      RKV_RETURN_IF_ERROR(engine_.AnswerAll(requests));
      for (const AnswerRequest& request : requests) {
        measurement.AddStats(request.conversation->stats());
        RKV_RETURN_IF_ERROR(CheckFinite(request.result));
        if (request.result.stop != StopReason::kEndOfAnswer) {
          return ResourceExhausted("a conversation does not fit the context");
        }
      }
    }
    return OkStatus();
  }

  static AnswerOptions Forced(const Turn& turn, Answered& answered) {
    AnswerOptions options;
    options.forced_text = turn.answer;
    if (!turn.measured) return options;
    answered.right.push_back(true);
    options.on_logits = [&answered](std::span<const float> logits, int32_t forced) {
      if (ArgMax(logits) != static_cast<size_t>(forced)) answered.right.back() = false;
      answered.logits.emplace_back(logits.begin(), logits.end());
    };
    return options;
  }

  static void Compare(const Answered& answered, const std::vector<std::vector<float>>& full,
                      Measurement& measurement) {
    measurement.accuracy.Add(static_cast<double>(std::ranges::count(answered.right, true)),
                             static_cast<double>(answered.right.size()));
    double kl = 0;
    for (size_t i = 0; i < full.size(); ++i) kl += KlDivergence(full[i], answered.logits[i]);
    measurement.kl.Add(kl, static_cast<double>(full.size()));
  }

  Engine& engine_;
  std::vector<Script> scripts_;
  std::vector<std::vector<std::vector<float>>> full_;  // [conversation][place][vocabulary]
};

}  // namespace

Result<SuiteResult> RunDeferred(Engine& engine, const DeferredOptions& options,
                                const std::vector<Configuration>& configurations,
                                const std::vector<Budget>& budgets, const EvalProgress& progress) {
  SuiteResult result{.accuracy_name = "accuracy",
                     .unit_name = "conversations",
                     .configurations = configurations,
                     .budgets = budgets,
                     .regimes = {}};
  const size_t n_cells = 2 * CountCells(configurations, budgets);
  size_t n_done = 0;
  for (const bool known : {true, false}) {
    Regime regime{.name = known ? "known" : "unknown",
                  .description = known ? "the first message has the pictures and a question; "
                                         "measured are the later questions"
                                       : "the pictures are a turn of their own; measured are all "
                                         "questions after it",
                  .cells = {}};
    Runner runner(engine, MakeScripts(options, known));
    for (const Configuration& configuration : configurations) {
      auto& row = regime.cells.emplace_back();
      for (const std::optional<Budget>& budget : BudgetsOf(configuration, budgets)) {
        progress(fmt::format("{}, {}", NameOf(configuration, budget), regime.name),
                 static_cast<double>(n_done++) / static_cast<double>(n_cells));
        RKV_RETURN_IF_ERROR(
            runner.Measure(WithBudget(configuration.options, budget), row.emplace_back()));
      }
    }
    result.regimes.push_back(std::move(regime));
  }
  return result;
}

}  // namespace rkv::app
