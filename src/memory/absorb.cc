#include "memory/absorb.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

namespace rkv {

namespace {

constexpr AbsorbOption kShare{"share", 0.05, -1, 0.9,
                              "share of the bytes that states may take; -1: solved"};
constexpr AbsorbOption kVariance{"variance", 1, 0, 1,
                                 "1: raise a state's logit by the variance of its keys"};
constexpr AbsorbOption kKappa{"kappa", 0, 0, 1,
                              "states fade by 1 - kappa (1 - mean entropy) when they absorb"};
constexpr AbsorbOption kWeigh{"weigh", 0, 0, 1,
                              "1: tokens are absorbed in proportion to their attention"};
constexpr AbsorbOption kAdditive{
    "additive", 0, 0, 1,
    "0: states share the tokens' softmax; above: this times the paper's additive readout"};
constexpr AbsorbOption kClusterOptions[] = {kShare, kVariance, kKappa, kWeigh, kAdditive};
constexpr AbsorbOption kStateOptions[] = {
    {"share", 0.25, 0.01, 0.9, "share of the bytes that states may take"},
    kVariance,
    kKappa,
    kWeigh,
    kAdditive,
    {"roots", 4, 1, 1024, "root patches per picture, until the states' share is full"},
    {"segment", 64, 1, 1 << 20, "tokens per segment of text or audio, likewise"}};

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

std::vector<std::string_view> Names() {
  std::vector<std::string_view> names;
  for (const AbsorbInfo& info : kAbsorbers) names.push_back(info.name);
  return names;
}

double* Field(AbsorbChoice& choice, std::string_view name) {
  struct Entry {
    std::string_view name;
    double AbsorbChoice::*field;
  };
  constexpr Entry kFields[] = {
      {"share", &AbsorbChoice::share},       {"roots", &AbsorbChoice::roots},
      {"segment", &AbsorbChoice::segment},   {"kappa", &AbsorbChoice::kappa},
      {"weigh", &AbsorbChoice::weigh},       {"variance", &AbsorbChoice::variance},
      {"additive", &AbsorbChoice::additive},
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
    for (const AbsorbOption& option : info.options) {
      description.options.push_back({.name = std::string(option.name),
                                     .default_value = option.default_value,
                                     .help = std::string(option.help)});
    }
  }
  return descriptions;
}

Result<AbsorbChoice> MakeAbsorb(const AbsorbSpec& spec) {
  const auto info = std::ranges::find(kAbsorbers, spec.name, &AbsorbInfo::name);
  if (info == std::end(kAbsorbers)) {
    return InvalidArgument(fmt::format("unknown memory of absorbed tokens '{}'; there are: {}",
                                       spec.name, fmt::join(Names(), ", ")));
  }
  AbsorbChoice choice{.kind = info->kind};
  for (const AbsorbOption& option : info->options)
    *Field(choice, option.name) = option.default_value;
  for (const auto& [name, value] : spec.options) {
    const auto option = std::ranges::find(info->options, name, &AbsorbOption::name);
    if (option == info->options.end()) {
      std::vector<std::string_view> names;
      for (const AbsorbOption& known : info->options) names.push_back(known.name);
      return InvalidArgument(
          fmt::format("'{}' has no option '{}'; its options are: {}", spec.name, name,
                      names.empty() ? "none" : fmt::format("{}", fmt::join(names, ", "))));
    }
    if (!(value >= option->min && value <= option->max)) {
      return InvalidArgument(fmt::format("option '{}' of '{}' is {}; it must be {} to {}", name,
                                         spec.name, value, option->min, option->max));
    }
    *Field(choice, name) = value;
  }
  return choice;
}

}  // namespace rkv
