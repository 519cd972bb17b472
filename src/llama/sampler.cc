// Builds llama.cpp's sampler chain from options, and checks options and grammars. A grammar is
// separate from the chain, so that only likely tokens are checked.
#include "llama/sampler.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <llama.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "base/strings.h"
#include "base/utf8.h"
#include "llama/abort_guard.h"
#include "llama/log.h"
#include "llama/model.h"

namespace rkv {

namespace {

// Divisor of logits; smaller values would give infinities.
constexpr float kMinTemperature = 1e-5f;
// llama.cpp allocates this many.
constexpr int kMaxHistory = 1 << 20;
constexpr int kMaxCandidates = 100;  // of Mirostat 1, as in llama.cpp's programs

constexpr size_t kMaxGrammarBytes = size_t{1} << 20;
constexpr size_t kMaxGrammarNesting = 100;
constexpr size_t kMaxGrammarRules = 20'000;

struct SamplerName {
  const char* name;
  char letter;
  const char* other_spelling;  // besides top-k and topk for top_k
};
// The first nine are llama.cpp's default, in its order.
constexpr SamplerName kSamplers[] = {
    {"penalties", 'e', ""}, {"dry", 'd', ""},       {"top_n_sigma", 's', ""},
    {"top_k", 'k', ""},     {"typ_p", 'y', "typ"},  {"top_p", 'p', "nucleus"},
    {"min_p", 'm', ""},     {"xtc", 'x', ""},       {"temperature", 't', "temp"},
    {"infill", 'i', ""},    {"adaptive_p", 'a', ""}};
constexpr size_t kDefaultSamplers = 9;

std::string WithoutDashes(std::string_view name) {
  std::string text = ToLower(TrimSpace(name));
  std::erase_if(text, [](char c) { return c == '_' || c == '-'; });
  return text == "typicalp" ? "typp" : text;
}

Status UnknownSampler(std::string_view name) {
  return InvalidArgument(fmt::format("unknown sampler '{}'; choose one of: {}", name,
                                     fmt::join(SamplerNames(), ", ")));
}

bool PenalisesRepeats(const SamplingOptions& options) {
  return options.repeat_last_n > 0 &&
         (options.repeat_penalty != 1 || options.presence_penalty != 0 ||
          options.frequency_penalty != 0);
}
bool PenalisesSequences(const SamplingOptions& options) {
  return options.dry_multiplier != 0 && options.dry_penalty_last_n > 0;
}

Status CheckRanges(const SamplingOptions& options) {
  constexpr double kAny = std::numeric_limits<float>::max();
  const struct {
    const char* name;
    double value;
    double min;
    double max;
  } ranges[] = {
      {"temperature", options.temperature, -kAny, kAny},
      {"top_p", options.top_p, 0, kAny},
      {"min_p", options.min_p, 0, kAny},
      {"typical_p", options.typical_p, 0, kAny},
      {"top_n_sigma", options.top_n_sigma, -kAny, kAny},
      {"xtc_probability", options.xtc_probability, 0, 1},
      {"xtc_threshold", options.xtc_threshold, 0, 1},
      {"dynatemp_range", options.dynatemp_range, 0, kAny},
      {"dynatemp_exponent", options.dynatemp_exponent, 0, kAny},
      {"repeat_last_n", double(options.repeat_last_n), 0, kMaxHistory},
      {"repeat_penalty", options.repeat_penalty, 1e-30, 1e30},
      {"presence_penalty", options.presence_penalty, -kAny, kAny},
      {"frequency_penalty", options.frequency_penalty, -kAny, kAny},
      {"dry_multiplier", options.dry_multiplier, 0, kAny},
      {"dry_base", options.dry_base, 1, kAny},
      {"dry_allowed_length", double(options.dry_allowed_length), 0, kMaxHistory},
      {"dry_penalty_last_n", double(options.dry_penalty_last_n), 0, kMaxHistory},
      {"mirostat", double(options.mirostat), 0, 2},
      {"mirostat_tau", options.mirostat_tau, 0, kAny},
      {"mirostat_eta", options.mirostat_eta, 0, kAny},
      {"adaptive_target", options.adaptive_target, -kAny, 1},
      {"adaptive_decay", options.adaptive_decay, 0, 0.99},
  };
  for (const auto& range : ranges) {
    if (range.value >= range.min && range.value <= range.max) continue;  // not for NaN
    const auto bound = [](double x) {
      return std::abs(x) == kAny ? "any" : fmt::format("{:g}", x);
    };
    return InvalidArgument(fmt::format("{} is {:g}; it must be from {} to {}", range.name,
                                       range.value, bound(range.min), bound(range.max)));
  }
  return OkStatus();
}

// The additions to logits before all samplers: the options' biases, tokens that the model's file
// suppresses, and the end tokens if the answer must not end.
Result<std::vector<llama_logit_bias>> Biases(const SamplingOptions& options,
                                             const llama_vocab* vocab) {
  const int32_t n_vocab = llama_vocab_n_tokens(vocab);
  std::vector<llama_logit_bias> biases;
  for (const auto& [token, bias] : options.logit_bias) {
    if (token < 0 || token >= n_vocab) {
      return InvalidArgument(fmt::format(
          "logit_bias names token {}, but the vocabulary has {} tokens", token, n_vocab));
    }
    if (std::isnan(bias) || bias == std::numeric_limits<float>::infinity()) {
      return InvalidArgument(fmt::format(
          "logit_bias of token {} is {}; it must be a finite number, or -infinity", token, bias));
    }
    biases.push_back({.token = token, .bias = bias});
  }
  int32_t n_suppressed = 0;
  const llama_token* suppressed = llama_vocab_get_suppress_tokens(vocab, &n_suppressed);
  for (int32_t i = 0; i < n_suppressed; ++i) {
    biases.push_back({.token = suppressed[i], .bias = -INFINITY});
  }
  if (!options.ignore_eos) return biases;
  for (llama_token token = 0; token < n_vocab; ++token) {
    if (llama_vocab_is_eog(vocab, token)) biases.push_back({.token = token, .bias = -INFINITY});
  }
  return biases;
}

// Adds the samplers of the options to a chain, without those that have no effect.
class ChainBuilder {
 public:
  ChainBuilder(const SamplingOptions& options, const llama_vocab* vocab, llama_sampler* chain)
      : options_(options), vocab_(vocab), chain_(chain) {}

