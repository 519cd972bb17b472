// The options of the cache: a policy, a budget, and how tokens are kept. ForEachOption() is the
// only list of them: all code that saves, prints or parses them goes through it.
#ifndef RETENTIVEKV_OPTIONS_H_
#define RETENTIVEKV_OPTIONS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "retentivekv/status.h"

namespace rkv {

// Limit on the bytes held for a conversation, all included: exact tokens, indices, slack. Percent
// is the share that is KEPT, relative to a full f16 cache of the tokens seen so far.
struct Budget {
  enum class Unit { kPercent, kTokens, kBytes };
  Unit unit = Unit::kPercent;
  double amount = 100.0;

  bool operator==(const Budget&) const = default;
  bool unlimited() const { return unit == Unit::kPercent && amount >= 100.0; }
};

// "20%" (kept), "512t" (the bytes of 512 tokens in a full cache), "64MiB" (also KiB, GiB, B, and
// MB, KB, GB of 1000s). Spaces before the unit, and the case of its letters, do not matter. A bare
// number is refused: half of the field reads 0.2 as kept and half as removed.
Result<Budget> ParseBudget(std::string_view text);
std::string ToString(const Budget& budget);

// A part of the cache by name, with the options that differ from its defaults.
struct NamedSpec {
  std::string name;
  std::vector<std::pair<std::string, double>> options;

  bool operator==(const NamedSpec&) const = default;
};

// The policy that scores tokens: "h2o" or "streaming:sinks=8". Names and options are checked when
// the policy is made.
using PolicySpec = NamedSpec;
Result<PolicySpec> ParsePolicySpec(std::string_view text);

// The absorber, which takes forgotten tokens: "none", "merge", "clusters" or "states".
using AbsorbSpec = NamedSpec;
Result<AbsorbSpec> ParseAbsorbSpec(std::string_view text);

std::string ToString(const NamedSpec& spec);

enum class Modality : uint8_t { kText, kImage, kAudio };

// How the elements of K and V are stored: the first four as in llama.cpp, the others are ours
// (docs/formats.md). q42, q41 and q31 have more bits for the first half of a row than for the
// second.
enum class ElementType : uint8_t {
  kF16,
  kBF16,
  kQ8_0,
  kQ4_0,
  kQ4,
  kQ42,
  kQ41,
  kQ3,
  kQ31,
  kQ2,
  kQ1
};
inline constexpr size_t kElementTypes = 11;
Result<ElementType> ParseElementType(std::string_view text);
std::string_view ToString(ElementType type);

// One precision of a token.
struct Rung {
  ElementType k = ElementType::kF16;
  ElementType v = ElementType::kF16;

  bool operator==(const Rung&) const = default;
};
// "q4_0/q2" (K and V), or "q4_0" for both.
Result<Rung> ParseRung(std::string_view text);
std::string ToString(const Rung& rung);

// The precisions that tokens may have, from the highest down.
struct Ladder {
  std::vector<Rung> rungs;  // empty: by the model's heads

  bool operator==(const Ladder&) const = default;
};
// "auto" (by the model's heads), "none" (f16 only), or a list such as "f16,q4_0,q4_0/q2".
Result<Ladder> ParseLadder(std::string_view text);
std::string ToString(const Ladder& ladder);

// How the budget is divided over layers and KV heads.
enum class Split : uint8_t {
  kUniform,  // the same bytes for each
  kPooled,   // more bytes to heads where they lower the error most, or with the highest scores
  kAuto,     // kPooled if most tokens are of pictures, else kUniform
};
Result<Split> ParseSplit(std::string_view text);
std::string_view ToString(Split split);

// When the budget is enforced.
enum class Compression : uint8_t {
  kStreaming,  // after every ubatch: held bytes never exceed the budget
  kPrompt,     // after the last ubatch of a prompt: policies see the question, and until then the
               // prompt is held on top
};
Result<Compression> ParseCompression(std::string_view text);
std::string_view ToString(Compression compression);

struct CacheOptions {
  // Without a name: "retentive" with a budget, "full" without a budget.
  PolicySpec policy = {};
  Budget budget = {};
  std::optional<AbsorbSpec> absorb = std::nullopt;  // unset: the policy's default
  std::optional<Ladder> ladder = std::nullopt;      // unset: the policy's default
  std::optional<Split> split = std::nullopt;        // unset: the policy's default
  Compression compression = Compression::kStreaming;
  // One type for everything, as llama.cpp's -ctk and -ctv; no ladder then. Both or none are set.
  std::optional<ElementType> type_k = std::nullopt;
  std::optional<ElementType> type_v = std::nullopt;

  bool operator==(const CacheOptions&) const = default;
};

// One of these options: its names, and the parser of its text. ToString() gives the text.
template <typename T>
struct CacheOption {
  std::string_view name;   // of the field
  std::string_view label;  // precedes the text in output for people
  Result<T> (*parse)(std::string_view text);
};

// Calls visit(option, field) for every field of `options`, CacheOptions or const CacheOptions.
template <typename Options, typename Visit>
void ForEachOption(Options& options, Visit&& visit) {
  // A field that is missing here is a compile error.
  auto& [policy, budget, absorb, ladder, split, compression, type_k, type_v] = options;
  visit(CacheOption<PolicySpec>{"policy", "policy", ParsePolicySpec}, policy);
  visit(CacheOption<Budget>{"budget", "budget", ParseBudget}, budget);
  visit(CacheOption<AbsorbSpec>{"absorb", "absorb", ParseAbsorbSpec}, absorb);
  visit(CacheOption<Ladder>{"ladder", "ladder", ParseLadder}, ladder);
  visit(CacheOption<Split>{"split", "split", ParseSplit}, split);
  visit(CacheOption<Compression>{"compression", "compress", ParseCompression}, compression);
  visit(CacheOption<ElementType>{"type_k", "K", ParseElementType}, type_k);
  visit(CacheOption<ElementType>{"type_v", "V", ParseElementType}, type_v);
}

struct OptionText {
  std::string_view name;
  std::string_view label;
  std::string text;  // empty: unset

  bool operator==(const OptionText&) const = default;
};
// One for each option, in the order of ForEachOption().
std::vector<OptionText> OptionTexts(const CacheOptions& options);

// "policy=h2o budget=20%": the options that differ from their defaults.
std::string ToString(const CacheOptions& options);

// Options by name. Those that are missing or have an empty text keep their defaults; unknown names
// are kInvalidArgument.
using OptionTextMap = std::map<std::string, std::string, std::less<>>;
Result<CacheOptions> ParseCacheOptions(const OptionTextMap& texts);

// The policy of the options, or the default if they name none.
PolicySpec ChosenPolicy(const CacheOptions& options);

// A policy in the list for users; generated from the registry.
struct PolicyDescription {
  struct Option {
    std::string name;
    double default_value = 0;
    std::string help;
  };
  std::string name;
  std::string summary;
  bool evicts = false;  // false: keeps everything and cannot meet a budget
  std::string absorb;   // its default absorber
  std::string ladder;
  std::vector<Option> options;
};
std::vector<PolicyDescription> DescribePolicies();
// The same for absorbers (AbsorbSpec).
std::vector<PolicyDescription> DescribeAbsorbers();
// Options that all evicting policies share.
std::vector<PolicyDescription::Option> DescribeCommonPolicyOptions();

}  // namespace rkv

#endif  // RETENTIVEKV_OPTIONS_H_
