#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <vector>

#include "base/random.h"
#include "policies/policy.h"

namespace rkv {
namespace {

std::vector<float> Scores(const PolicySpec& spec, const std::vector<uint32_t>& tokens,
                          uint64_t tokens_seen) {
  auto policy = MakePolicy(spec);
  EXPECT_TRUE(policy.ok()) << policy.status().message();
  std::vector<float> scores(tokens.size(), -12345.0f);
  ScoreContext context;
  context.tokens_seen = tokens_seen;
  context.token_index = tokens;
  policy->policy->Score(context, scores);
  return scores;
}

TEST(PolicyRegistryTest, NamesAreUniqueAndDescribed) {
  std::set<std::string_view> names;
  for (const PolicyInfo* info : Policies()) {
    EXPECT_TRUE(names.insert(info->name).second) << info->name;
    EXPECT_FALSE(info->summary.empty());
    EXPECT_TRUE(MakePolicy({.name = std::string(info->name), .options = {}}).ok());
  }
  EXPECT_EQ(DescribePolicies().size(), names.size());
}

TEST(PolicyRegistryTest, UnknownNamesAndOptionsListWhatIsPossible) {
  const auto unknown = MakePolicy({.name = "h3o", .options = {}});
  EXPECT_EQ(unknown.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(unknown.status().message().find("full, streaming"), std::string::npos);
  const auto option = MakePolicy({.name = "streaming", .options = {{"sink", 4.0}}});
  EXPECT_EQ(option.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(option.status().message().find("sinks"), std::string::npos);
  EXPECT_FALSE(MakePolicy({.name = "streaming", .options = {{"sinks", -1.0}}}).ok());
  EXPECT_FALSE(MakePolicy({.name = "full", .options = {{"sinks", 1.0}}}).ok());
}

TEST(PolicySpecTest, ParsesAndPrints) {
  for (const char* text : {"full", "streaming", "streaming:sinks=8", "p:a=1,b=0.5"}) {
    const auto spec = ParsePolicySpec(text);
    ASSERT_TRUE(spec.ok());
    EXPECT_EQ(ToString(*spec), text);
  }
  for (const char* text : {"", ":sinks=1", "streaming:", "streaming:sinks", "streaming:sinks=x",
                           "streaming:=1", "streaming:sinks=1,", "streaming:sinks=1;2"}) {
    EXPECT_FALSE(ParsePolicySpec(text).ok()) << text;
  }
}

// The reference: the tokens with the largest index.
TEST(StreamingPolicyTest, OrdersByRecency) {
  Random random(1);
  for (int round = 0; round < 20; ++round) {
    const uint64_t seen = 1 + random.NextBelow(200);
    std::vector<uint32_t> tokens;
    for (uint32_t i = 0; i < seen; ++i) {
      if (random.NextBelow(2) == 0) tokens.push_back(i);
    }
    const std::vector<float> scores = Scores({.name = "streaming", .options = {}}, tokens, seen);
    EXPECT_TRUE(std::ranges::is_sorted(scores, std::ranges::less_equal())) << seen;
  }
}

}  // namespace
}  // namespace rkv
