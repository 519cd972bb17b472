// Measures conversations: all scripts of a part take each turn together, with `full` first. Later
// configurations are compared with the logits and shares of `full`.
#include "eval/conversations.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <memory>
#include <utility>

#include "retentivekv/inspect.h"

namespace rkv::app {

namespace {

using Logits = std::vector<std::vector<float>>;  // [place][vocabulary]

// The results of a measured turn.
struct MeasuredTurn {
  Logits logits;
  bool right = true;
  std::string text;   // the answer, if it was generated
  double missed = 0;  // as in Measurement
  HeadShares shares;  // of `full`
  // The question, and the answer that is forced. Of `full`.
  std::vector<int32_t> question;
  std::vector<int32_t> answer;
};

class ConversationPart : public SuitePart {
 public:
  ConversationPart(Engine& engine, std::span<const Script> scripts,
                   const ConversationOptions& options)
      : engine_(engine), scripts_(scripts), options_(options) {}

  Status Measure(const CacheOptions& options, std::span<Measurement> measurements) override {
    const Clock::time_point start = Clock::now();
    const Result<std::unique_ptr<Conversation>> possible = engine_.NewConversation(options);
    if (!possible.ok()) {
      for (Measurement& measurement : measurements) {
        measurement.refused = possible.status().message();
      }
      return OkStatus();
    }
    turns_.assign(scripts_.size(), {});
    if (full_.empty()) contexts_.assign(scripts_.size(), {});
    RKV_RETURN_IF_ERROR(Converse(options, measurements));
    if (full_.empty()) full_ = turns_;
    Finish(start, measurements);
    return OkStatus();
  }

  Status MeasureStock(StockReader& stock, bool flash_attention,
                      std::span<Measurement> measurements) override {
    const Clock::time_point start = Clock::now();
    turns_.assign(scripts_.size(), {});
    const uint64_t token_bytes = engine_.shape().full_token_bytes();
    uint64_t held_bytes = 0;
    for (size_t i = 0; i < scripts_.size(); ++i) {
      if (!scripts_[i].apart) return Unsupported("stock llama.cpp is asked on copies only");
      RKV_RETURN_IF_ERROR(stock.Read(contexts_[i], flash_attention));
      for (const MeasuredTurn& full : full_[i]) {
        MeasuredTurn& turn = turns_[i].emplace_back();
        std::vector<int32_t> tokens = full.question;
        tokens.insert(tokens.end(), full.answer.begin(), full.answer.end());
        RKV_ASSIGN_OR_RETURN(turn.logits, stock.Continue(tokens, full.question.size() - 1));
        for (size_t k = 0; k < full.answer.size(); ++k) {
          if (ArgMax(turn.logits[k]) != static_cast<size_t>(full.answer[k])) turn.right = false;
        }
        held_bytes = std::max(held_bytes, (contexts_[i].size() + tokens.size()) * token_bytes);
      }
    }
    for (Measurement& measurement : measurements) {
      measurement.held_bytes = held_bytes;
      measurement.kept = 1;
    }
    Finish(start, measurements);
    return OkStatus();
  }

 private:
  using Clock = std::chrono::steady_clock;

  // A script's position in a turn that all scripts take together.
  struct Place {
    size_t script = 0;
    const ScriptTurn* turn = nullptr;
    Conversation* conversation = nullptr;
    std::unique_ptr<Conversation> copy;
  };

  // Compares the turns of all scripts with `full`.
  void Finish(Clock::time_point start, std::span<Measurement> measurements) {
    for (size_t i = 0; i < scripts_.size(); ++i) {
      for (size_t r = 0; r < measurements.size(); ++r) Compare(i, r, measurements[r]);
    }
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    for (Measurement& measurement : measurements) {
      measurement.seconds = seconds / static_cast<double>(measurements.size());
    }
  }

  Status Converse(const CacheOptions& options, std::span<Measurement> measurements) {
    std::vector<std::unique_ptr<Conversation>> conversations(scripts_.size());
    size_t n_turns = 0;
    for (size_t i = 0; i < scripts_.size(); ++i) {
      RKV_ASSIGN_OR_RETURN(conversations[i], engine_.NewConversation(options));
      if (full_.empty()) conversations[i]->StartTracing();
      n_turns = std::max(n_turns, scripts_[i].turns.size());
    }
    for (size_t t = 0; t < n_turns; ++t) {
      std::vector<Place> places;
      for (size_t i = 0; i < scripts_.size(); ++i) {
        if (t >= scripts_[i].turns.size()) continue;
        const ScriptTurn& turn = scripts_[i].turns[t];
        Place place{.script = i, .turn = &turn, .conversation = conversations[i].get(), .copy = {}};
        if (turn.measured && scripts_[i].apart) {
          RKV_ASSIGN_OR_RETURN(place.copy, engine_.CopyConversation(*place.conversation));
          place.conversation = place.copy.get();
        }
        if (turn.measured) turns_[i].emplace_back();
        places.push_back(std::move(place));
      }
      if (options_.generate) RKV_RETURN_IF_ERROR(Generate(places));
      RKV_RETURN_IF_ERROR(Force(places, measurements));
    }
    return OkStatus();
  }

