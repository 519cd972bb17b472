// Suite `text-kv`. Pairs stand at the ends of sentences, spread evenly over the prose.
#include "eval/text_kv.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <span>
#include <string>
#include <utility>

#include "eval/random.h"

namespace rkv::app {

namespace {

constexpr size_t kQuestionTokens = 32;  // maximum, including the answer
// The ten pairs share only their form: models of a hundred million parameters confuse keys with a
// common word.
constexpr const char* kThings[] = {"amber anchor", "blue barrel",  "green candle",  "grey engine",
                                   "white ladder", "red lantern",  "silver needle", "black piano",
                                   "brown saddle", "golden violin"};
// An event, as a sentence about the key has it, and as a question in other words.
struct Event {
  const char* sentence;
  const char* before;  // the key
  const char* after;
};
constexpr Event kEvents[] = {
    {"was bought in", "Somebody bought the", "in"},
    {"was made in", "They made the", "in"},
    {"came by ship from", "A ship brought the", "from"},
    {"was stolen in", "A thief stole the", "in"},
    {"was mended in", "Somebody mended the", "in"},
    {"was found near", "They found the", "near"},
    {"was sold to a lady from", "The lady who bought the", "was from"},
    {"was sent as a gift to", "As a gift, they sent the", "to"},
    {"was left behind in", "Somebody left the", "behind in"},
    {"had once been to", "Once upon a time, the", "had been to"},
};
constexpr const char* kCities[] = {"Lisbon", "Vienna", "Dublin",  "Madrid",  "Berlin",
                                   "Athens", "Cairo",  "Warsaw",  "Geneva",  "Venice",
                                   "Moscow", "Boston", "Chicago", "Toronto", "Sydney",
                                   "Delhi",  "Tokyo",  "Lima",    "Prague",  "Oslo"};
constexpr size_t kMany = std::size(kThings);

struct Pair {
  std::string thing;
  Event event;
  std::string value;

  std::string key() const { return fmt::format("The {} {}", thing, event.sentence); }
  std::string paraphrase() const {
    return fmt::format("{} {} {}", event.before, thing, event.after);
  }
  std::string sentence() const { return fmt::format(" {} {}.", key(), value); }
};

template <typename T, size_t n>
std::vector<T> Shuffled(EvalRandom& random, const T (&words)[n]) {
  std::vector<T> shuffled(words, words + n);
  random.Shuffle(std::span(shuffled));
  return shuffled;
}

// The first ten pairs use each thing and each event once; the next ten use other combinations.
class Pairs {
 public:
  explicit Pairs(EvalRandom& random)
      : things_(Shuffled(random, kThings)),
        events_(Shuffled(random, kEvents)),
        cities_(Shuffled(random, kCities)) {}

  Pair operator[](size_t i) const { return Make(i, i + i / kMany, i); }
  // About the same thing, with another event and another city.
  Pair Distractor(size_t i) const {
    return Make(i, i + i / kMany + kMany / 2, i + cities_.size() / 2 + 1);
  }

 private:
  Pair Make(size_t thing, size_t event, size_t city) const {
    return {.thing = things_[thing % kMany],
            .event = events_[event % kMany],
            .value = cities_[city % cities_.size()]};
  }

  std::vector<const char*> things_;
  std::vector<Event> events_;
  std::vector<const char*> cities_;
};

// The places where a sentence may follow: behind sentences, between '.' and ' ', or where a text
// has few of them, such as code and tables, at the ends of lines.
std::vector<size_t> SentenceEnds(const std::string& text, size_t n_wanted) {
  const auto ends_at = [&text](std::string_view mark, size_t skip) {
    std::vector<size_t> ends;
    for (size_t at = text.find(mark); at != std::string::npos; at = text.find(mark, at + 1)) {
      ends.push_back(at + skip);
    }
    return ends;
  };
  constexpr size_t kChoice = 2;  // sentences for each that is put behind one
  std::vector<size_t> ends = ends_at(". ", 1);
  if (ends.size() < kChoice * n_wanted) ends = ends_at("\n", 0);
  return ends;
}

// Divides the text into as many parts as there are pairs, and puts each into its part, at the end
// of a sentence. Distractors, one for each pair or none, are half of the text away from their
// pairs.
std::string WithPairs(const std::string& text, const std::vector<Pair>& pairs,
                      const std::vector<Pair>& distractors, EvalRandom& random) {
  const size_t part = std::max<size_t>(1, text.size() / pairs.size());
  std::multimap<size_t, std::string> sentences;  // by their wanted place
  const auto put = [&](size_t i, const Pair& pair) {
    sentences.emplace(part * (i % pairs.size()) + random.Below(part), pair.sentence());
  };
  for (size_t i = 0; i < pairs.size(); ++i) put(i, pairs[i]);
  for (size_t i = 0; i < distractors.size(); ++i) put(i + pairs.size() / 2, distractors[i]);
  const std::vector<size_t> ends = SentenceEnds(text, sentences.size());
  std::string result;
  size_t from = 0;
  for (const auto& [wanted, sentence] : sentences) {
    const auto end = std::ranges::lower_bound(ends, std::max(from, wanted));
    const size_t at = end == ends.end() ? text.size() : *end;
    result += text.substr(from, at - from) + sentence;
    from = at;
  }
  return result + text.substr(from);
}

ScriptTurn Question(const std::string& text, size_t i, const std::vector<Pair>& pairs,
                    const std::string& name, size_t regime) {
  return {.text = "\n\n" + text,
          .answers = {" " + pairs[i].value},
          .families = {fmt::format("quarter {}", 1 + 4 * i / pairs.size()), "text " + name},
          .measured = true,
          .regime = regime};
}

// The conversations of a set.
struct Kind {
  int n_conversations = 0;  // for each text and seed
  size_t n_pairs = 0;
  bool distracted = false;   // a distractor for each pair
  bool paraphrased = false;  // the questions come again, in other words

