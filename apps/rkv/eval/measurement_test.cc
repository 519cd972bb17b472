#include "eval/measurement.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "retentivekv/inspect.h"

namespace rkv::app {
namespace {

Measurement Sample() {
  Measurement measurement;
  measurement.accuracy.Add(3, 4);
  measurement.kl.Add(0.1, 8);
  measurement.kl.Add(std::numeric_limits<double>::infinity(), 2);
  measurement.missed.Add(0.25, 4);
  measurement.held_bytes = 1000;
  measurement.kept = 0.2;
  measurement.seconds = 1.5;
  measurement.by_question = {{.right = 1, .n = 2}, {.right = 2, .n = 2}};
  measurement.by_family["doc"] = {.right = 3, .n = 4};
  measurement.by_seed["1"] = {.right = 3, .n = 4};
  return measurement;
}

TEST(MeasurementTest, IsTheSameAfterJson) {
  const Measurement before = Sample();
  const std::string text = ToJson(before).dump();
  const Measurement after = MeasurementFromJson(nlohmann::ordered_json::parse(text));
  EXPECT_EQ(ToJson(after).dump(), text);
  EXPECT_EQ(after.accuracy.numerators, before.accuracy.numerators);
  EXPECT_EQ(after.kl.numerators, before.kl.numerators);  // infinity too
  EXPECT_EQ(after.by_question[1].right, 2);
  EXPECT_EQ(after.by_family.at("doc").n, 4);
  Measurement refused;
  refused.refused = "too small";
  EXPECT_EQ(MeasurementFromJson(ToJson(refused)).refused, "too small");
}

TEST(MeasurementTest, PartsAddUp) {
  Measurement sum = Sample();
  Measurement part = Sample();
  part.held_bytes = 3000;
  part.kept = 0.1;
  part.by_question.push_back({.right = 1, .n = 1});
  part.by_family = {{"scene", {.right = 1, .n = 1}}};
  sum.Add(part);
  EXPECT_EQ(sum.accuracy.numerators.size(), 2u);
  EXPECT_DOUBLE_EQ(sum.accuracy.value(), 0.75);
  EXPECT_EQ(sum.held_bytes, 3000u);
  EXPECT_EQ(sum.kept, 0.2);
  EXPECT_EQ(sum.seconds, 3.0);
  ASSERT_EQ(sum.by_question.size(), 3u);
  EXPECT_EQ(sum.by_question[0].n, 4);
  EXPECT_EQ(sum.by_family.size(), 2u);
}

TEST(MeasurementTest, MissedAttentionIsWhatFullPaidToForgottenTokens) {
  constexpr uint8_t kGone = HeadInspection::kForgotten;
  Inspection full;
  Inspection other;
  full.heads.resize(2);
  other.heads.resize(2);
  full.heads[0].share = {0.5f, 0.25f, 0.25f};
  full.heads[1].share = {0.125f, 0.0f, 0.875f};
  other.heads[0].rung = {0, kGone, 3};
  other.heads[1].rung = {kGone, kGone, 1};
  EXPECT_DOUBLE_EQ(MissedShare(SharesOf(full), other), (0.25 + 0.125) / 2);
  EXPECT_EQ(MissedShare({}, other), 0);
}

}  // namespace
}  // namespace rkv::app
