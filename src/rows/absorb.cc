#include "rows/absorb.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

namespace rkv {

namespace {

constexpr SpecOption kShare{"share", 0.05, -1, 0.9,
                            "share of the bytes that states may take; -1: solved"};
constexpr SpecOption kVariance{
    "variance", 1, 0, 1, "1: raise a state's logit by the variance of its keys", true};
constexpr SpecOption kKappa{"kappa", 0, 0, 1,
                            "states fade by 1 - kappa (1 - mean entropy) when they absorb"};
constexpr SpecOption kWeigh{
    "weigh", 0, 0, 1, "1: tokens are absorbed in proportion to their attention", true};
constexpr SpecOption kAdditive{
    "additive", 0, 0, 1,
    "0: states share the tokens' softmax; above: this times the paper's additive readout"};
constexpr SpecOption kMatrix{"matrix",
                             0,
                             0,
                             1,
                             "1: a matrix per KV head of how values follow keys, where it is a "
                             "quarter of the bytes at most",
                             true};
constexpr SpecOption kClusterOptions[] = {kShare, kVariance, kKappa, kWeigh, kAdditive, kMatrix};
constexpr SpecOption kStateOptions[] = {
    {"share", 0.25, 0.01, 0.9, "share of the bytes that states may take"},
    kVariance,
    kKappa,
    kWeigh,
    kAdditive,
    kMatrix,
    {"roots", 4, 1, 1024, "root patches per picture, until the states' share is full", true},
    {"segment", 64, 1, 1 << 20, "tokens per segment of text or audio, likewise", true}};

constexpr AbsorbInfo kAbsorbers[] = {
    {AbsorbKind::kNone, "none", "forget them (plain eviction)", {}},
    {AbsorbKind::kMerge,
     "merge",
     "average them into the most similar token that stays (LOOK-M)",
     {}},
    {AbsorbKind::kClusters, "clusters", "sum up similar ones in states that every query reads",
     kClusterOptions},
    {AbsorbKind::kStates, "states",
     "sum them up by place: root patches of a picture's grid, segments of text and audio",
     kStateOptions},
};

double* Field(AbsorbChoice& choice, std::string_view name) {
  struct Entry {
    std::string_view name;
    double AbsorbChoice::*field;
  };
  constexpr Entry kFields[] = {
      {"share", &AbsorbChoice::share},       {"roots", &AbsorbChoice::roots},
      {"segment", &AbsorbChoice::segment},   {"kappa", &AbsorbChoice::kappa},
      {"weigh", &AbsorbChoice::weigh},       {"variance", &AbsorbChoice::variance},
      {"additive", &AbsorbChoice::additive}, {"matrix", &AbsorbChoice::matrix},
  };
  const auto found = std::ranges::find(kFields, name, &Entry::name);
  return found == std::end(kFields) ? nullptr : &(choice.*found->field);
}

}  // namespace

std::span<const AbsorbInfo> Absorbers() { return kAbsorbers; }

std::vector<PolicyDescription> DescribeAbsorbers() {
  std::vector<PolicyDescription> descriptions;
  for (const AbsorbInfo& info : kAbsorbers) {
    PolicyDescription& description = descriptions.emplace_back();
    description.name = std::string(info.name);
    description.summary = std::string(info.summary);
    for (const SpecOption& option : info.options) description.options.push_back(Describe(option));
  }
  return descriptions;
}

Result<AbsorbChoice> MakeAbsorb(const AbsorbSpec& spec) {
  const auto info = std::ranges::find(kAbsorbers, spec.name, &AbsorbInfo::name);
  if (info == std::end(kAbsorbers)) {
    return InvalidArgument(
        fmt::format("unknown absorber '{}'; there are: {}", spec.name, JoinNames(kAbsorbers)));
  }
  RKV_ASSIGN_OR_RETURN(
      const std::vector<double> values,
      SpecValues(fmt::format("absorber '{}'", spec.name), info->options, spec.options));
  AbsorbChoice choice{.kind = info->kind};
  for (size_t i = 0; i < values.size(); ++i) *Field(choice, info->options[i].name) = values[i];
  return choice;
}

}  // namespace rkv
