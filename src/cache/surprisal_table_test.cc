#include "cache/surprisal_table.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "base/random.h"

namespace rkv {
namespace {

std::string Saved(const SurprisalTable& table) {
  ByteWriter writer;
  table.Save(writer);
  return writer.buffer();
}

TEST(SurprisalTableTest, TokensThatWereNeverSetAreUnknown) {
  SurprisalTable table;
  table.Set(3, std::numeric_limits<float>::quiet_NaN());
  EXPECT_TRUE(table.empty());
  EXPECT_EQ(table.held_bytes(), 0u);
  EXPECT_TRUE(SurprisalScores(table).empty());
  table.Set(20, 1.0f);
  table.Set(40, 3.0f);
  const SurprisalScores scores(table);
  for (uint32_t token = 0; token < 60; ++token) {
    if (token == 20 || token == 40) continue;
    EXPECT_TRUE(std::isnan(scores[token])) << token;
  }
  EXPECT_NEAR(scores[20], -1.0f, 1e-6f);
  EXPECT_NEAR(scores[40], 1.0f, 1e-6f);
}

// Against the definition, with surprisals below zero and above the maximum.
TEST(SurprisalTableTest, ScoresAreStandardScoresOfMeansAround) {
  Random random(1);
  for (const size_t n : {1, 2, 9, 300}) {
    SurprisalTable table;
    std::vector<double> rounded(n, -1);
    for (size_t i = 0; i < n; ++i) {
      if (random.NextBelow(5) == 0) continue;
      const double nats = 40 * random.NextDouble() - 2;
      table.Set(i, static_cast<float>(nats));
      rounded[i] = std::floor(std::clamp(8 * nats, 0.0, 254.0)) / 8;
    }
    if (table.empty()) continue;
    std::vector<double> means(n, -1);
    double count = 0, sum = 0, square = 0;
    for (size_t i = 0; i < n; ++i) {
      if (rounded[i] < 0) continue;
      double around = 0, known = 0;
      for (size_t j = i < 4 ? 0 : i - 4; j < std::min(n, i + 5); ++j) {
        if (rounded[j] < 0) continue;
        around += rounded[j];
        ++known;
      }
      means[i] = around / known;
      ++count;
      sum += means[i];
      square += means[i] * means[i];
    }
    const double deviation = std::sqrt(std::max(0.0, square / count - sum / count * sum / count));
    const SurprisalScores scores(table);
    for (size_t i = 0; i < n; ++i) {
      if (means[i] < 0) {
        EXPECT_TRUE(std::isnan(scores[static_cast<uint32_t>(i)]));
        continue;
      }
      const double expected = deviation > 1e-6 ? (means[i] - sum / count) / deviation : 0;
      EXPECT_NEAR(scores[static_cast<uint32_t>(i)], expected, 1e-4) << i << " of " << n;
    }
  }
}

TEST(SurprisalTableTest, BytesDependOnTheSizeAlone) {
  SurprisalTable grown;
  for (uint64_t i = 0; i < 1000; ++i) {
    grown.Set(i, 1.0f);
    ASSERT_EQ(grown.held_bytes(), SurprisalTable::BytesFor(i + 1));
  }
  const SurprisalTable copy = grown;
  EXPECT_EQ(copy.held_bytes(), grown.held_bytes());
  EXPECT_EQ(Saved(copy), Saved(grown));
  grown.Truncate(300);
  EXPECT_EQ(grown.size(), 300u);
  EXPECT_EQ(grown.held_bytes(), SurprisalTable::BytesFor(300));
  grown.Truncate(5000);
  EXPECT_EQ(grown.size(), 300u);
}

TEST(SurprisalTableTest, IsSavedAndLoaded) {
  SurprisalTable table;
  for (uint64_t i = 0; i < 77; ++i) table.Set(i, 0.25f * static_cast<float>(i));
  const std::string bytes = Saved(table);
  ByteReader reader(bytes);
  SurprisalTable loaded;
  ASSERT_TRUE(loaded.Load(77, reader));
  EXPECT_EQ(reader.remaining(), 0u);
  EXPECT_EQ(Saved(loaded), bytes);
  EXPECT_EQ(loaded.held_bytes(), table.held_bytes());
  // At most one more token than were seen may be known.
  for (const auto& [tokens_seen, good] : {std::pair{76u, true}, {75u, false}}) {
    ByteReader again(bytes);
    SurprisalTable other;
    EXPECT_EQ(other.Load(tokens_seen, again), good);
  }
  ByteReader cut(std::string_view(bytes).substr(0, 20));
  SurprisalTable other;
  EXPECT_FALSE(other.Load(77, cut));
}

}  // namespace
}  // namespace rkv
