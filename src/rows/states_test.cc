#include "rows/states.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>
#include <vector>

#include "base/random.h"

namespace rkv {
namespace {

struct Token {
  std::vector<float> k, v;
};

std::vector<Token> RandomTokens(Random& random, size_t n, size_t d_k, size_t d_v,
                                double offset = 0) {
  std::vector<Token> tokens(n);
  for (Token& token : tokens) {
    for (size_t i = 0; i < d_k; ++i) {
      token.k.push_back(static_cast<float>(offset + random.NextGaussian()));
    }
    for (size_t i = 0; i < d_v; ++i) {
      token.v.push_back(static_cast<float>(offset - random.NextGaussian()));
    }
  }
  return tokens;
}

StateSums Single(const Token& token, uint32_t index) {
  StateSums state(token.k.size(), token.v.size());
  state.Absorb(token.k, token.v);
  state.index = index;
  return state;
}

std::vector<StateSums> Singles(const std::vector<Token>& tokens) {
  std::vector<StateSums> states;
  for (uint32_t i = 0; i < tokens.size(); ++i) states.push_back(Single(tokens[i], i));
  return states;
}

// Tolerance of an fp32 sum over `n` terms of magnitude `scale`.
double SumBound(size_t n, double scale) {
  return 2.0 * static_cast<double>(n) * static_cast<double>(n) * 0x1p-24 * scale;
}

void ExpectNear(const std::vector<float>& a, const std::vector<float>& b, double bound) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], bound) << "element " << i;
}

void ExpectNear(const StateSums& a, const StateSums& b, double bound) {
  EXPECT_NEAR(a.mass, b.mass, bound);
  ExpectNear(a.key_sum, b.key_sum, bound);
  ExpectNear(a.value_sum, b.value_sum, bound);
  ExpectNear(a.key_square, b.key_square, bound);
}

StateSums Total(const std::vector<StateSums>& states) {
  StateSums total(states.front().key_sum.size(), states.front().value_sum.size());
  for (const StateSums& state : states) total.Merge(state);
  return total;
}

constexpr size_t kShapes[][2] = {{1, 1}, {7, 5}, {32, 32}, {33, 64}, {80, 80}};

TEST(StatesTest, SumsMatchDoublePrecision) {
  for (const auto& [d_k, d_v] : kShapes) {
    for (uint64_t seed = 0; seed < 5; ++seed) {
      Random random(seed);
      const size_t n = 1 + random.NextBelow(100);
      const std::vector<Token> tokens = RandomTokens(random, n, d_k, d_v, 0.5);
      StateSums state(d_k, d_v);
      double mass = 0;
      std::vector<double> key(d_k), square(d_k), value(d_v);
      for (const Token& token : tokens) {
        const auto a = static_cast<float>(0.25 + random.NextDouble());
        state.Absorb(token.k, token.v, a);
        const auto weight = static_cast<double>(a);
        mass += weight;
        for (size_t i = 0; i < d_k; ++i) {
          const auto x = static_cast<double>(token.k[i]);
          key[i] += weight * x;
          square[i] += weight * x * x;
        }
        for (size_t i = 0; i < d_v; ++i) value[i] += weight * static_cast<double>(token.v[i]);
      }
      std::vector<float> key_mean(d_k), value_mean(d_v);
      state.Means(key_mean, value_mean);
      EXPECT_NEAR(state.mass, mass, 1e-4 * mass);
      double spread = 0;
      for (size_t i = 0; i < d_k; ++i) {
        EXPECT_NEAR(key_mean[i], key[i] / mass, 1e-4);
        spread += square[i] / mass - key[i] / mass * key[i] / mass;
      }
      for (size_t i = 0; i < d_v; ++i) EXPECT_NEAR(value_mean[i], value[i] / mass, 1e-4);
      EXPECT_NEAR(state.Spread(), spread / static_cast<double>(d_k), 1e-4);
    }
  }
}

