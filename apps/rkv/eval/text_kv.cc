// Suite `text-kv`. Pairs stand at the ends of sentences, spread evenly over the prose.
#include "eval/text_kv.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <span>

#include "eval/random.h"

namespace rkv::app {

namespace {

constexpr size_t kQuestionTokens = 32;  // maximum, including the answer
// The ten pairs share only their form: models of a hundred million parameters confuse keys with a
// common word.
constexpr const char* kThings[] = {"amber anchor", "blue barrel",  "green candle",  "grey engine",
                                   "white ladder", "red lantern",  "silver needle", "black piano",
                                   "brown saddle", "golden violin"};
constexpr const char* kEvents[] = {
    "was bought in",      "was made in",     "came by ship from",       "was stolen in",
    "was mended in",      "was found near",  "was sold to a lady from", "was sent as a gift to",
    "was left behind in", "had once been to"};
constexpr const char* kCities[] = {"Lisbon", "Vienna", "Dublin",  "Madrid",  "Berlin",
                                   "Athens", "Cairo",  "Warsaw",  "Geneva",  "Venice",
                                   "Moscow", "Boston", "Chicago", "Toronto", "Sydney",
                                   "Delhi",  "Tokyo",  "Lima",    "Prague",  "Oslo"};
constexpr size_t kMany = std::size(kThings);

struct Pair {
  std::string key;
  std::string value;

  std::string sentence() const { return fmt::format(" {} {}.", key, value); }
};

template <size_t n>
std::vector<const char*> Shuffled(EvalRandom& random, const char* const (&words)[n]) {
  std::vector<const char*> shuffled(words, words + n);
  random.Shuffle(std::span(shuffled));
  return shuffled;
}

// The first ten pairs use each thing and each event once; the next ten use other combinations.
std::vector<Pair> MakePairs(EvalRandom& random, size_t n) {
  const auto things = Shuffled(random, kThings);
  const auto events = Shuffled(random, kEvents);
  const auto cities = Shuffled(random, kCities);
  std::vector<Pair> pairs;
  for (size_t i = 0; i < n; ++i) {
    const char* event = events[(i + i / kMany) % kMany];
    pairs.push_back({.key = fmt::format("The {} {}", things[i % kMany], event),
                     .value = cities[i % cities.size()]});
  }
  return pairs;
}

// The ends of sentences, between '.' and ' '.
std::vector<size_t> SentenceEnds(const std::string& text) {
  std::vector<size_t> ends;
  for (size_t at = text.find(". "); at != std::string::npos; at = text.find(". ", at + 1)) {
    ends.push_back(at + 1);
  }
  return ends;
}

// Divides the text into equal parts, and puts one pair at the end of a sentence in each part.
std::string WithPairs(const std::string& text, const std::vector<Pair>& pairs, EvalRandom& random) {
  const std::vector<size_t> ends = SentenceEnds(text);
  std::string result;
  size_t from = 0;
  for (size_t i = 0; i < pairs.size(); ++i) {
    const size_t part = text.size() / pairs.size();
    const size_t wanted = std::max(from, part * i + random.Below(std::max<size_t>(1, part)));
    const auto end = std::ranges::lower_bound(ends, wanted);
    const size_t at = end == ends.end() ? text.size() : *end;
    result += text.substr(from, at - from) + pairs[i].sentence();
    from = at;
  }
  return result + text.substr(from);
}

}  // namespace

Result<std::vector<ScriptRegime>> TextKvScripts(const Engine& engine,
                                                const TextKvOptions& options) {
  const auto n_pairs = static_cast<size_t>(options.n_pairs);
  const auto n_context = static_cast<size_t>(options.n_context);
  const size_t pair_tokens =
      engine.Tokenize(Pair{"The silver needle was sold to a lady from", "Chicago"}.sentence())
          ->size();
  if (n_context < 2 * n_pairs * pair_tokens) {
    return InvalidArgument(
        fmt::format("a context of {} tokens is too short for {} pairs of about {} tokens: pass a "
                    "longer --context",
                    n_context, n_pairs, pair_tokens));
  }
  const size_t n_prose = n_context - n_pairs * pair_tokens;
  RKV_ASSIGN_OR_RETURN(const std::vector<int32_t> text, engine.Tokenize(options.text));
  if (text.size() < n_prose) {
    return InvalidArgument(fmt::format(
        "the text has {} tokens, but {} are needed: pass a longer --text or a shorter --context",
        text.size(), n_prose));
  }
  if (n_context + kQuestionTokens > static_cast<size_t>(engine.n_ctx())) {
    return InvalidArgument(
        fmt::format("a context of {} tokens and a question do not fit into the model's {}: pass a "
                    "shorter --context",
                    n_context, engine.n_ctx()));
  }
  ScriptRegime regime{
      .name = "unknown",
      .description =
          fmt::format("{} tokens of prose with {} key-value pairs; then one question for each pair",
                      n_context, n_pairs),
      .scripts = {}};
  for (const uint64_t seed : options.seeds) {
    for (int i = 0; i < options.n_conversations; ++i) {
      EvalRandom random(seed * 1000003 + static_cast<uint64_t>(i));
      const std::vector<Pair> pairs = MakePairs(random, n_pairs);
      const size_t begin = random.Below(text.size() - n_prose + 1);
      const std::string prose = *engine.Detokenize(std::span(text).subspan(begin, n_prose));
      Script script{.turns = {}, .apart = true, .seed = seed};
      script.turns.push_back({.text = WithPairs(prose, pairs, random)});
      for (size_t p = 0; p < pairs.size(); ++p) {
        script.turns.push_back({.text = "\n\n" + pairs[p].key,
                                .answers = {" " + pairs[p].value},
                                .family = fmt::format("quarter {}", 1 + 4 * p / pairs.size()),
                                .measured = true});
      }
      regime.scripts.push_back(std::move(script));
    }
  }
  return std::vector<ScriptRegime>{std::move(regime)};
}

}  // namespace rkv::app
