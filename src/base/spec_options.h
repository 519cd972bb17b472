// Options of a NamedSpec: one table gives their checks and defaults.
#ifndef RETENTIVEKV_BASE_SPEC_OPTIONS_H_
#define RETENTIVEKV_BASE_SPEC_OPTIONS_H_

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "retentivekv/options.h"
#include "retentivekv/status.h"

namespace rkv {

struct SpecOption {
  std::string_view name;
  double default_value;
  double min;
  double max;
  std::string_view help;
  bool whole = false;  // only whole numbers
};

// One value per option, in the order of `options`. kInvalidArgument for unknown names, names given
// twice and values out of range; `what` names their owner in errors ("policy 'h2o'").
Result<std::vector<double>> SpecValues(std::string_view what, std::span<const SpecOption> options,
                                       std::span<const std::pair<std::string, double>> chosen);

PolicyDescription::Option Describe(const SpecOption& option);

// "a, b, c" of named things; "none" without any.
template <typename Range>
std::string JoinNames(const Range& range) {
  std::string names;
  for (const auto& entry : range) {
    if (!names.empty()) names += ", ";
    names += entry.name;
  }
  return names.empty() ? "none" : names;
}

}  // namespace rkv

#endif  // RETENTIVEKV_BASE_SPEC_OPTIONS_H_
