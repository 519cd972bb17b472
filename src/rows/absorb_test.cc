#include "rows/absorb.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>

namespace rkv {
namespace {

Result<AbsorbChoice> Make(std::string_view text) {
  const Result<AbsorbSpec> spec = ParseAbsorbSpec(text);
  if (!spec.ok()) return spec.status();
  return MakeAbsorb(*spec);
}

TEST(AbsorbTest, EveryNameMakesItsKind) {
  std::set<std::string_view> names;
  for (const AbsorbInfo& info : Absorbers()) {
    EXPECT_TRUE(names.insert(info.name).second) << info.name;
    EXPECT_FALSE(info.summary.empty());
    const Result<AbsorbChoice> choice = Make(info.name);
    ASSERT_TRUE(choice.ok()) << info.name;
    EXPECT_EQ(choice->kind, info.kind);
  }
  EXPECT_EQ(names, (std::set<std::string_view>{"none", "merge", "clusters", "states"}));
  EXPECT_TRUE(Make("clusters")->has_states());
  EXPECT_TRUE(Make("states")->has_states());
  EXPECT_FALSE(Make("none")->has_states());
  EXPECT_FALSE(Make("merge")->has_states());
}

// A field of a choice by its option's name.
double Field(const AbsorbChoice& choice, std::string_view name) {
  if (name == "share") return choice.share;
  if (name == "roots") return choice.roots;
  if (name == "segment") return choice.segment;
  if (name == "kappa") return choice.kappa;
  if (name == "weigh") return choice.weigh;
  if (name == "variance") return choice.variance;
  if (name == "additive") return choice.additive;
  if (name == "matrix") return choice.matrix;
  if (name == "text") return choice.text;
  ADD_FAILURE() << "no field for " << name;
  return std::nan("");
}

TEST(AbsorbTest, DefaultsAreTheListedOnes) {
  for (const AbsorbInfo& info : Absorbers()) {
    for (const SpecOption& option : info.options) {
      EXPECT_EQ(Field(*Make(info.name), option.name), option.default_value)
          << info.name << " " << option.name;
    }
  }
}

TEST(AbsorbTest, OptionsReachTheirFields) {
  const Result<AbsorbChoice> choice = Make(
      "states:share=0.5,variance=0,kappa=0.25,weigh=1,additive=0.5,matrix=1,roots=9,segment=17");
  ASSERT_TRUE(choice.ok()) << choice.status().message();
  EXPECT_EQ(choice->share, 0.5);
  EXPECT_EQ(choice->variance, 0);
  EXPECT_EQ(choice->kappa, 0.25);
  EXPECT_EQ(choice->weigh, 1);
  EXPECT_EQ(choice->additive, 0.5);
  EXPECT_EQ(choice->matrix, 1);
  EXPECT_EQ(choice->roots, 9);
  EXPECT_EQ(choice->segment, 17);
}

TEST(AbsorbTest, LimitsOfEveryOptionHold) {
  for (const AbsorbInfo& info : Absorbers()) {
    for (const SpecOption& option : info.options) {
      EXPECT_LE(option.min, option.default_value) << info.name << " " << option.name;
      EXPECT_GE(option.max, option.default_value) << info.name << " " << option.name;
      EXPECT_FALSE(option.help.empty());
      const auto make = [&](double value) {
        return MakeAbsorb(
            {.name = std::string(info.name), .options = {{std::string(option.name), value}}});
      };
      EXPECT_TRUE(make(option.min).ok());
      EXPECT_TRUE(make(option.max).ok());
      for (const double bad : {option.min - 0.01, option.max + 0.01, std::nan("")}) {
        const Result<AbsorbChoice> refused = make(bad);
        ASSERT_FALSE(refused.ok()) << info.name << " " << option.name << " " << bad;
        EXPECT_EQ(refused.status().code(), StatusCode::kInvalidArgument);
        EXPECT_NE(refused.status().message().find(option.name), std::string::npos);
      }
    }
  }
}

TEST(AbsorbTest, UnknownNamesAndOptionsAreRefusedWithWhatIsPossible) {
  const Result<AbsorbChoice> name = Make("nonsense");
  ASSERT_FALSE(name.ok());
  EXPECT_EQ(name.status().code(), StatusCode::kInvalidArgument);
  for (const AbsorbInfo& info : Absorbers()) {
    EXPECT_NE(name.status().message().find(info.name), std::string::npos) << info.name;
    const Result<AbsorbChoice> option =
        MakeAbsorb({.name = std::string(info.name), .options = {{"nonsense", 1.0}}});
    ASSERT_FALSE(option.ok());
    EXPECT_EQ(option.status().code(), StatusCode::kInvalidArgument);
    for (const SpecOption& known : info.options) {
      EXPECT_NE(option.status().message().find(known.name), std::string::npos) << known.name;
    }
  }
}

TEST(AbsorbTest, DescriptionsListWhatThereIs) {
  const std::vector<PolicyDescription> descriptions = DescribeAbsorbers();
  ASSERT_EQ(descriptions.size(), Absorbers().size());
  for (size_t i = 0; i < descriptions.size(); ++i) {
    const AbsorbInfo& info = Absorbers()[i];
    EXPECT_EQ(descriptions[i].name, info.name);
    EXPECT_EQ(descriptions[i].summary, info.summary);
    ASSERT_EQ(descriptions[i].options.size(), info.options.size());
    for (size_t o = 0; o < info.options.size(); ++o) {
      EXPECT_EQ(descriptions[i].options[o].name, info.options[o].name);
      EXPECT_EQ(descriptions[i].options[o].default_value, info.options[o].default_value);
      EXPECT_EQ(descriptions[i].options[o].help, info.options[o].help);
    }
  }
}

}  // namespace
}  // namespace rkv