TEST(StatesTest, OneByOneEqualsInBatchAndMassIsTheNumberOfTokens) {
  for (const auto& [d_k, d_v] : kShapes) {
    Random random(d_k);
    const size_t n = 64;
    const std::vector<Token> tokens = RandomTokens(random, n, d_k, d_v);
    StateSums one_by_one(d_k, d_v);
    StateSums halves[2] = {StateSums(d_k, d_v), StateSums(d_k, d_v)};
    for (size_t i = 0; i < n; ++i) {
      one_by_one.Retain(1.0f);
      one_by_one.Absorb(tokens[i].k, tokens[i].v);
      halves[i % 2].Absorb(tokens[i].k, tokens[i].v);
      EXPECT_EQ(one_by_one.mass, static_cast<float>(i + 1));
    }
    halves[0].Merge(halves[1]);
    EXPECT_EQ(halves[0].mass, static_cast<float>(n));
    ExpectNear(one_by_one, halves[0], SumBound(n, 20));
  }
}

TEST(StatesTest, SubtractTakesBackWhatWasAbsorbed) {
  for (const auto& [d_k, d_v] : kShapes) {
    Random random(d_k + 1);
    const size_t n = 50;
    const std::vector<Token> tokens = RandomTokens(random, n, d_k, d_v);
    StateSums state(d_k, d_v);
    for (size_t i = 0; i < n / 2; ++i) state.Absorb(tokens[i].k, tokens[i].v);
    const StateSums before = state;
    for (size_t i = n / 2; i < n; ++i) state.Absorb(tokens[i].k, tokens[i].v, 0.7f);
    for (size_t i = n; i-- > n / 2;) state.Subtract(tokens[i].k, tokens[i].v, 0.7f);
    ExpectNear(state, before, SumBound(n, 20));
  }
}

TEST(StatesTest, RetainScalesEverySumAndKeepsMeans) {
  Random random(3);
  const std::vector<Token> tokens = RandomTokens(random, 20, 9, 4);
  StateSums state(9, 4);
  for (const Token& token : tokens) state.Absorb(token.k, token.v);
  const StateSums before = state;
  state.Retain(0.25f);  // Exact in floating point.
  EXPECT_EQ(state.mass, 0.25f * before.mass);
  for (size_t i = 0; i < 9; ++i) {
    EXPECT_EQ(state.key_sum[i], 0.25f * before.key_sum[i]);
    EXPECT_EQ(state.key_square[i], 0.25f * before.key_square[i]);
  }
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(state.value_sum[i], 0.25f * before.value_sum[i]);
  EXPECT_NEAR(state.Spread(), before.Spread(), 1e-6);
}

TEST(StatesTest, FromMeansIsTheReverseOfMeansAndSpread) {
  Random random(4);
  const Token token = RandomTokens(random, 1, 12, 7).front();
  const StateSums state = StateSums::FromMeans(token.k, token.v, 17.0f, 0.5f);
  std::vector<float> k(12), v(7);
  state.Means(k, v);
  ExpectNear(k, token.k, 1e-5);
  ExpectNear(v, token.v, 1e-5);
  EXPECT_EQ(state.mass, 17.0f);
  EXPECT_NEAR(state.Spread(), 0.5, 1e-5);
  // One token has no variance, even if rounding would make it negative.
  EXPECT_GE(Single(token, 0).Spread(), 0.0f);
  EXPECT_NEAR(Single(token, 0).Spread(), 0.0, 1e-6);
}

TEST(StatesTest, TheHeavierPartGivesTheIndex) {
  StateSums light = StateSums::FromMeans(std::vector<float>{1}, std::vector<float>{1}, 1, 0);
  StateSums heavy = StateSums::FromMeans(std::vector<float>{2}, std::vector<float>{2}, 5, 0);
  light.index = 10;
  heavy.index = 20;
  StateSums merged = light;
  merged.Merge(heavy);
  EXPECT_EQ(merged.index, 20u);
  merged = heavy;
  merged.Merge(light);
  EXPECT_EQ(merged.index, 20u);
}

// The sum of weighted squared distances of tokens to their mean.
double SquaredError(const std::vector<Token>& tokens, const StateMetric& metric) {
  const auto error = [&tokens](std::vector<float> Token::*part) {
    double total = 0;
    for (size_t i = 0; i < (tokens.front().*part).size(); ++i) {
      double mean = 0;
      for (const Token& token : tokens) mean += static_cast<double>((token.*part)[i]);
      mean /= static_cast<double>(tokens.size());
      for (const Token& token : tokens) {
        const double difference = static_cast<double>((token.*part)[i]) - mean;
        total += difference * difference;
      }
    }
    return total;
  };
  return static_cast<double>(metric.key_weight) * error(&Token::k) +
         static_cast<double>(metric.value_weight) * error(&Token::v);
}

