// Adds up measurements, and converts them to JSON and back.
#include "eval/measurement.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "retentivekv/inspect.h"

namespace rkv::app {

namespace {

using Json = nlohmann::ordered_json;

void AddTo(Ratio& sum, const Ratio& part) {
  sum.numerators.insert(sum.numerators.end(), part.numerators.begin(), part.numerators.end());
  sum.denominators.insert(sum.denominators.end(), part.denominators.begin(),
                          part.denominators.end());
}

void AddTo(Tally& sum, const Tally& part) {
  sum.right += part.right;
  sum.n += part.n;
}

void AddTo(std::map<std::string, Tally>& sums, const std::map<std::string, Tally>& parts) {
  for (const auto& [name, part] : parts) AddTo(sums[name], part);
}

Json ToJson(const Ratio& ratio) { return {ratio.numerators, ratio.denominators}; }
Json ToJson(const Tally& tally) { return {tally.right, tally.n}; }
Json ToJson(const std::map<std::string, Tally>& tallies) {
  Json json = Json::object();
  for (const auto& [name, tally] : tallies) json[name] = ToJson(tally);
  return json;
}

// JSON has no infinity; null represents it.
std::vector<double> NumbersFromJson(const Json& json) {
  std::vector<double> numbers;
  for (const Json& number : json) {
    numbers.push_back(number.is_null() ? std::numeric_limits<double>::infinity()
                                       : number.get<double>());
  }
  return numbers;
}
Ratio RatioFromJson(const Json& json) {
  return {.numerators = NumbersFromJson(json.at(0)), .denominators = NumbersFromJson(json.at(1))};
}
Tally TallyFromJson(const Json& json) {
  return {.right = json.at(0).get<double>(), .n = json.at(1).get<double>()};
}
std::map<std::string, Tally> TalliesFromJson(const Json& json) {
  std::map<std::string, Tally> tallies;
  for (const auto& [name, tally] : json.items()) tallies[name] = TallyFromJson(tally);
  return tallies;
}

}  // namespace

void Measurement::AddStats(const CacheStats& stats) {
  held_bytes = std::max(held_bytes, stats.held_bytes);
  kept = std::max(kept, stats.kept());
}

void Measurement::Add(const Measurement& part) {
  if (refused.empty()) refused = part.refused;
  AddTo(accuracy, part.accuracy);
  AddTo(kl, part.kl);
  AddTo(missed, part.missed);
  held_bytes = std::max(held_bytes, part.held_bytes);
  kept = std::max(kept, part.kept);
  seconds += part.seconds;
  by_question.resize(std::max(by_question.size(), part.by_question.size()));
  for (size_t i = 0; i < part.by_question.size(); ++i) AddTo(by_question[i], part.by_question[i]);
  AddTo(by_family, part.by_family);
  AddTo(by_seed, part.by_seed);
}

Json ToJson(const Measurement& measurement) {
  if (!measurement.refused.empty()) return {{"refused", measurement.refused}};
  Json questions = Json::array();
  for (const Tally& tally : measurement.by_question) questions.push_back(ToJson(tally));
  return {{"accuracy", ToJson(measurement.accuracy)},
          {"kl", ToJson(measurement.kl)},
          {"missed", ToJson(measurement.missed)},
          {"held_bytes", measurement.held_bytes},
          {"kept", measurement.kept},
          {"seconds", measurement.seconds},
          {"by_question", std::move(questions)},
          {"by_family", ToJson(measurement.by_family)},
          {"by_seed", ToJson(measurement.by_seed)}};
}

Measurement MeasurementFromJson(const Json& json) {
  Measurement measurement;
  if (json.contains("refused")) {
    measurement.refused = json.at("refused").get<std::string>();
    return measurement;
  }
  measurement.accuracy = RatioFromJson(json.at("accuracy"));
  measurement.kl = RatioFromJson(json.at("kl"));
  measurement.missed = RatioFromJson(json.at("missed"));
  measurement.held_bytes = json.at("held_bytes").get<uint64_t>();
  measurement.kept = json.at("kept").get<double>();
  measurement.seconds = json.at("seconds").get<double>();
  for (const Json& tally : json.at("by_question")) {
    measurement.by_question.push_back(TallyFromJson(tally));
  }
  measurement.by_family = TalliesFromJson(json.at("by_family"));
  measurement.by_seed = TalliesFromJson(json.at("by_seed"));
  return measurement;
}

HeadShares SharesOf(const Inspection& inspection) {
  HeadShares shares;
  for (const HeadInspection& head : inspection.heads) shares.push_back(head.share);
  return shares;
}

double MissedShare(const HeadShares& full, const Inspection& inspection) {
  double missed = 0;
  for (size_t head = 0; head < full.size(); ++head) {
    const std::vector<uint8_t>& rung = inspection.heads[head].rung;
    for (size_t i = 0; i < std::min(rung.size(), full[head].size()); ++i) {
      if (rung[i] == HeadInspection::kForgotten) missed += static_cast<double>(full[head][i]);
    }
  }
  return full.empty() ? 0 : missed / static_cast<double>(full.size());
}

std::vector<std::optional<Budget>> BudgetsOf(const Configuration& configuration,
                                             const std::vector<Budget>& budgets) {
  if (!configuration.takes_budget) return {std::nullopt};
  return {budgets.begin(), budgets.end()};
}

std::string NameOf(const Configuration& configuration, const std::optional<Budget>& budget) {
  if (!budget.has_value()) return configuration.label;
  return fmt::format("{} {}", configuration.label, ToString(*budget));
}

CacheOptions WithBudget(const CacheOptions& options, const std::optional<Budget>& budget) {
  CacheOptions result = options;
  if (budget.has_value()) result.budget = *budget;
  return result;
}

}  // namespace rkv::app