  static Status Ask(const ScriptTurn& turn, Conversation& conversation) {
    return conversation.AddUserMessage(turn.text, turn.files);
  }

  // Generates the measured answers.
  Status Generate(const std::vector<Place>& places) {
    std::vector<std::unique_ptr<Conversation>> copies;
    std::vector<AnswerRequest> requests;
    std::vector<const Place*> asked;
    for (const Place& place : places) {
      if (!place.turn->measured) continue;
      RKV_ASSIGN_OR_RETURN(auto copy, engine_.CopyConversation(*place.conversation));
      RKV_RETURN_IF_ERROR(Ask(*place.turn, *copy));
      AnswerRequest request{.conversation = copy.get(), .options = {}, .result = {}};
      request.options.max_tokens = kMaxGenerated;
      request.options.sampling.temperature = 0;
      requests.push_back(std::move(request));
      copies.push_back(std::move(copy));
      asked.push_back(&place);
    }
    if (requests.empty()) return OkStatus();
    RKV_RETURN_IF_ERROR(engine_.AnswerAll(requests));
    for (size_t i = 0; i < requests.size(); ++i) {
      RKV_RETURN_IF_ERROR(CheckFinite(requests[i].result));
      MeasuredTurn& measured = turns_[asked[i]->script].back();
      measured.text = requests[i].result.text;
      measured.right = IsRightAnswer(measured.text, asked[i]->turn->answers);
    }
    return OkStatus();
  }

  // Continues all conversations with the forced text.
  Status Force(const std::vector<Place>& places, std::span<Measurement> measurements) {
    std::vector<AnswerRequest> requests;
    for (const Place& place : places) {
      RKV_RETURN_IF_ERROR(Ask(*place.turn, *place.conversation));
      AnswerRequest request{.conversation = place.conversation, .options = {}, .result = {}};
      request.options.forced_text = ForcedText(place);
      if (full_.empty()) KeepTokens(place, *request.options.forced_text);
      if (place.turn->measured) {
        request.options.on_logits = Record(place, *request.options.forced_text);
      }
      requests.push_back(std::move(request));
    }
    RKV_RETURN_IF_ERROR(engine_.AnswerAll(requests));
    for (size_t i = 0; i < requests.size(); ++i) {
      const Conversation& conversation = *requests[i].conversation;
      for (Measurement& measurement : measurements) measurement.AddStats(conversation.stats());
      RKV_RETURN_IF_ERROR(CheckFinite(requests[i].result));
      if (requests[i].result.stop != StopReason::kEndOfAnswer) {
        return ResourceExhausted("a conversation does not fit into the context; raise --ctx-size");
      }
      if (places[i].turn->measured) Look(places[i].script, conversation.Inspect());
    }
    return OkStatus();
  }

  // The tokens of `full`, for stock llama.cpp.
  void KeepTokens(const Place& place, const std::string& forced) {
    const std::vector<int32_t> waiting = place.conversation->waiting_tokens();
    if (place.turn->measured) {
      MeasuredTurn& turn = turns_[place.script].back();
      turn.question = waiting;
      turn.answer = *engine_.Tokenize(forced);
    } else {
      std::vector<int32_t>& context = contexts_[place.script];
      context.insert(context.end(), waiting.begin(), waiting.end());
    }
  }

  std::string ForcedText(const Place& place) const {
    const ScriptTurn& turn = *place.turn;
    if (options_.generate && turn.measured) {
      const std::vector<MeasuredTurn>& own = turns_[place.script];
      return (full_.empty() ? own : full_[place.script])[own.size() - 1].text;
    }
    return turn.answers.empty() ? "" : turn.answers.front();
  }

  std::function<void(std::span<const float>, int32_t)> Record(const Place& place,
                                                              const std::string& text) {
    const size_t n_places = engine_.Tokenize(text)->size() + (options_.measure_end ? 1 : 0);
    MeasuredTurn& measured = turns_[place.script].back();
    return [&measured, n_places, generated = options_.generate](std::span<const float> logits,
                                                                int32_t forced) {
      if (measured.logits.size() >= n_places) return;
      if (!generated && ArgMax(logits) != static_cast<size_t>(forced)) measured.right = false;
      measured.logits.emplace_back(logits.begin(), logits.end());
    };
  }

