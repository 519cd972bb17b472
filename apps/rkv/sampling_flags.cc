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
        "'{}' is not a token and a bias on its logit, such as 15043+1 or 15043-inf", text));
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
  number("--typical-p,--typical", sampling.typical_p, 0, 1,
         "locally typical sampling: total probability (1: off)");
  number("--top-n-sigma,--top-nsigma", sampling.top_n_sigma, -kMax, kMax,
         "sample among the tokens within N standard deviations of the highest logit (-1: off)");
  number("--xtc-probability", sampling.xtc_probability, 0, 1,
         "XTC: probability of dropping the likeliest tokens (0: never)");
  number("--xtc-threshold", sampling.xtc_threshold, 0, 1,
         "XTC: minimum probability of a dropped token (0.1)");
  number("--dynatemp-range", sampling.dynatemp_range, 0, kMax,
         "dynamic temperature: range around --temp, by entropy (0: off)");
  number("--dynatemp-exp", sampling.dynatemp_exponent, 0, kMax,
         "dynamic temperature: exponent of the entropy (1)");
  number("--repeat-last-n", sampling.repeat_last_n, 0, 1 << 20,
         "last tokens that penalties apply to (64); 0: none");
  number("--repeat-penalty", sampling.repeat_penalty, 1e-6, 1e6,
         "repeat penalty: divides the logits of repeated tokens (1: off)");
  number("--presence-penalty", sampling.presence_penalty, -kMax, kMax,
         "presence penalty: subtracted from the logits of repeated tokens (0: off)");
  number("--frequency-penalty", sampling.frequency_penalty, -kMax, kMax,
         "frequency penalty: subtracted once for each repetition (0: off)");
  number("--dry-multiplier", sampling.dry_multiplier, 0, kMax,
         "DRY: multiplier of the penalty on repeated sequences (0: off)");
  number("--dry-base", sampling.dry_base, 1, 1e6,
         "DRY: base of the penalty, which grows with each token (1.75)");
  number("--dry-allowed-length", sampling.dry_allowed_length, 0, 1 << 20,
         "DRY: longest sequence without penalty (2)");
  number("--dry-penalty-last-n", sampling.dry_penalty_last_n, 0, 1 << 20,
         "DRY: last tokens to search for sequences (64); 0: none");
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
              "DRY: text that breaks sequences (newline : \" *); several: repeat; none: no text")
          ->envname("RKV_DRY_SEQUENCE_BREAKER"))
      ->type_name("TEXT");
  number("--mirostat", sampling.mirostat, 0, 2,
         "Mirostat: version 1 or 2, instead of all samplers but temperature (0: off)");
  number("--mirostat-ent", sampling.mirostat_tau, 0, kMax, "Mirostat: target entropy (5)");
  number("--mirostat-lr", sampling.mirostat_eta, 0, kMax, "Mirostat: learning rate (0.1)");
  number("--adaptive-target", sampling.adaptive_target, -1, 1,
         "adaptive_p: target probability (-1: off)");
  number("--adaptive-decay", sampling.adaptive_decay, 0, 0.99,
         "adaptive_p: decay; higher values adapt more slowly (0.9)");
  const auto set = [&sampling](const Result<std::vector<std::string>>& names) {
    if (names.ok()) sampling.samplers = *names;
    return names.status();
  };
  std::vector<std::string> order = SamplerNames();
  order.resize(9);
  AddParsed(
      command, "--samplers", [set](const auto& text) { return set(ParseSamplers(text)); },
      fmt::format("samplers in order, separated by semicolons ({})", fmt::join(order, ";")))
      ->type_name("NAMES");
  AddParsed(
      command, "--sampling-seq,--sampler-seq",
      [set](const auto& text) { return set(ParseSamplerLetters(text)); },
      "samplers in order, by their letters (edskypmxt)")
      ->type_name("LETTERS");
  AddParsedList(
      command, "-l,--logit-bias",
      [&sampling](const auto& text) { return ParseLogitBias(text, sampling); },
      "bias on the logit of a token, such as 15043+1 or 15043-inf; several: repeat")
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
          "maximum number of tokens in an answer; -1: no limit")
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
  command
      .add_flag("--ignore-eos", sampling.ignore_eos, "ignore end-of-answer tokens, up to -n tokens")
      ->envname("RKV_IGNORE_EOS");
  AddFlag(command, "--temperature,--temp", sampling.temperature,
          "temperature (0.8); 0: always the likeliest token")
      ->check(Between(0, 100));
  AddFlag(command, "--top-k", sampling.top_k, "sample among the k likeliest tokens (40); 0: off");
  AddFlag(command, "--top-p", sampling.top_p,
          "sample among the likeliest tokens with this total probability (0.95)")
      ->check(Between(0, 1));
  AddFlag(command, "--min-p", sampling.min_p,
          "drop tokens below this share of the highest probability (0.05)")
      ->check(Between(0, 1));
  AddMoreSamplers(command, sampling);
  const CLI::Validator grammar(
      [](std::string& text) { return std::string(text.empty() ? "the grammar is empty" : ""); },
      "");
  AddFlag(command, "--grammar", sampling.grammar, "GBNF grammar of the answers")
      ->check(grammar)
      ->type_name("GBNF");
  AddFlag(command, "--grammar-file", flags.grammar_file, "file with a GBNF grammar of the answers")
      ->type_name("FILE");
}

}  // namespace rkv::app
