// Options of the cache that differ in one field: what tells options apart must tell these apart.
#ifndef RETENTIVEKV_TESTS_SUPPORT_CHANGED_OPTIONS_H_
#define RETENTIVEKV_TESTS_SUPPORT_CHANGED_OPTIONS_H_

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "retentivekv/options.h"

namespace rkv {

inline void Change(NamedSpec& spec) {
  spec = {.name = spec.name == "changed" ? "again" : "changed", .options = {{"by", 0.5}}};
}
inline void Change(Budget& budget) {
  budget = {.unit = Budget::Unit::kTokens, .amount = budget.amount / 2};
}
inline void Change(ElementType& type) {
  type = type == ElementType::kQ2 ? ElementType::kBF16 : ElementType::kQ2;
}
inline void Change(Ladder& ladder) {
  Change(ladder.rungs.emplace_back().v);
  ladder.rungs = {ladder.rungs.back()};
}
inline void Change(Split& split) {
  split = split == Split::kPooled ? Split::kUniform : Split::kPooled;
}
inline void Change(Compression& compression) {
  compression =
      compression == Compression::kPrompt ? Compression::kStreaming : Compression::kPrompt;
}
template <typename T>
void Change(std::optional<T>& value) {
  if (!value.has_value()) value.emplace();
  Change(*value);
}

// Options of which none has its default.
inline CacheOptions AllSet() {
  return {.policy = *ParsePolicySpec("streaming:sinks=8,window=0.1"),
          .budget = *ParseBudget("2.5%"),
          .absorb = *ParseAbsorbSpec("clusters:share=0.25"),
          .ladder = *ParseLadder("f16,q4_0"),
          .split = Split::kAuto,
          .compression = Compression::kPrompt,
          .type_k = ElementType::kQ8_0,
          .type_v = ElementType::kQ4_0};
}

// For each field its name, and `options` with another value of it.
inline std::vector<std::pair<std::string, CacheOptions>> ChangedOnce(const CacheOptions& options) {
  std::vector<std::pair<std::string, CacheOptions>> all;
  ForEachOption(options, [&](const auto& changed_option, const auto&) {
    CacheOptions changed = options;
    ForEachOption(changed, [&](const auto& option, auto& value) {
      if (option.name == changed_option.name) Change(value);
    });
    all.emplace_back(changed_option.name, std::move(changed));
  });
  return all;
}

}  // namespace rkv

#endif  // RETENTIVEKV_TESTS_SUPPORT_CHANGED_OPTIONS_H_