  void Look(size_t script, const Inspection& inspection) {
    MeasuredTurn& measured = turns_[script].back();
    if (full_.empty()) {
      measured.shares = SharesOf(inspection);
    } else {
      measured.missed = MissedShare(full_[script][turns_[script].size() - 1].shares, inspection);
    }
  }

  // The turns of one regime.
  void Compare(size_t script, size_t regime, Measurement& measurement) const {
    double n = 0;
    double n_right = 0;
    double n_places = 0;
    double kl = 0;
    double missed = 0;
    size_t t = 0;
    for (const ScriptTurn& turn : scripts_[script].turns) {
      if (!turn.measured) continue;
      const MeasuredTurn& full = full_[script][t];
      const MeasuredTurn& measured = turns_[script][t++];
      if (turn.regime != regime) continue;
      for (size_t i = 0; i < full.logits.size(); ++i) {
        kl += KlDivergence(full.logits[i], measured.logits[i]);
      }
      n_places += static_cast<double>(full.logits.size());
      missed += measured.missed;
      const double right = measured.right ? 1 : 0;
      n_right += right;
      const auto question = static_cast<size_t>(n);
      n += 1;
      measurement.by_question.resize(std::max(measurement.by_question.size(), question + 1));
      std::vector<Tally*> tallies = {
          &measurement.by_question[question],
          &measurement.by_seed[fmt::format("{}", scripts_[script].seed)]};
      for (const std::string& family : turn.families) {
        tallies.push_back(&measurement.by_family[family]);
      }
      for (Tally* tally : tallies) {
        tally->right += right;
        tally->n += 1;
      }
    }
    measurement.accuracy.Add(n_right, n);
    measurement.kl.Add(kl, n_places);
    measurement.missed.Add(missed, n);
  }

  Engine& engine_;
  std::span<const Script> scripts_;
  ConversationOptions options_;
  std::vector<std::vector<MeasuredTurn>> full_;   // [script][measured turn]
  std::vector<std::vector<MeasuredTurn>> turns_;  // of the configuration at hand
  std::vector<std::vector<int32_t>> contexts_;    // [script] tokens of what is not measured
};

}  // namespace

std::string NormalizeAnswer(std::string_view answer) {
  std::string words;
  for (const char c : answer) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isspace(byte) == 0) {
      words += static_cast<char>(std::tolower(byte));
    } else if (!words.empty() && words.back() != ' ') {
      words += ' ';
    }
  }
  constexpr std::string_view kAround = " .,;:!?\"'`()[]{}*";
  const size_t begin = words.find_first_not_of(kAround);
  if (begin == std::string::npos) return "";
  return words.substr(begin, words.find_last_not_of(kAround) + 1 - begin);
}

bool IsRightAnswer(std::string_view answer, const std::vector<std::string>& accepted) {
  const std::string normal = NormalizeAnswer(answer);
  return std::ranges::any_of(
      accepted, [&](const std::string& other) { return NormalizeAnswer(other) == normal; });
}

SuitePlan PlanConversations(Engine& engine, std::vector<ScriptSet> sets,
                            const ConversationOptions& options) {
  SuitePlan plan{
      .accuracy_name = "accuracy", .unit_name = "conversations", .regimes = {}, .parts = {}};
  const auto at_once = static_cast<size_t>(engine.options().max_conversations);
  for (ScriptSet& set : sets) {
    std::vector<size_t> regimes;
    for (const ScriptSet::Regime& regime : set.regimes) {
      regimes.push_back(plan.regimes.size());
      plan.regimes.push_back({.name = regime.name, .description = regime.description, .cells = {}});
    }
    const auto scripts = std::make_shared<const std::vector<Script>>(std::move(set.scripts));
    for (size_t begin = 0; begin < scripts->size(); begin += at_once) {
      const size_t n = std::min(at_once, scripts->size() - begin);
      plan.parts.push_back(
          {.name = fmt::format("{}, conversations {} to {}", set.regimes.front().name, begin + 1,
                               begin + n),
           .regimes = regimes,
           .make = [&engine, scripts, begin, n, options]() -> std::unique_ptr<SuitePart> {
             return std::make_unique<ConversationPart>(
                 engine, std::span(*scripts).subspan(begin, n), options);
           }});
    }
  }
  return plan;
}

}  // namespace rkv::app