  size_t n_sentences() const { return n_pairs * (distracted ? 2 : 1); }
};

constexpr size_t kLiteral = 0;
constexpr size_t kParaphrased = 1;

Script MakeScript(const Kind& kind, uint64_t seed, const std::string& name,
                  const std::string& prose, EvalRandom& random) {
  const Pairs all(random);
  std::vector<Pair> pairs;
  std::vector<Pair> distractors;
  for (size_t i = 0; i < kind.n_pairs; ++i) {
    pairs.push_back(all[i]);
    if (kind.distracted) distractors.push_back(all.Distractor(i));
  }
  Script script{.turns = {}, .apart = true, .seed = seed};
  script.turns.push_back({.text = WithPairs(prose, pairs, distractors, random)});
  for (size_t i = 0; i < pairs.size(); ++i) {
    script.turns.push_back(Question(pairs[i].key(), i, pairs, name, kLiteral));
  }
  for (size_t i = 0; kind.paraphrased && i < pairs.size(); ++i) {
    script.turns.push_back(Question(pairs[i].paraphrase(), i, pairs, name, kParaphrased));
  }
  return script;
}

Result<std::vector<Script>> MakeScripts(const Engine& engine, const TextKvOptions& options,
                                        const Kind& kind, size_t n_prose) {
  std::vector<Script> scripts;
  for (const EvalText& text : options.texts) {
    RKV_ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, engine.Tokenize(text.text));
    if (tokens.size() < n_prose) {
      return InvalidArgument(fmt::format(
          "the text '{}' has {} tokens, but {} are needed: pass a longer --text or a shorter "
          "--context",
          text.name, tokens.size(), n_prose));
    }
    for (const uint64_t seed : options.seeds) {
      for (int i = 0; i < kind.n_conversations; ++i) {
        EvalRandom random(seed * 1000003 + static_cast<uint64_t>(i));
        const size_t begin = random.Below(tokens.size() - n_prose + 1);
        const std::string prose = *engine.Detokenize(std::span(tokens).subspan(begin, n_prose));
        scripts.push_back(MakeScript(kind, seed, text.name, prose, random));
      }
    }
  }
  return scripts;
}

}  // namespace

Result<std::vector<ScriptSet>> TextKvScripts(const Engine& engine, const TextKvOptions& options) {
  const auto n_pairs = static_cast<size_t>(options.n_pairs);
  const auto n_context = static_cast<size_t>(options.n_context);
  const Pair long_pair{
      .thing = "silver needle", .event = {"was sold to a lady from", "", ""}, .value = "Chicago"};
  const size_t pair_tokens = engine.Tokenize(long_pair.sentence())->size();
  if (n_context < 2 * n_pairs * pair_tokens) {
    return InvalidArgument(
        fmt::format("a context of {} tokens is too short for {} pairs of about {} tokens: pass a "
                    "longer --context",
                    n_context, n_pairs, pair_tokens));
  }
  if (n_context + kQuestionTokens > static_cast<size_t>(engine.n_ctx())) {
    return InvalidArgument(
        fmt::format("a context of {} tokens and a question do not fit into the model's {}: pass a "
                    "shorter --context",
                    n_context, engine.n_ctx()));
  }
  std::vector<ScriptSet> sets(1);
  sets[0].regimes.push_back(
      {.name = "literal",
       .description = fmt::format("{} tokens of a text with {} key-value pairs; then one question "
                                  "for each, the beginning of its sentence",
                                  n_context, n_pairs)});
  if (options.variants) {
    sets[0].regimes.push_back(
        {.name = "paraphrased", .description = "the same texts; each question has other words"});
  }
  const auto scripts_of = [&](const Kind& kind) {
    return MakeScripts(engine, options, kind, n_context - kind.n_sentences() * pair_tokens);
  };
  RKV_ASSIGN_OR_RETURN(sets[0].scripts, scripts_of({.n_conversations = options.n_conversations,
                                                    .n_pairs = n_pairs,
                                                    .paraphrased = options.variants}));
  // Below ten pairs of a thing each, no distractor is another pair.
  const size_t n_distracted = std::min(kMany, n_pairs) / 2;
  if (!options.variants || n_distracted == 0) return sets;
  ScriptSet& distracted = sets.emplace_back();
  distracted.regimes.push_back(
      {.name = "distractors",
       .description = fmt::format(
           "{} pairs, and elsewhere a sentence about the same thing for each; then the questions",
           n_distracted)});
  RKV_ASSIGN_OR_RETURN(distracted.scripts,
                       scripts_of({.n_conversations = (options.n_conversations + 1) / 2,
                                   .n_pairs = n_distracted,
                                   .distracted = true}));
  return sets;
}

}  // namespace rkv::app