  Status Build() {
    const SamplingOptions& o = options_;
    RKV_ASSIGN_OR_RETURN(const auto biases, Biases(o, vocab_));
    if (!biases.empty()) {
      Add(llama_sampler_init_logit_bias(n_vocab(), static_cast<int32_t>(biases.size()),
                                        biases.data()));
    }
    std::vector<std::string> names = o.samplers;
    if (names.empty()) {
      names = SamplerNames();
      names.resize(kDefaultSamplers);
    }
    for (const std::string& name : names) {
      if (std::ranges::find(kSamplers, name, &SamplerName::name) == std::end(kSamplers)) {
        return UnknownSampler(name);
      }
    }
    const bool has_temperature = std::ranges::count(names, "temperature") > 0 || o.mirostat != 0;
    const bool greedy = has_temperature && o.temperature < kMinTemperature && o.dynatemp_range == 0;
    if (o.mirostat != 0 && !greedy) {
      AddMirostat();
      return OkStatus();
    }
    // Under a greedy choice, only these change the likeliest token; XTC also depends on earlier
    // samplers.
    const bool all = !greedy || o.xtc_probability > 0;
    bool adaptive = false;
    for (const std::string& name : o.mirostat != 0 ? std::vector<std::string>() : names) {
      adaptive |= name == "adaptive_p";
      if (all || name == "penalties" || name == "dry") AddNamed(name, greedy);
    }
    Add(greedy     ? llama_sampler_init_greedy()
        : adaptive ? llama_sampler_init_adaptive_p(o.adaptive_target, o.adaptive_decay, o.seed)
                   : llama_sampler_init_dist(o.seed));
    return OkStatus();
  }