TEST(StatesTest, MergeCostIsTheIncreaseOfSquaredError) {
  for (const auto& [d_k, d_v] : kShapes) {
    for (uint64_t seed = 0; seed < 10; ++seed) {
      Random random(seed);
      const std::vector<Token> a = RandomTokens(random, 1 + random.NextBelow(9), d_k, d_v, 0.0);
      const std::vector<Token> b = RandomTokens(random, 1 + random.NextBelow(9), d_k, d_v, 1.0);
      const StateMetric metric{.key_weight = static_cast<float>(random.NextDouble()),
                               .value_weight = static_cast<float>(random.NextDouble())};
      std::vector<Token> both = a;
      both.insert(both.end(), b.begin(), b.end());
      const double expected =
          SquaredError(both, metric) - SquaredError(a, metric) - SquaredError(b, metric);
      const StateSums x = Total(Singles(a));
      const StateSums y = Total(Singles(b));
      EXPECT_NEAR(MergeCost(x, y, metric), expected, 1e-4 * (1 + expected));
      EXPECT_EQ(MergeCost(x, y, metric), MergeCost(y, x, metric));
    }
  }
}

// The inputs of each output state add up to it.
void ExpectPartition(const std::vector<StateSums>& before, const std::vector<StateSums>& after,
                     const std::vector<size_t>& went) {
  ASSERT_EQ(went.size(), before.size());
  std::vector<StateSums> sums;
  for (const StateSums& state : after) {
    sums.emplace_back(state.key_sum.size(), state.value_sum.size());
  }
  std::vector<std::set<uint32_t>> members(after.size());
  for (size_t i = 0; i < before.size(); ++i) {
    ASSERT_LT(went[i], after.size());
    sums[went[i]].Merge(before[i]);
    members[went[i]].insert(before[i].index);
  }
  for (size_t c = 0; c < after.size(); ++c) {
    EXPECT_FALSE(members[c].empty()) << "an empty state";
    EXPECT_TRUE(members[c].contains(after[c].index)) << "named for a token of another one";
    ExpectNear(sums[c], after[c], SumBound(before.size(), 20));
  }
}

TEST(StatesTest, ClusterConservesMassAndNeverExceedsTheLimit) {
  for (const auto& [d_k, d_v] : kShapes) {
    for (uint64_t seed = 0; seed < 6; ++seed) {
      Random random(seed * 31 + d_k);
      const size_t n = 1 + random.NextBelow(60);
      std::vector<StateSums> states = Singles(RandomTokens(random, n, d_k, d_v));
      for (StateSums& state : states) {
        if (random.NextBelow(3) == 0) state.Retain(static_cast<float>(1 + random.NextBelow(9)));
      }
      const std::vector<StateSums> before = states;
      const size_t limit = 1 + random.NextBelow(n + 5);
      const std::vector<float> errors = ClusterErrors(states, limit, {});
      const std::vector<size_t> went = Cluster(states, limit, {});
      EXPECT_LE(states.size(), limit);
      ExpectPartition(before, states, went);
      // The errors are those of the resulting clusters.
      ASSERT_EQ(errors.size(), n);
      for (size_t i = 0; i < n; ++i) {
        std::vector<float> k(d_k), v(d_v), k_mean(d_k), v_mean(d_v);
        before[i].Means(k, v);
        states[went[i]].Means(k_mean, v_mean);
        double error = 0;
        for (size_t e = 0; e < d_k; ++e) {
          error += std::pow(static_cast<double>(k[e]) - static_cast<double>(k_mean[e]), 2);
        }
        for (size_t e = 0; e < d_v; ++e) {
          error += std::pow(static_cast<double>(v[e]) - static_cast<double>(v_mean[e]), 2);
        }
        error *= static_cast<double>(before[i].mass);
        EXPECT_NEAR(errors[i], error, 1e-3 * (1 + error));
      }
    }
  }
}

