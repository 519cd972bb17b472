#include "rows/absorb.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

namespace rkv {

namespace {

constexpr SpecOption kShare{
    "share", 0.05, -1, 0.9,
    "share of the absorbed kinds' bytes for states; -1: the share with the least error"};
constexpr SpecOption kVariance{
    "variance", 1, 0, 1, "1: raise a state's logit by the variance of its keys", true};
constexpr SpecOption kKappa{"kappa", 0, 0, 1,
                            "states fade by 1 - kappa (1 - mean entropy) when they absorb"};
constexpr SpecOption kWeigh{"weigh", 0, 0, 1, "1: absorb tokens in proportion to their attention",
                            true};
constexpr SpecOption kAdditive{
    "additive", 0, 0, 1,
    "0: states join the softmax of the tokens; above 0: factor of the paper's additive readout"};
constexpr SpecOption kMatrix{
    "matrix",
    0,
    0,
    1,
    "1: a matrix per KV head predicts values from keys, if it takes at most a quarter of the bytes",
    true};
constexpr SpecOption kText{
    "text", 0, 0, 1, "1: evicted text joins states too; 0: only pictures and clips do", true};
constexpr SpecOption kClusterOptions[] = {kShare, kText,     kVariance, kKappa,
                                          kWeigh, kAdditive, kMatrix};
constexpr SpecOption kStateOptions[] = {
    {"share", 0.25, 0.01, 0.9, "share of the bytes for states"},
    kVariance,
    kKappa,
    kWeigh,
    kAdditive,
    kMatrix,
    {"roots", 4, 1, 1024, "root patches per picture, until the states' share is full", true},
    {"segment", 64, 1, 1 << 20,
     "tokens per segment of text or audio, until the states' share is full", true}};

constexpr AbsorbInfo kAbsorbers[] = {
    {AbsorbKind::kNone, "none", "drop evicted tokens", {}},
    {AbsorbKind::kMerge,
     "merge",
     "average evicted tokens into the most similar kept token (LOOK-M)",
     {}},
    {AbsorbKind::kClusters, "clusters",
     "sum up similar evicted tokens in states that every query reads", kClusterOptions},
    {AbsorbKind::kStates, "states",
     "sum up evicted tokens by place: root patches of a picture's grid, segments of text and audio",
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
      {"text", &AbsorbChoice::text},
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
        fmt::format("unknown absorber '{}'; choose one of: {}", spec.name, JoinNames(kAbsorbers)));
  }
  RKV_ASSIGN_OR_RETURN(
      const std::vector<double> values,
      SpecValues(fmt::format("absorber '{}'", spec.name), info->options, spec.options));
  AbsorbChoice choice{.kind = info->kind};
  for (size_t i = 0; i < values.size(); ++i) *Field(choice, info->options[i].name) = values[i];
  return choice;
}

}  // namespace rkv