 private:
  int32_t n_vocab() const { return llama_vocab_n_tokens(vocab_); }
  void Add(llama_sampler* sampler) { llama_sampler_chain_add(chain_, sampler); }

  void AddMirostat() {
    const SamplingOptions& o = options_;
    Add(llama_sampler_init_temp(o.temperature));
    Add(o.mirostat == 1 ? llama_sampler_init_mirostat(n_vocab(), o.seed, o.mirostat_tau,
                                                      o.mirostat_eta, kMaxCandidates)
                        : llama_sampler_init_mirostat_v2(o.seed, o.mirostat_tau, o.mirostat_eta));
  }

  void AddNamed(const std::string& name, bool greedy) {
    const SamplingOptions& o = options_;
    if (name == "temperature" && !greedy) {
      Add(llama_sampler_init_temp_ext(o.temperature, o.dynatemp_range, o.dynatemp_exponent));
    } else if (name == "infill") {
      Add(llama_sampler_init_infill(vocab_));
    } else if (name == "penalties" || name == "dry") {
      AddPenalty(name);
    } else {
      AddFilter(name);
    }
  }

  void AddPenalty(const std::string& name) {
    const SamplingOptions& o = options_;
    if (name == "penalties" && PenalisesRepeats(o)) {
      Add(llama_sampler_init_penalties(n_vocab(), o.repeat_last_n, o.repeat_penalty,
                                       o.frequency_penalty, o.presence_penalty));
    } else if (name == "dry" && PenalisesSequences(o)) {
      std::vector<const char*> breakers;
      for (const std::string& text : o.dry_sequence_breakers) breakers.push_back(text.c_str());
      Add(llama_sampler_init_dry(vocab_, o.dry_multiplier, o.dry_base, o.dry_allowed_length,
                                 o.dry_penalty_last_n, breakers.data(), breakers.size()));
    }
  }

  // Adds a sampler that removes candidates.
  void AddFilter(const std::string& name) {
    const SamplingOptions& o = options_;
    if (name == "top_n_sigma" && o.top_n_sigma > 0) {
      Add(llama_sampler_init_top_n_sigma(o.top_n_sigma));
    } else if (name == "top_k" && o.top_k > 0) {
      Add(llama_sampler_init_top_k(o.top_k));
    } else if (name == "typ_p" && o.typical_p < 1) {
      Add(llama_sampler_init_typical(o.typical_p, 0));
    } else if (name == "top_p" && o.top_p < 1) {
      Add(llama_sampler_init_top_p(o.top_p, 0));
    } else if (name == "min_p" && o.min_p > 0) {
      Add(llama_sampler_init_min_p(o.min_p, 0));
    } else if (name == "xtc" && o.xtc_probability > 0) {
      Add(llama_sampler_init_xtc(o.xtc_probability, o.xtc_threshold, 0, o.seed));
    }
  }