TEST(StatesTest, ClusterWithRoomForAllChangesNothing) {
  Random random(9);
  for (const size_t limit : {10, 11, 1000}) {
    std::vector<StateSums> states = Singles(RandomTokens(random, 10, 5, 3));
    const std::vector<StateSums> before = states;
    for (const float error : ClusterErrors(states, limit, {})) EXPECT_EQ(error, 0.0f);
    const std::vector<size_t> went = Cluster(states, limit, {});
    ASSERT_EQ(states.size(), 10u);
    for (size_t i = 0; i < 10; ++i) {
      EXPECT_EQ(went[i], i);
      EXPECT_EQ(states[i].key_sum, before[i].key_sum);
      EXPECT_EQ(states[i].index, before[i].index);
    }
  }
}

TEST(StatesTest, ClusterFindsWellSeparatedGroups) {
  for (uint64_t seed = 0; seed < 10; ++seed) {
    Random random(seed);
    const size_t n_groups = 2 + random.NextBelow(6);
    const size_t d = 8;
    std::vector<Token> centres = RandomTokens(random, n_groups, d, d);
    for (Token& centre : centres) {
      for (float& x : centre.k) x *= 100;
      for (float& x : centre.v) x *= 100;
    }
    std::vector<size_t> group;
    std::vector<Token> tokens = RandomTokens(random, 12 * n_groups, d, d);
    for (size_t t = 0; t < tokens.size(); ++t) {
      group.push_back(t < n_groups ? t : random.NextBelow(n_groups));
      for (size_t i = 0; i < d; ++i) {
        tokens[t].k[i] += centres[group[t]].k[i];
        tokens[t].v[i] += centres[group[t]].v[i];
      }
    }
    std::vector<StateSums> states = Singles(tokens);
    const std::vector<size_t> went = Cluster(states, n_groups, {});
    EXPECT_EQ(states.size(), n_groups);
    for (size_t a = 0; a < tokens.size(); ++a) {
      for (size_t b = 0; b < a; ++b) {
        ASSERT_EQ(went[a] == went[b], group[a] == group[b]) << "seed " << seed;
      }
    }
  }
}

TEST(StatesTest, CopiesOfOneTokenAreOneCluster) {
  Random random(2);
  const Token token = RandomTokens(random, 1, 6, 6).front();
  for (const size_t limit : {7, 2}) {  // in pairs, and by k-means
    std::vector<StateSums> states;
    for (uint32_t i = 0; i < 20; ++i) states.push_back(Single(token, i));
    Cluster(states, limit, {});
    ASSERT_EQ(states.size(), 1u);
    EXPECT_EQ(states.front().mass, 20.0f);
  }
}

// Cluster() for few states, by MergeCost() of all pairs each time.
TEST(StatesTest, FewStatesMergeByTheCheapestPair) {
  const StateMetric metric{.key_weight = 0.3f, .value_weight = 0.5f};
  for (const auto& [d_k, d_v] : kShapes) {
    for (uint64_t seed = 0; seed < 8; ++seed) {
      SCOPED_TRACE(testing::Message() << d_k << "+" << d_v << ", seed " << seed);
      Random random(seed * 17 + d_v);
      const size_t n = 2 + random.NextBelow(40);
      const size_t limit = (n + 3) / 4 + random.NextBelow(n);
      std::vector<StateSums> states = Singles(RandomTokens(random, n, d_k, d_v));
      for (StateSums& state : states) {
        if (random.NextBelow(3) == 0) state.Retain(static_cast<float>(1 + random.NextBelow(30)));
      }
      std::vector<StateSums> expected = states;
      std::vector<size_t> place(n);
      std::iota(place.begin(), place.end(), size_t{0});
      while (expected.size() > limit) {
        size_t a = 0;
        size_t b = 1;
        for (size_t i = 0; i < expected.size(); ++i) {
          for (size_t j = i + 1; j < expected.size(); ++j) {
            if (MergeCost(expected[i], expected[j], metric) <
                MergeCost(expected[a], expected[b], metric)) {
              a = i;
              b = j;
            }
          }
        }
        expected[a].Merge(expected[b]);
        expected.erase(expected.begin() + static_cast<ptrdiff_t>(b));
        for (size_t& at : place) {
          if (at == b) {
            at = a;
          } else if (at > b) {
            --at;
          }
        }
      }
      const std::vector<size_t> went = Cluster(states, limit, metric);
      ASSERT_EQ(states.size(), expected.size());
      for (size_t i = 0; i < n; ++i) {
        for (size_t j = 0; j < i; ++j) ASSERT_EQ(went[i] == went[j], place[i] == place[j]);
      }
    }
  }
}

