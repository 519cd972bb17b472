#include "kernels/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>
#include <vector>

#include "base/f16.h"
#include "base/random.h"
#include "support/each_target.h"
#include "support/rounded_query.h"

namespace rkv {
namespace {

constexpr uint16_t kNan16 = 0x7E00;

// One random problem: rows are padded with NaN up to a stride that breaks alignment.
struct Problem {
  HeadShape shape;
  size_t n_tokens = 0;
  size_t n_queries = 0;
  size_t k_stride = 0;
  size_t v_stride = 0;
  std::vector<uint16_t> k, v;
  std::vector<float> q;
  std::vector<size_t> visible;
  std::vector<float> sinks;
};

Problem RandomProblem(Random& random, size_t d_k, size_t d_v, size_t n_tokens, size_t n_queries) {
  Problem p;
  p.shape = {.d_k = d_k, .d_v = d_v, .scale = 1.0f / std::sqrt(static_cast<float>(d_k))};
  if (random.NextBelow(3) == 0) p.shape.softcap = 20.0f;
  p.n_tokens = n_tokens;
  p.n_queries = n_queries;
  p.k_stride = d_k + random.NextBelow(4);
  p.v_stride = d_v + random.NextBelow(4);
  p.k.assign(n_tokens * p.k_stride, kNan16);
  p.v.assign(n_tokens * p.v_stride, kNan16);
  for (size_t t = 0; t < n_tokens; ++t) {
    for (size_t i = 0; i < d_k; ++i) {
      p.k[t * p.k_stride + i] = F16FromF32(static_cast<float>(2.0 * random.NextGaussian()));
    }
    for (size_t i = 0; i < d_v; ++i) {
      p.v[t * p.v_stride + i] = F16FromF32(static_cast<float>(random.NextGaussian()));
    }
  }
  for (size_t i = 0; i < n_queries * d_k; ++i) {
    p.q.push_back(static_cast<float>(2.0 * random.NextGaussian()));
  }
  for (size_t i = 0; i < n_queries; ++i) {
    p.visible.push_back(random.NextBelow(n_tokens + 1));
    p.sinks.push_back(static_cast<float>(random.NextGaussian()));
  }
  return p;
}

double ReferenceLogit(const Problem& p, size_t query, size_t token) {
  double dot = 0;
  for (size_t i = 0; i < p.shape.d_k; ++i) {
    dot += static_cast<double>(p.q[query * p.shape.d_k + i]) *
           static_cast<double>(F32FromF16(p.k[token * p.k_stride + i]));
  }
  const double logit = static_cast<double>(p.shape.scale) * dot;
  const double cap = static_cast<double>(p.shape.softcap);
  return cap == 0 ? logit : cap * std::tanh(logit / cap);
}

// Plain softmax attention in double precision: softmax(scale q K^T [softcap]) V.
std::vector<double> Reference(const Problem& p, size_t query, bool masked, bool with_sink) {
  const size_t n = masked ? p.visible[query] : p.n_tokens;
  std::vector<double> logits;
  double max =
      with_sink ? static_cast<double>(p.sinks[query]) : -std::numeric_limits<double>::infinity();
  for (size_t t = 0; t < n; ++t) {
    logits.push_back(ReferenceLogit(p, query, t));
    max = std::max(max, logits.back());
  }
  double sum = with_sink ? std::exp(static_cast<double>(p.sinks[query]) - max) : 0;
  std::vector<double> out(p.shape.d_v, 0.0);
  for (size_t t = 0; t < n; ++t) {
    const double weight = std::exp(logits[t] - max);
    sum += weight;
    for (size_t i = 0; i < p.shape.d_v; ++i) {
      out[i] += weight * static_cast<double>(F32FromF16(p.v[t * p.v_stride + i]));
    }
  }
  for (double& x : out) x = sum > 0 ? x / sum : 0.0;
  return out;
}

// Runs the kernel with the tokens fed in one or in several spans.
std::vector<float> RunKernel(const Problem& p, bool masked, bool with_sink, size_t span_tokens) {
  const size_t d_v = p.shape.d_v;
  std::vector<float> acc(p.n_queries * d_v), max(p.n_queries), sum(p.n_queries);
  std::vector<float> scratch(AttentionScratchFloats(p.shape.d_k, d_v),
                             std::numeric_limits<float>::quiet_NaN());
  std::vector<float> out(p.n_queries * d_v, std::numeric_limits<float>::quiet_NaN());
  std::vector<const float*> rows;
  std::vector<float*> out_rows;
  for (size_t i = 0; i < p.n_queries; ++i) {
    rows.push_back(p.q.data() + i * p.shape.d_k);
    out_rows.push_back(out.data() + i * d_v);
  }
  const SoftmaxState state{.acc = acc.data(), .max = max.data(), .sum = sum.data()};
  const QueryBlock queries{.rows = rows.data(), .n = p.n_queries};
  ResetSoftmax(p.n_queries, d_v, state);
  for (size_t begin = 0; begin < p.n_tokens; begin += span_tokens) {
    const KvSpan span{.k = p.k.data() + begin * p.k_stride,
                      .v = p.v.data() + begin * p.v_stride,
                      .k_stride = 2 * p.k_stride,
                      .v_stride = 2 * p.v_stride,
                      .n = std::min(span_tokens, p.n_tokens - begin)};
    std::vector<size_t> visible;
    for (size_t v : p.visible) visible.push_back(v > begin ? v - begin : 0);
    AttendSpan(p.shape, queries, span, masked ? visible.data() : nullptr, state, scratch.data());
  }
  FinishSoftmax(p.n_queries, d_v, state, with_sink ? p.sinks.data() : nullptr, out_rows.data());
  return out;
}

void ExpectNearReference(const Problem& p, bool masked, bool with_sink, size_t span_tokens) {
  const std::vector<float> out = RunKernel(p, masked, with_sink, span_tokens);
  for (size_t i = 0; i < p.n_queries; ++i) {
    const std::vector<double> expected = Reference(p, i, masked, with_sink);
    for (size_t j = 0; j < p.shape.d_v; ++j) {
      // Values are Gaussian, so max|v| is a few units; 4 keeps the bound strict.
      ASSERT_NEAR(static_cast<double>(out[i * p.shape.d_v + j]), expected[j],
                  4 * kAttentionErrorBound)
          << "query " << i << " element " << j << " d_k " << p.shape.d_k << " tokens " << p.n_tokens
          << " masked " << masked << " sink " << with_sink;
    }
  }
}

TEST(AttentionTest, MatchesDoubleReferenceOnRandomShapes) {
  ForEachTarget([] {
    Random random(7);
    for (const size_t d : {32, 64, 80, 96, 128, 256, 33, 7, 1}) {
      for (const size_t n : {1, 2, 63, 64, 65, 200}) {
        const size_t n_queries = 1 + random.NextBelow(kMaxQueryRows);
        const size_t d_v = random.NextBelow(2) == 0 ? d : d + 16;
        const Problem p = RandomProblem(random, d, d_v, n, n_queries);
        ExpectNearReference(p, false, false, n);
        ExpectNearReference(p, true, true, n);
        ExpectNearReference(p, true, false, 1 + random.NextBelow(n));
      }
    }
  });
}

TEST(AttentionTest, LongContextStaysWithinTheBound) {
  Random random(11);
  const Problem p = RandomProblem(random, 128, 128, 4096, 4);
  ExpectNearReference(p, false, false, 4096);
  ExpectNearReference(p, false, true, 1000);
}

TEST(AttentionTest, OneQueryGivesTheSameBitsAloneAndInABlock) {
  ForEachTarget([] {
    Random random(3);
    const Problem block = RandomProblem(random, 80, 80, 150, 9);
    const std::vector<float> together = RunKernel(block, true, false, 150);
    for (size_t i = 0; i < block.n_queries; ++i) {
      Problem alone = block;
      alone.n_queries = 1;
      alone.q.assign(block.q.begin() + static_cast<ptrdiff_t>(i * 80),
                     block.q.begin() + static_cast<ptrdiff_t>((i + 1) * 80));
      alone.visible = {block.visible[i]};
      const std::vector<float> single = RunKernel(alone, true, false, 150);
      for (size_t j = 0; j < 80; ++j) ASSERT_EQ(single[j], together[i * 80 + j]);
    }
  });
}

TEST(AttentionTest, SeeingNothingGivesZeros) {
  Random random(5);
  Problem p = RandomProblem(random, 64, 64, 10, 2);
  p.visible = {0, 0};
  for (const float x : RunKernel(p, true, false, 10)) EXPECT_EQ(x, 0.0f);
  for (const float x : RunKernel(p, true, true, 10)) EXPECT_EQ(x, 0.0f);
}

TEST(AttentionTest, HugeLogitsDoNotOverflow) {
  Random random(13);
  Problem p = RandomProblem(random, 64, 64, 100, 3);
  p.shape.softcap = 0.0f;
  p.shape.scale = 40.0f;  // Logits in the thousands: the softmax is one-hot.
  ExpectNearReference(p, false, false, 100);
}

// Attention over rows of any element type, some of them states, against a double reference over the
// decoded rows.
struct TypedProblem {
  HeadShape shape;
  KvSpan span;
  size_t n_queries = 0;
  std::vector<uint8_t> k_rows, v_rows;
  std::vector<float> k, v, q, bias, half_norm, log_mass, spread;
  std::vector<size_t> visible;
};

TypedProblem RandomTypedProblem(Random& random, ElementType k_type, ElementType v_type, size_t d_k,
                                size_t d_v, size_t n) {
  TypedProblem p;
  p.shape = {.d_k = d_k, .d_v = d_v, .scale = 1.0f / std::sqrt(static_cast<float>(d_k))};
  if (random.NextBelow(3) == 0) p.shape.softcap = 20.0f;
  p.n_queries = 1 + random.NextBelow(kMaxQueryRows);
  const auto make = [&](ElementType type, size_t d, size_t stride, std::vector<uint8_t>& rows,
                        std::vector<float>& decoded) {
    rows.assign(n * stride, 0xFF);
    decoded.resize(n * d);
    for (size_t t = 0; t < n; ++t) {
      float* row = decoded.data() + t * d;
      for (size_t i = 0; i < d; ++i) row[i] = static_cast<float>(random.NextGaussian());
      EncodeRow(type, row, d, rows.data() + t * stride);
      DecodeRow(type, rows.data() + t * stride, d, row);
    }
    return stride;
  };
  const size_t gap = 2 * random.NextBelow(3);
  p.span = {.k_type = k_type, .v_type = v_type, .n = n};
  p.span.k_stride = make(k_type, d_k, RowBytes(k_type, d_k) + gap, p.k_rows, p.k);
  p.span.v_stride = make(v_type, d_v, RowBytes(v_type, d_v) + gap, p.v_rows, p.v);
  p.span.k = p.k_rows.data();
  p.span.v = p.v_rows.data();
  for (size_t i = 0; i < p.n_queries * d_k; ++i) {
    p.q.push_back(static_cast<float>(2.0 * random.NextGaussian()));
  }
  for (size_t i = 0; i < p.n_queries; ++i) {
    p.bias.push_back(static_cast<float>(3.0 * random.NextGaussian()));
    // Large enough that some states' variance term is clipped.
    p.half_norm.push_back(static_cast<float>(2.0 * random.NextDouble()));
    p.visible.push_back(random.NextBelow(n + 1));
  }
  for (size_t t = 0; t < n; ++t) {
    p.log_mass.push_back(static_cast<float>(std::log(1.0 + 100.0 * random.NextDouble())));
    p.spread.push_back(static_cast<float>(4.0 * random.NextDouble()));
  }
  return p;
}

double ValueErrorBound(ElementType v_type) {
  return kAttentionErrorBound + (IsQuantized(v_type) ? kWeightErrorBound : 0.0);
}

// The optional parts in use.
struct Parts {
  bool bias = false;
  bool mass = false;
  bool spread = false;
  bool masked = false;
};

double TypedLogit(const TypedProblem& p, const Parts& parts, size_t query, size_t row) {
  double dot = parts.bias ? static_cast<double>(p.bias[query]) : 0.0;
  for (size_t i = 0; i < p.shape.d_k; ++i) {
    dot += static_cast<double>(p.q[query * p.shape.d_k + i]) *
           static_cast<double>(p.k[row * p.shape.d_k + i]);
  }
  double logit = static_cast<double>(p.shape.scale) * dot;
  const auto cap = static_cast<double>(p.shape.softcap);
  if (cap != 0) logit = cap * std::tanh(logit / cap);
  if (parts.mass) logit += static_cast<double>(p.log_mass[row]);
  if (parts.mass && parts.spread) {
    logit += std::min(static_cast<double>(p.spread[row]) * static_cast<double>(p.half_norm[query]),
                      static_cast<double>(kMaxSpreadLogit));
  }
  return logit;
}

struct TypedResult {
  std::vector<float> out;     // [queries, d_v]
  std::vector<float> logits;  // [queries, rows]
};

TypedResult RunTyped(const TypedProblem& p, const Parts& parts) {
  const size_t d_v = p.shape.d_v;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> acc(p.n_queries * d_v), max(p.n_queries), sum(p.n_queries);
  std::vector<float> scratch(AttentionScratchFloats(p.shape.d_k, d_v), nan);
  TypedResult result{.out = std::vector(p.n_queries * d_v, nan),
                     .logits = std::vector(p.n_queries * p.span.n, nan)};
  std::vector<const float*> rows;
  std::vector<float*> out_rows, logit_rows;
  for (size_t i = 0; i < p.n_queries; ++i) {
    rows.push_back(p.q.data() + i * p.shape.d_k);
    out_rows.push_back(result.out.data() + i * d_v);
    logit_rows.push_back(result.logits.data() + i * p.span.n);
  }
  KvSpan span = p.span;
  span.k = p.k_rows.data();
  span.v = p.v_rows.data();
  if (parts.mass) span.log_mass = p.log_mass.data();
  if (parts.spread) span.spread = p.spread.data();
  const SoftmaxState state{.acc = acc.data(), .max = max.data(), .sum = sum.data()};
  ResetSoftmax(p.n_queries, d_v, state);
  AttendSpan(p.shape,
             {.rows = rows.data(),
              .n = p.n_queries,
              .bias = parts.bias ? p.bias.data() : nullptr,
              .half_norm = parts.spread ? p.half_norm.data() : nullptr,
              .logits = logit_rows.data()},
             span, parts.masked ? p.visible.data() : nullptr, state, scratch.data());
  FinishSoftmax(p.n_queries, d_v, state, nullptr, out_rows.data());
  return result;
}

void ExpectTypedNearReference(const TypedProblem& unrounded, const Parts& parts) {
  const auto [out, logits] = RunTyped(unrounded, parts);
  TypedProblem p = unrounded;
  for (size_t i = 0; i < p.n_queries; ++i) {
    RoundQuery(p.span.k_type, std::span(p.q).subspan(i * p.shape.d_k, p.shape.d_k));
  }
  const size_t d_v = p.shape.d_v;
  double v_max = 1;
  for (const float x : p.v) v_max = std::max(v_max, std::abs(static_cast<double>(x)));
  for (size_t i = 0; i < p.n_queries; ++i) {
    const size_t n = parts.masked ? p.visible[i] : p.span.n;
    std::vector<double> expected(d_v);
    double largest = -std::numeric_limits<double>::infinity();
    for (size_t t = 0; t < n; ++t) largest = std::max(largest, TypedLogit(p, parts, i, t));
    double total = 0;
    for (size_t t = 0; t < n; ++t) {
      const double logit = TypedLogit(p, parts, i, t);
      ASSERT_NEAR(logits[i * p.span.n + t], logit, 1e-5 * (1 + std::abs(logit)))
          << ToString(p.span.k_type);
      const double weight = std::exp(logit - largest);
      total += weight;
      for (size_t j = 0; j < d_v; ++j) {
        expected[j] += weight * static_cast<double>(p.v[t * d_v + j]);
      }
    }
    for (size_t t = n; t < p.span.n; ++t) {
      ASSERT_EQ(logits[i * p.span.n + t], -std::numeric_limits<float>::infinity());
    }
    for (size_t j = 0; j < d_v; ++j) {
      ASSERT_NEAR(out[i * d_v + j], n > 0 ? expected[j] / total : 0.0,
                  v_max * ValueErrorBound(p.span.v_type))
          << ToString(p.span.k_type) << " " << ToString(p.span.v_type);
    }
  }
}

TEST(AttentionTest, EveryElementTypeAttendsAsWhatItsRowsDecodeTo) {
  ForEachTarget([] {
    Random random(17);
    for (size_t k_type = 0; k_type < kElementTypes; ++k_type) {
      for (size_t v_type = 0; v_type < kElementTypes; ++v_type) {
        for (const size_t n : {1, 15, 17, 33, 64, 130}) {
          const size_t sizes[] = {1, 7, 32, 33, 64, 80, 96, 128, 160, 256};
          const TypedProblem p = RandomTypedProblem(
              random, static_cast<ElementType>(k_type), static_cast<ElementType>(v_type),
              sizes[random.NextBelow(10)], sizes[random.NextBelow(10)], n);
          ExpectTypedNearReference(p, {});
          ExpectTypedNearReference(p, {.masked = true});
        }
      }
    }
  });
}

// Codes of a row: all lowest, all highest, or a mixture, which EncodeRow() rarely produces.
void MakeExtreme(ElementType type, Random& random, size_t d, uint8_t* row) {
  const size_t header = HasScaleByte(type) ? 1 : 2;
  const uint64_t kind = random.NextBelow(3);
  for (size_t at = 0; at < RowBytes(type, d); at += UnitBytes(type)) {
    for (size_t i = header; i < UnitBytes(type); ++i) {
      const bool high = kind == 2 ? random.NextBelow(2) == 0 : kind == 0;
      const uint8_t low = type == ElementType::kQ8_0 ? 0x80 : 0;
      row[at + i] = high ? static_cast<uint8_t>(low - 1) : low;
    }
  }
}

TEST(AttentionTest, SumsOfTheLargestCodesAndQueriesFit) {
  ForEachTarget([] {
    Random random(41);
    for (const ElementType type : {ElementType::kQ8_0, ElementType::kQ4_0, ElementType::kQ4,
                                   ElementType::kQ3, ElementType::kQ2, ElementType::kQ1}) {
      for (const size_t d : {32, 128, 256}) {
        TypedProblem p = RandomTypedProblem(random, type, type, d, d, 70);
        for (size_t t = 0; t < p.span.n; ++t) {
          MakeExtreme(type, random, d, p.k_rows.data() + t * p.span.k_stride);
          MakeExtreme(type, random, d, p.v_rows.data() + t * p.span.v_stride);
          DecodeRow(type, p.k_rows.data() + t * p.span.k_stride, d, p.k.data() + t * d);
          DecodeRow(type, p.v_rows.data() + t * p.span.v_stride, d, p.v.data() + t * d);
        }
        for (size_t i = 0; i < p.q.size(); ++i) {
          const uint64_t kind = i / d % 3;
          p.q[i] = kind == 0 || (kind == 2 && random.NextBelow(2) == 0) ? 0.5f : -0.5f;
        }
        ExpectTypedNearReference(p, {});
      }
    }
  });
}

TEST(AttentionTest, OneQueryGivesTheSameBitsAloneAndInABlockOfEveryType) {
  ForEachTarget([] {
    Random random(43);
    for (size_t type = 0; type < kElementTypes; ++type) {
      const auto element = static_cast<ElementType>(type);
      const TypedProblem block = RandomTypedProblem(random, element, element, 96, 64, 150);
      const TypedResult together = RunTyped(block, {.masked = true});
      const size_t most = *std::ranges::max_element(block.visible);
      for (size_t i = 0; i < block.n_queries; ++i) {
        TypedProblem alone = block;
        alone.n_queries = 1;
        const auto begin = block.q.begin() + static_cast<ptrdiff_t>(i * 96);
        alone.q.assign(begin, begin + 96);
        alone.visible = {block.visible[i]};
        const TypedResult single = RunTyped(alone, {.masked = true});
        // Rows visible to other queries also affect the rounding of weights.
        for (size_t j = 0; j < 64 && block.visible[i] == most; ++j) {
          ASSERT_EQ(single.out[j], together.out[i * 64 + j]) << ToString(element);
        }
        for (size_t t = 0; t < 150; ++t) {
          ASSERT_EQ(single.logits[t], together.logits[i * 150 + t]) << ToString(element);
        }
      }
    }
  });
}

TEST(AttentionTest, QueriesThatAreNoNumbersSeeNothing) {
  ForEachTarget([] {
    Random random(47);
    for (size_t type = 0; type < kElementTypes; ++type) {
      const auto element = static_cast<ElementType>(type);
      TypedProblem p = RandomTypedProblem(random, element, element, 80, 32, 40);
      p.n_queries = 4;
      p.q.assign(4 * 80, 1.0f);
      p.q[random.NextBelow(80)] = std::numeric_limits<float>::quiet_NaN();
      p.q[80 + random.NextBelow(80)] = -std::numeric_limits<float>::infinity();
      std::fill(p.q.begin() + 160, p.q.begin() + 240, 1e-38f);
      const TypedResult result = RunTyped(p, {});
      for (size_t t = 0; t < 40; ++t) {
        for (size_t i = 0; i < 2; ++i) {
          ASSERT_EQ(result.logits[i * 40 + t], -std::numeric_limits<float>::infinity())
              << ToString(element);
        }
        ASSERT_NEAR(result.logits[80 + t], 0.0f, 1e-30f) << ToString(element);
        ASSERT_TRUE(std::isfinite(result.logits[120 + t])) << ToString(element);
      }
      for (size_t j = 0; j < 64; ++j) ASSERT_EQ(result.out[j], 0.0f) << ToString(element);
      for (size_t j = 64; j < 128; ++j) ASSERT_TRUE(std::isfinite(result.out[j]));
    }
  });
}

// Makes every element of a row infinite or NaN, as far as its type can represent that.
void Damage(ElementType type, size_t kind, size_t d, uint8_t* row) {
  constexpr uint16_t kHalves[] = {0x7C00, 0xFC00, kNan16, 0xFFFF};
  constexpr uint16_t kBrainHalves[] = {0x7F80, 0xFF80, 0x7FC0, 0xFFFF};
  if (HasScaleByte(type)) return;
  const uint16_t half = (type == ElementType::kBF16 ? kBrainHalves : kHalves)[kind % 4];
  for (size_t at = 0; at < RowBytes(type, d); at += UnitBytes(type)) {
    std::memcpy(row + at, &half, sizeof(half));
  }
}

// Infinite or NaN rows do not affect queries that do not see them, or whose logit of them is not
// finite. Rows after a span are not read.
TEST(AttentionTest, DamagedRowsChangeNothingForWhoeverDoesNotReadThem) {
  constexpr size_t kDamaged = 5;
  ForEachTarget([&] {
    Random random(37);
    for (size_t types = 0; types < kElementTypes * kElementTypes; ++types) {
      const auto k_type = static_cast<ElementType>(types / kElementTypes);
      const auto v_type = static_cast<ElementType>(types % kElementTypes);
      const size_t n = 1 + random.NextBelow(140);
      TypedProblem whole = RandomTypedProblem(random, k_type, v_type, 40, 33, n + kDamaged);
      for (size_t& visible : whole.visible) visible = random.NextBelow(n + 1);
      TypedProblem damaged = whole;
      for (size_t t = n; t < n + kDamaged; ++t) {
        Damage(k_type, t, 40, damaged.k_rows.data() + t * whole.span.k_stride);
        Damage(v_type, t, 33, damaged.v_rows.data() + t * whole.span.v_stride);
      }
      const auto expect_alike = [&](const TypedProblem& problem, const TypedResult& expected) {
        const TypedResult actual = RunTyped(problem, {.masked = true});
        for (size_t i = 0; i < expected.out.size(); ++i) {
          // The largest value of a block, damaged or not, affects the rounding of weights.
          ASSERT_NEAR(actual.out[i], expected.out[i],
                      IsQuantized(v_type) ? 16 * kWeightErrorBound : 0.0)
              << ToString(k_type) << " " << ToString(v_type) << " rows " << n;
        }
        for (size_t i = 0; i < problem.n_queries; ++i) {
          for (size_t t = 0; t < n; ++t) {
            ASSERT_EQ(actual.logits[i * problem.span.n + t],
                      expected.logits[i * (n + kDamaged) + t]);
          }
        }
      };
      expect_alike(damaged, RunTyped(whole, {.masked = true}));
      damaged.visible.assign(damaged.n_queries, n + kDamaged);
      whole.visible.assign(whole.n_queries, n);
      const TypedResult expected = RunTyped(whole, {.masked = true});
      if (!HasScaleByte(k_type)) expect_alike(damaged, expected);
      damaged.span.n = n;
      damaged.visible = whole.visible;
      expect_alike(damaged, expected);
    }
  });
}

TEST(AttentionTest, BiasMassAndSpreadRaiseLogitsAsDefined) {
  ForEachTarget([] {
    Random random(19);
    for (int round = 0; round < 6; ++round) {
      const TypedProblem p = RandomTypedProblem(random, static_cast<ElementType>(round % 5),
                                                static_cast<ElementType>((round + 1) % 5), 48, 33,
                                                1 + random.NextBelow(150));
      for (int mask = 0; mask < 16; ++mask) {
        ExpectTypedNearReference(p, {.bias = (mask & 1) != 0,
                                     .mass = (mask & 2) != 0,
                                     .spread = (mask & 4) != 0,
                                     .masked = (mask & 8) != 0});
      }
    }
  });
}

TEST(AttentionTest, LogitsOfWhatNobodyMaySeeAreMinusInfinity) {
  ForEachTarget([] {
    Random random(23);
    TypedProblem p = RandomTypedProblem(random, ElementType::kQ8_0, ElementType::kF16, 32, 32, 200);
    p.visible.assign(p.n_queries, 0);
    ExpectTypedNearReference(p, {.masked = true});
  });
}

// A state of mass n stands for n copies of its means.
TEST(AttentionTest, AStateOfCopiesIsTheCopies) {
  Random random(29);
  const TypedProblem p =
      RandomTypedProblem(random, ElementType::kF16, ElementType::kF16, 40, 24, 12);
  TypedProblem copies = p;
  copies.k_rows.clear();
  copies.v_rows.clear();
  TypedProblem states = p;
  for (size_t t = 0; t < p.span.n; ++t) {
    const size_t n = 1 + random.NextBelow(20);
    states.log_mass[t] = std::log(static_cast<float>(n));
    for (size_t i = 0; i < n; ++i) {
      const auto append = [t](std::vector<uint8_t>& to, const std::vector<uint8_t>& from,
                              size_t stride) {
        const auto begin = from.begin() + static_cast<ptrdiff_t>(t * stride);
        to.insert(to.end(), begin, begin + static_cast<ptrdiff_t>(stride));
      };
      append(copies.k_rows, p.k_rows, p.span.k_stride);
      append(copies.v_rows, p.v_rows, p.span.v_stride);
    }
  }
  copies.span.k = copies.k_rows.data();
  copies.span.v = copies.v_rows.data();
  copies.span.n = copies.k_rows.size() / p.span.k_stride;
  const auto attend = [](const TypedProblem& problem, const float* log_mass) {
    const size_t d_v = problem.shape.d_v;
    std::vector<float> acc(d_v), out(d_v), scratch(AttentionScratchFloats(problem.shape.d_k, d_v));
    float max = 0;
    float sum = 0;
    const float* row = problem.q.data();
    float* out_row = out.data();
    KvSpan span = problem.span;
    span.log_mass = log_mass;
    const SoftmaxState state{.acc = acc.data(), .max = &max, .sum = &sum};
    ResetSoftmax(1, d_v, state);
    AttendSpan(problem.shape, {.rows = &row, .n = 1}, span, nullptr, state, scratch.data());
    FinishSoftmax(1, d_v, state, nullptr, &out_row);
    return out;
  };
  const std::vector<float> expected = attend(copies, nullptr);
  const std::vector<float> actual = attend(states, states.log_mass.data());
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(actual[i], expected[i], 2e-5);
}

// Splitting tokens into spans and partial softmaxes does not change the result.
TEST(AttentionTest, SpansAndMergedPartsMakeTheWhole) {
  ForEachTarget([] {
    Random random(31);
    for (const size_t n_queries : {1, 6, 7, 13, 24}) {
      const size_t d = 96;
      Problem p = RandomProblem(random, d, d, 300, n_queries);
      const std::vector<float> expected = RunKernel(p, false, false, 300);
      std::vector<const float*> rows;
      std::vector<float> out(n_queries * d);
      std::vector<float*> out_rows;
      for (size_t i = 0; i < n_queries; ++i) {
        rows.push_back(p.q.data() + i * d);
        out_rows.push_back(out.data() + i * d);
      }
      const auto span = [&p](size_t begin, size_t n) {
        return KvSpan{.k = p.k.data() + begin * p.k_stride,
                      .v = p.v.data() + begin * p.v_stride,
                      .k_stride = 2 * p.k_stride,
                      .v_stride = 2 * p.v_stride,
                      .n = n};
      };
      std::vector<float> memory[2];
      SoftmaxState states[2];
      std::vector<float> scratch(AttentionScratchFloats(d, d));
      const KvSpan parts[2][2] = {{span(0, 64), span(64, 7)}, {span(71, 200), span(271, 29)}};
      for (size_t i = 0; i < 2; ++i) {
        memory[i].resize(n_queries * (d + 2));
        states[i] = {.acc = memory[i].data() + 2 * n_queries,
                     .max = memory[i].data(),
                     .sum = memory[i].data() + n_queries};
        ResetSoftmax(n_queries, d, states[i]);
        AttendSpans(p.shape, {.rows = rows.data(), .n = n_queries}, parts[i], states[i],
                    scratch.data());
      }
      MergeSoftmax(n_queries, d, states[1], states[0]);
      FinishSoftmax(n_queries, d, states[0], nullptr, out_rows.data());
      for (size_t i = 0; i < out.size(); ++i) {
        ASSERT_NEAR(out[i], expected[i], 8 * kAttentionErrorBound);
      }
    }
  });
}

TEST(AttentionTest, SharesAreExponentials) {
  ForEachTarget([] {
    for (const size_t n : {1, 7, 8, 33}) {
      std::vector<float> logits(n + 1, 5.0f);
      for (size_t i = 0; i < n; ++i) logits[i] = 3.0f - 4.0f * static_cast<float>(i);
      const std::vector<float> before = logits;
      LogitsToShares(3.0f, 0.5f, std::span(logits).first(n));
      for (size_t i = 0; i < n; ++i) {
        const double expected = 0.5 * std::exp(static_cast<double>(before[i]) - 3.0);
        EXPECT_NEAR(static_cast<double>(logits[i]), expected, 1e-6 * expected + 1e-37);
      }
      EXPECT_EQ(logits[n], 5.0f);
    }
  });
}

}  // namespace
}  // namespace rkv