  const SamplingOptions& options_;
  const llama_vocab* vocab_;
  llama_sampler* chain_;
};

Result<LlamaPtr<llama_sampler>> MakeGrammar(const std::string& grammar, const llama_vocab* vocab) {
  RKV_RETURN_IF_ERROR(CheckGrammarSize(grammar));
  const LlamaErrorLog log;
  const LlamaAbortGuard guard;
  LlamaPtr<llama_sampler> sampler;
  try {
    sampler.reset(llama_sampler_init_grammar(vocab, grammar.c_str(), "root"));
  } catch (const std::exception&) {
    sampler.reset();
  }
  if (sampler != nullptr) return sampler;
  // llama.cpp's message also repeats the rest of the grammar.
  constexpr size_t kMaxReason = 160;
  const std::string whole = log.Reason();
  std::string_view reason = std::string_view(whole).substr(0, whole.find('\n'));
  if (reason.size() > kMaxReason) {
    reason = reason.substr(0, CompleteUtf8Prefix(reason.substr(0, kMaxReason)));
  }
  return InvalidArgument(fmt::format(
      "the grammar is not valid GBNF{}; it is made of rules such as root ::= \"yes\" | \"no\", "
      "and none may begin with itself",
      reason));
}

// The last character of the text or character class that begins at `i`.
size_t EndOfQuoted(std::string_view grammar, size_t i) {
  const char end = grammar[i] == '"' ? '"' : ']';
  for (++i; i < grammar.size() && grammar[i] != end; ++i) {
    if (grammar[i] == '\\') ++i;
  }
  return i;
}

// The number of rules in the expansion of a repetition such as {2,30} at `i`. Moves `i` to its end.
size_t Repetitions(std::string_view grammar, size_t& i) {
  size_t max_count = 1;
  while (++i < grammar.size() && grammar[i] != '}') {
    size_t number = 0;
    const char* begin = grammar.data() + i;
    const auto [end, error] = std::from_chars(begin, grammar.data() + grammar.size(), number);
    if (error == std::errc::result_out_of_range) return kMaxGrammarRules + 1;
    if (error != std::errc()) continue;
    max_count = std::max(max_count, number);
    i += static_cast<size_t>(end - begin) - 1;
  }
  return max_count;
}

}  // namespace

std::vector<std::string> SamplerNames() {
  std::vector<std::string> names;
  for (const SamplerName& sampler : kSamplers) names.emplace_back(sampler.name);
  return names;
}

Result<std::vector<std::string>> ParseSamplers(std::string_view text) {
  std::vector<std::string> names;
  while (true) {
    const size_t end = text.find(';');
    const std::string name = WithoutDashes(text.substr(0, end));
    const auto found = std::ranges::find_if(kSamplers, [&](const SamplerName& sampler) {
      return WithoutDashes(sampler.name) == name ||
             (*sampler.other_spelling != '\0' && name == sampler.other_spelling);
    });
    if (found == std::end(kSamplers)) return UnknownSampler(text.substr(0, end));
    names.emplace_back(found->name);
    if (end == std::string_view::npos) return names;
    text.remove_prefix(end + 1);
  }
}

Result<std::vector<std::string>> ParseSamplerLetters(std::string_view text) {
  std::vector<std::string> names;
  for (const char letter : text) {
    const auto found = std::ranges::find(kSamplers, letter, &SamplerName::letter);
    if (found == std::end(kSamplers)) {
      std::string known;
      for (const SamplerName& s : kSamplers) known += fmt::format(" {} ({})", s.letter, s.name);
      return InvalidArgument(fmt::format(
          "unknown letter '{}' in the sampler sequence; choose from:{}", letter, known));
    }
    names.emplace_back(found->name);
  }
  if (names.empty()) return InvalidArgument("the sampler sequence is empty");
  return names;
}

Status CheckGrammarSize(std::string_view grammar) {
  if (grammar.size() > kMaxGrammarBytes) {
    return InvalidArgument(fmt::format("the grammar has {} bytes; at most {} are accepted",
                                       grammar.size(), kMaxGrammarBytes));
  }
  if (grammar.find('\0') != std::string_view::npos) {
    return InvalidArgument("the grammar contains a NUL character");
  }
  size_t depth = 0;
  size_t n_rules = 0;
  for (size_t i = 0; i < grammar.size(); ++i) {
    const char c = grammar[i];
    if (c == '#') {
      while (i < grammar.size() && grammar[i] != '\n') ++i;
    } else if (c == '"' || c == '[') {
      i = EndOfQuoted(grammar, i);
    } else if (c == '{') {
      n_rules += Repetitions(grammar, i);
    } else if (c == '(' || c == ':' || c == '*' || c == '+' || c == '?') {
      ++n_rules;
      if (c == '(' && ++depth > kMaxGrammarNesting) {
        return InvalidArgument(
            fmt::format("the grammar's brackets are nested more than {} deep; give parts of it "
                        "rules of their own",
                        kMaxGrammarNesting));
      }
    } else if (c == ')' && depth > 0) {
      --depth;
    }
    if (n_rules > kMaxGrammarRules) {
      return InvalidArgument(fmt::format(
          "the grammar has more than {} rules, groups and repetitions", kMaxGrammarRules));
    }
  }
  return OkStatus();
}

Sampler::Sampler(const llama_vocab* vocab) : vocab_(vocab) {}
Sampler::~Sampler() = default;

Result<std::unique_ptr<Sampler>> Sampler::Create(const SamplingOptions& options,
                                                 const Model& model) {
  RKV_RETURN_IF_ERROR(CheckRanges(options));
  const llama_vocab* vocab = model.vocab();
  std::unique_ptr<Sampler> sampler(new Sampler(vocab));
  sampler->chain_.reset(llama_sampler_chain_init(llama_sampler_chain_default_params()));
  RKV_RETURN_IF_ERROR(ChainBuilder(options, vocab, sampler->chain_.get()).Build());
  if (!options.grammar.empty()) {
    RKV_ASSIGN_OR_RETURN(sampler->grammar_, MakeGrammar(options.grammar, vocab));
  }
  if (options.mirostat == 0) {
    if (PenalisesRepeats(options)) sampler->n_history_ = static_cast<size_t>(options.repeat_last_n);
    if (PenalisesSequences(options)) {
      sampler->n_history_ =
          std::max(sampler->n_history_, static_cast<size_t>(options.dry_penalty_last_n));
    }
  }
  return sampler;
}

void Sampler::AcceptHistory(std::span<const Token> tokens) {
  for (const Token token : tokens.last(std::min(tokens.size(), n_history_))) {
    llama_sampler_accept(chain_.get(), token);
  }
}

Token Sampler::SampleWithin(const float* logits, bool grammar_first) {
  const auto n_vocab = static_cast<size_t>(llama_vocab_n_tokens(vocab_));
  candidates_.resize(n_vocab);
  for (size_t i = 0; i < n_vocab; ++i) {
    candidates_[i] = {.id = static_cast<llama_token>(i), .logit = logits[i], .p = 0};
  }
  llama_token_data_array array{
      .data = candidates_.data(), .size = n_vocab, .selected = -1, .sorted = false};
  if (grammar_first) llama_sampler_apply(grammar_.get(), &array);
  llama_sampler_apply(chain_.get(), &array);
  if (array.selected < 0 || static_cast<size_t>(array.selected) >= array.size) {
    return kNoToken;
  }
  return array.data[array.selected].id;
}

bool Sampler::IsAllowed(Token token) {
  llama_token_data one{.id = token, .logit = 1.0f, .p = 0};
  llama_token_data_array array{.data = &one, .size = 1, .selected = -1, .sorted = false};
  llama_sampler_apply(grammar_.get(), &array);
  return one.logit != -std::numeric_limits<float>::infinity();
}

Token Sampler::Sample(const Model& model, size_t row) {
  if (grammar_ == nullptr) {  // Accepts the token too.
    return llama_sampler_sample(chain_.get(), model.context(), static_cast<int32_t>(row));
  }
  // As in llama.cpp's programs: usually the likeliest token fits the grammar. Checking one token is
  // faster than filtering the whole vocabulary.
  const float* logits = model.Logits(row).data();
  Token token = SampleWithin(logits, false);
  if (token == kNoToken || !IsAllowed(token)) token = SampleWithin(logits, true);
  if (token == kNoToken || !IsAllowed(token)) return kNoToken;
  llama_sampler_accept(grammar_.get(), token);
  llama_sampler_accept(chain_.get(), token);
  return token;
}

}  // namespace rkv
