// Parses the lists of `rkv bench`, and makes the caches under test.
#include "bench/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "choices.h"

namespace rkv::app {

namespace {

constexpr std::string_view kTypes = "f16,q8_0,q4_0";
constexpr size_t kMaxNumbers = 1000;

// Removes a number from the front of the text.
bool TakeNumber(std::string_view& text, int& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || number < 0) return false;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return true;
}

// "4", "1-4", "1-4+2" or "1-4*2".
bool AppendRange(std::string_view part, std::vector<int>& numbers) {
  int first = 0, last = 0, step = 1;
  char kind = '+';
  if (!TakeNumber(part, first)) return false;
  last = first;
  if (part.starts_with('-')) {
    part.remove_prefix(1);
    if (!TakeNumber(part, last)) return false;
    if (part.starts_with('+') || part.starts_with('*')) {
      kind = part.front();
      part.remove_prefix(1);
      if (!TakeNumber(part, step)) return false;
    }
  }
  const bool grows = kind == '+' ? step > 0 : step > 1 && first > 0;
  if (!part.empty() || !grows || last < first) return false;
  for (int64_t i = first; i <= last; i = kind == '+' ? i + step : i * step) {
    if (numbers.size() == kMaxNumbers) return false;
    numbers.push_back(static_cast<int>(i));
  }
  return true;
}

std::string TypeText(ElementType type_k, ElementType type_v) {
  if (type_k == type_v) return std::string(ToString(type_k));
  return fmt::format("{}/{}", ToString(type_k), ToString(type_v));
}

Result<std::vector<ElementType>> ParseTypes(std::string_view list) {
  std::vector<ElementType> types;
  for (const std::string_view part : SplitList(list)) {
    RKV_ASSIGN_OR_RETURN(const ElementType type, ParseElementType(part));
    types.push_back(type);
  }
  return types;
}

}  // namespace

Result<std::vector<int>> ParseNumbers(std::string_view flag, std::string_view list,
                                      int min_number) {
  std::vector<int> numbers;
  for (const std::string_view part : SplitList(list)) {
    if (!AppendRange(part, numbers)) {
      return InvalidArgument(fmt::format(
          "{} is '{}'; it can be a list such as 512,1024 or a range such as 1-4, 64-256+64 or "
          "1-8*2",
          flag, list));
    }
  }
  if (*std::ranges::min_element(numbers) < min_number) {
    return InvalidArgument(
        fmt::format("{} is '{}'; it must be at least {}", flag, list, min_number));
  }
  return numbers;
}

std::string BenchCache::budget() const {
  return stock || options.budget.unlimited() ? "" : ToString(options.budget);
}

std::string BenchCache::type() const {
  const PolicyDescription* policy = stock ? nullptr : FindPolicy(ChosenPolicy(options).name);
  if (policy == nullptr || !policy->evicts) return TypeText(type_k, type_v);
  return ToString(options.ladder.has_value() ? *options.ladder : *ParseLadder(policy->ladder));
}

std::string BenchCache::label() const {
  std::string text = engine();
  for (const std::string& part : {policy(), budget(), type()}) {
    if (!part.empty()) text += " " + part;
  }
  return text;
}

Result<std::vector<std::pair<ElementType, ElementType>>> ParseTypePairs(std::string_view types_k,
                                                                        std::string_view types_v) {
  if (types_k.empty() && types_v.empty()) types_k = kTypes;
  RKV_ASSIGN_OR_RETURN(const auto k, ParseTypes(types_k.empty() ? types_v : types_k));
  RKV_ASSIGN_OR_RETURN(const auto v, ParseTypes(types_v.empty() ? types_k : types_v));
  if (k.size() != v.size()) {
    return InvalidArgument(fmt::format(
        "-ctk lists {} types, but -ctv lists {}; they are paired, so the numbers must be equal",
        k.size(), v.size()));
  }
  std::vector<std::pair<ElementType, ElementType>> pairs;
  for (size_t i = 0; i < k.size(); ++i) pairs.emplace_back(k[i], v[i]);
  return pairs;
}

Result<std::vector<BenchCache>> MakeBenchCaches(const BenchCacheChoices& choices) {
  std::vector<BenchCache> caches;
  for (const auto& [k, v] : choices.types) {
    const bool known = std::max(k, v) <= ElementType::kQ4_0;  // to stock llama.cpp
    if (known) caches.push_back({.stock = true, .options = {}, .type_k = k, .type_v = v});
  }
  for (const PolicySpec& policy : choices.policies) {
    CacheOptions options{.policy = policy, .compression = choices.compression};
    RKV_RETURN_IF_ERROR(CheckOptions(options));
    if (!FindPolicy(policy.name)->evicts) {
      for (const auto& [k, v] : choices.types) {
        BenchCache cache{.options = options, .type_k = k, .type_v = v};
        cache.options.type_k = k;
        cache.options.type_v = v;
        caches.push_back(cache);
      }
      continue;
    }
    std::vector<std::optional<Ladder>> ladders(choices.ladders.begin(), choices.ladders.end());
    if (ladders.empty()) ladders.push_back(std::nullopt);
    for (const Budget& budget : choices.budgets) {
      for (const std::optional<Ladder>& ladder : ladders) {
        options.budget = budget;
        options.ladder = ladder;
        RKV_RETURN_IF_ERROR(CheckOptions(options));
        caches.push_back({.options = options});
      }
    }
  }
  return caches;
}

std::string BenchTest::name() const {
  const std::string text = fmt::format("{}{}", prefill ? "pp" : "tg", n);
  return depth == 0 ? text : fmt::format("{} @ d{}", text, depth);
}

}  // namespace rkv::app
