// Flags of the choice of tokens.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>
#include <cmath>
#include <limits>

#include "add_flag.h"
#include "flags.h"

namespace rkv::app {

namespace {

// "15043+1" or "15043-inf".
Status ParseLogitBias(const std::string& text, SamplingOptions& sampling) {
  const size_t sign = text.find_first_of("+-", 1);
  int32_t token = 0;
  float bias = 0;
  bool good = sign != std::string::npos &&
              ParseWhole(std::string_view(text).substr(0, sign), token) && token >= 0;
  if (good) {
    const char* const end = text.data() + text.size();
    const auto [at, error] = std::from_chars(text.data() + sign + 1, end, bias);
    good = error == std::errc() && at == end && !std::isnan(bias) && bias >= 0;
    if (text[sign] == '-') bias = -bias;
  }
  if (!good || bias == std::numeric_limits<float>::infinity()) {
    return InvalidArgument(fmt::format(
        "'{}' is not a token and what is added to its logit, such as 15043+1 or 15043-inf", text));
  }
  sampling.logit_bias.emplace_back(token, bias);
  return OkStatus();
}

// llama.cpp's samplers beside temperature, top-k, top-p and min-p.
void AddMoreSamplers(CLI::App& command, SamplingOptions& sampling) {
  constexpr double kMax = std::numeric_limits<float>::max();
  // The engine refuses infinities and NaN.
  const auto number = [&command](const char* names, auto& value, double min, double max,
                                 const char* help) {
    static const CLI::Validator kAny = NumberThat(CLI::Number, "a number", "");
    AddFlag(command, names, value, help)
        ->check(max < kMax    ? Between(min, max)
                : min == 0    ? kNonNegative
                : min > -kMax ? kPositive
                              : kAny);
  };
  number("--typical-p,--typical", sampling.typical_p, 0, 1, "locally typical mass (1: off)");
  number("--top-n-sigma,--top-nsigma", sampling.top_n_sigma, -kMax, kMax,
         "tokens within so many standard deviations of the best logit (-1: off)");
  number("--xtc-probability", sampling.xtc_probability, 0, 1,
         "how often the likeliest tokens are left out (0: never)");
  number("--xtc-threshold", sampling.xtc_threshold, 0, 1, "probability of those (0.1)");
  number("--dynatemp-range", sampling.dynatemp_range, 0, kMax,
         "temperature moves with entropy by so much (0)");
  number("--dynatemp-exp", sampling.dynatemp_exponent, 0, kMax, "exponent of that (1)");
  number("--repeat-last-n", sampling.repeat_last_n, 0, 1 << 20,
         "tokens that penalties look back (64); 0: none");
  number("--repeat-penalty", sampling.repeat_penalty, 1e-6, 1e6,
         "divides logits of tokens that are there already (1: off)");
  number("--presence-penalty", sampling.presence_penalty, -kMax, kMax,
         "is taken off logits of tokens that are there already (0)");
  number("--frequency-penalty", sampling.frequency_penalty, -kMax, kMax,
         "the same for each time that they are (0)");
  number("--dry-multiplier", sampling.dry_multiplier, 0, kMax,
         "DRY penalty of repeated sequences (0: off)");
  number("--dry-base", sampling.dry_base, 1, 1e6, "how it grows with each token (1.75)");
  number("--dry-allowed-length", sampling.dry_allowed_length, 0, 1 << 20,
         "longest sequence without penalty (2)");
  number("--dry-penalty-last-n", sampling.dry_penalty_last_n, 0, 1 << 20,
         "tokens that it looks back (64); 0: none");
  const auto breakers = [&sampling](const std::vector<std::string>& texts) {
    sampling.dry_sequence_breakers.clear();
    for (const std::string& text : texts) {
      if (text == "none") {
        sampling.dry_sequence_breakers.clear();
      } else {
        sampling.dry_sequence_breakers.push_back(Unescape(text));
      }
    }
  };
  Repeatable(
      command
          .add_option_function<std::vector<std::string>>(
              "--dry-sequence-breaker", breakers,
              "text that a sequence ends at (newline : \" *); several: repeat; none: no text")
          ->envname("RKV_DRY_SEQUENCE_BREAKER"))
      ->type_name("TEXT");
  number("--mirostat", sampling.mirostat, 0, 2,
         "1 or 2: Mirostat in place of all samplers but temperature (0)");
  number("--mirostat-ent", sampling.mirostat_tau, 0, kMax, "its target entropy (5)");
  number("--mirostat-lr", sampling.mirostat_eta, 0, kMax, "its learning rate (0.1)");
  number("--adaptive-target", sampling.adaptive_target, -1, 1,
         "probability that the sampler adaptive_p goes for (-1: off)");
  number("--adaptive-decay", sampling.adaptive_decay, 0, 0.99, "how slowly it adapts (0.9)");
  const auto set = [&sampling](const Result<std::vector<std::string>>& names) {
    if (names.ok()) sampling.samplers = *names;
    return names.status();
  };
  std::vector<std::string> order = SamplerNames();
  order.resize(9);
  AddParsed(
      command, "--samplers", [set](const auto& text) { return set(ParseSamplers(text)); },
      fmt::format("samplers in their order ({})", fmt::join(order, ";")))
      ->type_name("NAMES");
  AddParsed(
      command, "--sampling-seq,--sampler-seq",
      [set](const auto& text) { return set(ParseSamplerLetters(text)); },
      "the same by letters (edskypmxt)")
      ->type_name("LETTERS");
  AddParsedList(
      command, "-l,--logit-bias",
      [&sampling](const auto& text) { return ParseLogitBias(text, sampling); },
      "what is added to a token's logit, as 15043+1 or 15043-inf; several: repeat")
      ->type_name("BIAS");
}

}  // namespace

void AddSamplingFlags(CLI::App& command, CommonFlags& flags) {
  SamplingOptions& sampling = flags.sampling;
  const auto tokens = [](std::string& text) {
    if (text == "-2") text = "-1";  // until the context is full, which always ends an answer
    return text == "-1" || CLI::PositiveNumber(text).empty()
               ? std::string()
               : "must be a positive number of tokens, or -1 for no limit";
  };
  AddFlag(command, "-n,--predict,--n-predict", flags.n_predict,
          "longest answer in tokens; -1: no limit")
      ->transform(CLI::Validator(tokens, ""))
      ->type_name("N");
  const auto seed = [&sampling](const std::string& text) {
    int64_t number = 0;
    if (!ParseWhole(std::string_view(text), number) ||
        number < std::numeric_limits<int32_t>::min() ||
        number > std::numeric_limits<uint32_t>::max()) {
      return InvalidArgument(
          fmt::format("'{}' is not a seed from 0 to 4294967295, or -1 for a new one", text));
    }
    sampling.seed = static_cast<uint32_t>(number);
    return OkStatus();
  };
  AddParsed(command, "-s,--seed", seed, "random seed; -1 (default): a new one each time")
      ->type_name("N");
  command.add_flag("--ignore-eos", sampling.ignore_eos, "never end an answer before -n tokens")
      ->envname("RKV_IGNORE_EOS");
  AddFlag(command, "--temperature,--temp", sampling.temperature,
          "temperature (0.8); 0: always the likeliest token")
      ->check(Between(0, 100));
  AddFlag(command, "--top-k", sampling.top_k, "sample among the k likeliest tokens (40); 0: off");
  AddFlag(command, "--top-p", sampling.top_p, "sample among the tokens with this mass (0.95)")
      ->check(Between(0, 1));
  AddFlag(command, "--min-p", sampling.min_p,
          "drop tokens below this share of the likeliest (0.05)")
      ->check(Between(0, 1));
  AddMoreSamplers(command, sampling);
  const CLI::Validator grammar(
      [](std::string& text) { return std::string(text.empty() ? "the grammar is empty" : ""); },
      "");
  AddFlag(command, "--grammar", sampling.grammar, "grammar (GBNF) that answers keep to")
      ->check(grammar)
      ->type_name("GBNF");
  AddFlag(command, "--grammar-file", flags.grammar_file, "file with such a grammar")
      ->type_name("FILE");
}

}  // namespace rkv::app