// A damaged state damages no other.
TEST(StatesTest, WhatIsNoNumberIsMergedLast) {
  for (const size_t damaged : {0, 5, 11}) {
    Random random(damaged);
    std::vector<StateSums> states = Singles(RandomTokens(random, 12, 6, 6));
    states[damaged].key_sum[2] = std::numeric_limits<float>::quiet_NaN();
    const std::vector<size_t> went = Cluster(states, 5, {});
    ASSERT_EQ(states.size(), 5u);
    EXPECT_EQ(std::ranges::count(went, went[damaged]), 1);
  }
}

// Pictures of ten tokens each.
bool SamePicture(const void*, uint32_t a, uint32_t b) { return a / 10 == b / 10; }

TEST(StatesTest, MergeNeighboursTakesOnlyAllowedPairsWhileThereAreSome) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Random random(seed);
    std::vector<StateSums> states = Singles(RandomTokens(random, 40, 5, 6));
    for (size_t i = states.size(); i > 1; --i) {
      std::swap(states[i - 1], states[random.NextBelow(i)]);
    }
    const std::vector<StateSums> before = states;
    const size_t limit = 1 + random.NextBelow(45);
    const std::vector<size_t> went = MergeNeighbours(states, limit, {}, SamePicture, nullptr);
    EXPECT_EQ(states.size(), std::min<size_t>(limit, 40));
    ExpectPartition(before, states, went);
    EXPECT_TRUE(std::ranges::is_sorted(states, {}, &StateSums::index));
    if (limit < 4) continue;
    for (size_t a = 0; a < 40; ++a) {
      for (size_t b = 0; b < a; ++b) {
        if (went[a] == went[b]) {
          ASSERT_EQ(before[a].index / 10, before[b].index / 10);
        }
      }
    }
  }
}

// A plain model: recompute all costs, merge the cheapest allowed pair, repeat.
TEST(StatesTest, MergeNeighboursMergesTheCheapestFirst) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Random random(seed + 100);
    const std::vector<Token> tokens = RandomTokens(random, 30, 4, 4);
    const StateMetric metric{.key_weight = 0.5f, .value_weight = 2.0f};
    std::vector<StateSums> states = Singles(tokens);
    const size_t limit = 1 + random.NextBelow(20);
    std::vector<std::vector<size_t>> model;  // consecutive groups
    for (size_t i = 0; i < tokens.size(); ++i) model.push_back({i});
    const auto error = [&](const std::vector<size_t>& group) {
      std::vector<Token> members;
      for (const size_t i : group) members.push_back(tokens[i]);
      return SquaredError(members, metric);
    };
    while (model.size() > limit) {
      size_t best = 0;
      double least = std::numeric_limits<double>::infinity();
      bool best_allowed = false;
      for (size_t i = 0; i + 1 < model.size(); ++i) {
        const bool allowed = model[i].back() / 10 == model[i + 1].front() / 10;
        std::vector<size_t> both = model[i];
        both.insert(both.end(), model[i + 1].begin(), model[i + 1].end());
        const double cost = error(both) - error(model[i]) - error(model[i + 1]);
        if (allowed < best_allowed || (allowed == best_allowed && cost >= least)) continue;
        best_allowed = allowed;
        least = cost;
        best = i;
      }
      model[best].insert(model[best].end(), model[best + 1].begin(), model[best + 1].end());
      model.erase(model.begin() + static_cast<ptrdiff_t>(best) + 1);
      // The heavier half names a group of several pictures; the model does not cover that.
      if (model.size() == 3) break;
    }
    const std::vector<size_t> went =
        MergeNeighbours(states, std::max<size_t>(limit, 3), metric, SamePicture, nullptr);
    ASSERT_EQ(states.size(), model.size());
    for (size_t m = 0; m < model.size(); ++m) {
      for (const size_t i : model[m]) ASSERT_EQ(went[i], m) << "seed " << seed;
    }
  }
}

}  // namespace
}  // namespace rkv
