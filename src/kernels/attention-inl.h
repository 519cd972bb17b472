// SIMD bodies of attention.h, compiled once per target. No include guard against re-inclusion by
// foreach_target.h other than Highway's toggle.
#if defined(RETENTIVEKV_KERNELS_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RETENTIVEKV_KERNELS_ATTENTION_INL_H_
#undef RETENTIVEKV_KERNELS_ATTENTION_INL_H_
#else
#define RETENTIVEKV_KERNELS_ATTENTION_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <limits>

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"
#include "kernels/attention.h"
#include "kernels/key_dots-inl.h"
#include "kernels/value_sums-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rkv {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline constexpr float kMasked = -std::numeric_limits<float>::infinity();

HWY_INLINE void ScaleRow(float a, size_t n, float* HWY_RESTRICT y) {
  const FloatTag df;
  const auto va = hn::Set(df, a);
  size_t i = 0;
  for (; i + kFloatLanes <= n; i += kFloatLanes) {
    hn::StoreU(hn::Mul(va, hn::LoadU(df, y + i)), df, y + i);
  }
  for (; i < n; ++i) y[i] *= a;
}

// Dot products of query i with n rows from `begin` on to logits, in place. A dot product that is
// not finite comes from a damaged row (or query) and becomes kMasked, so that the row is not read.
HWY_INLINE void DotsToLogits(const HeadShape& shape, const QueryBlock& queries, const KvSpan& span,
                             size_t i, size_t begin, size_t n, float* HWY_RESTRICT logits) {
  const FloatTag df;
  const auto scale = hn::Set(df, shape.scale);
  const auto bias = hn::Set(df, queries.bias != nullptr ? shape.scale * queries.bias[i] : 0.0f);
  for (size_t t = 0; t < kAttentionBlock; t += kFloatLanes) {
    const auto logit = hn::MulAdd(hn::Load(df, logits + t), scale, bias);
    hn::Store(hn::IfThenElse(hn::IsFinite(logit), logit, hn::Set(df, kMasked)), df, logits + t);
  }
  if (shape.softcap != 0.0f) {
    const auto cap = hn::Set(df, shape.softcap);
    const auto inverse = hn::Set(df, 1.0f / shape.softcap);
    for (size_t t = 0; t < kAttentionBlock; t += kFloatLanes) {
      const auto logit = hn::Load(df, logits + t);
      const auto capped = hn::Mul(cap, hn::Tanh(df, hn::Mul(logit, inverse)));
      hn::Store(hn::IfThenElse(hn::IsFinite(logit), capped, logit), df, logits + t);
    }
  }
  if (span.log_mass != nullptr) {
    const bool spread = span.spread != nullptr && queries.half_norm != nullptr;
    for (size_t t = 0; t < n; ++t) {
      logits[t] += span.log_mass[begin + t];
      if (spread) {
        logits[t] += std::min(span.spread[begin + t] * queries.half_norm[i], kMaxSpreadLogit);
      }
    }
  }
}

HWY_INLINE float LargestOfBlock(const float* HWY_RESTRICT logits) {
  const FloatTag df;
  auto largest = hn::Set(df, kMasked);
  for (size_t t = 0; t < kAttentionBlock; t += kFloatLanes) {
    largest = hn::Max(largest, hn::Load(df, logits + t));
  }
  return hn::GetLane(hn::MaxOfLanes(df, largest));
}

// Replaces the logits of one query in a block, with maximum `block_max`, by exp(logit - max) and
// adds them to its running softmax. Returns the maximum of the results.
HWY_INLINE float FoldBlock(size_t d_v, float block_max, float* HWY_RESTRICT logits, float& max,
                           float& sum, float* HWY_RESTRICT acc) {
  const FloatTag df;
  const float new_max = std::max(max, block_max);
  if (block_max == kMasked) {
    std::fill(logits, logits + kAttentionBlock, 0.0f);
    return 0.0f;
  }
  if (new_max > max) {
    // exp(-inf) = 0 starts a new softmax; acc and sum are zero then anyway.
    const float correction = std::exp(max - new_max);
    ScaleRow(correction, d_v, acc);
    sum *= correction;
    max = new_max;
  }
  const auto vmax = hn::Set(df, new_max);
  auto vsum = hn::Zero(df);
  auto max_p = hn::Zero(df);
  for (size_t t = 0; t < kAttentionBlock; t += kFloatLanes) {
    const auto p = ExpOfNegative(hn::Sub(hn::Load(df, logits + t), vmax));
    vsum = hn::Add(vsum, p);
    max_p = hn::Max(max_p, p);
    hn::Store(p, df, logits + t);
  }
  sum += hn::GetLane(hn::SumOfLanes(df, vsum));
  return hn::GetLane(hn::MaxOfLanes(df, max_p));
}

// The queries of a call as tiles, packed for the element types that occur in its spans.
struct QueryTiles {
  QueryTile tiles[(kMaxQueryRows + kTileQueries - 1) / kTileQueries];
  size_t n = 0;
};

HWY_INLINE void PackQueries(const HeadShape& shape, const QueryBlock& queries, const KvSpan* spans,
                            size_t n_spans, KernelScratch& s, QueryTiles& out) {
  KeyTypes types;
  for (size_t i = 0; i < n_spans; ++i) types.Add(spans[i].k_type);
  // Tiles of equal size, as far as possible.
  const size_t n_tiles = (queries.n + kTileQueries - 1) / kTileQueries;
  size_t first = 0;
  for (out.n = 0; out.n < n_tiles; ++out.n) {
    const size_t n = (queries.n - first + n_tiles - out.n - 1) / (n_tiles - out.n);
    QueryTile& tile = out.tiles[out.n] = s.NextTile(first, n);
    tile.rows = queries.rows + first;
    PackTile(types, shape.d_k, tile);
    first += n;
  }
}

// Calls body.operator()<tile.n>().
template <typename Body>
HWY_INLINE void WithQueries(size_t n, const Body& body) {
  static_assert(kTileQueries == 6);
  switch (n) {
    case 1:
      return body.template operator()<1>();
    case 2:
      return body.template operator()<2>();
    case 3:
      return body.template operator()<3>();
    case 4:
      return body.template operator()<4>();
    case 5:
      return body.template operator()<5>();
    default:
      return body.template operator()<6>();
  }
}

// AddValues() of one query that skips rows without a weight, because 0 * infinity is NaN.
HWY_INLINE void AddWeightedValues(const float* HWY_RESTRICT weights, float max_weight,
                                  const KvSpan& span, size_t begin, size_t n, size_t d,
                                  const KernelScratch& s, float* HWY_RESTRICT acc) {
  Prefetcher nothing;
  HWY_ALIGN float run[kAttentionBlock];
  for (size_t t = 0; t < n;) {
    const float* first = std::find_if(weights + t, weights + n, [](float w) { return w != 0.0f; });
    const float* last = std::find(first, weights + n, 0.0f);
    if (first == last) return;
    std::fill(std::copy(first, last, run), run + kAttentionBlock, 0.0f);
    AddValues<1>(run, &max_weight, span, begin + static_cast<size_t>(first - weights),
                 static_cast<size_t>(last - first), d, s, acc, nothing);
    t = static_cast<size_t>(last - weights);
  }
}

// Rows [begin, begin + n) of a span.
struct Block {
  const KvSpan* span = nullptr;
  size_t begin = 0;
  size_t n = 0;

  const uint8_t* k() const { return n > 0 ? RowAt(span->k, span->k_stride, begin) : nullptr; }
  const uint8_t* v() const { return n > 0 ? RowAt(span->v, span->v_stride, begin) : nullptr; }
};

// Prefetchers for the keys or values of a block, and of a `later` one.
HWY_INLINE Prefetcher KeysOf(const HeadShape& shape, const Block& block, const Block& later) {
  if (block.n == 0) return {};
  return {block.k(), block.span->k_stride, RowBytes(block.span->k_type, shape.d_k), block.n,
          later.k()};
}

HWY_INLINE Prefetcher ValuesOf(const HeadShape& shape, const Block& block, const Block& later) {
  return {block.v(), block.span->v_stride, RowBytes(block.span->v_type, shape.d_v), block.n,
          later.v()};
}

// `careful`: skips rows without a weight; for calls of one query. Advances `values` while it reads
// the block's keys, and `next_keys` while it reads its values.
HWY_INLINE void AttendBlock(const HeadShape& shape, const QueryBlock& queries,
                            const QueryTiles& tiles, const Block& block, const size_t* visible,
                            float* const* out_logits, bool careful, const SoftmaxState& state,
                            const KernelScratch& s, Prefetcher values, Prefetcher next_keys) {
  const KvSpan& span = *block.span;
  const size_t begin = block.begin;
  const size_t n = block.n;
  PrepareKeys(span, begin, n, shape.d_k, s);
  for (size_t i = 0; i < tiles.n; ++i) {
    const QueryTile& tile = tiles.tiles[i];
    WithQueries(tile.n, [&]<size_t kQueries>() HWY_ATTR {
      DotKeys<kQueries>(shape, tile, span, begin, n, s, s.logits + tile.first * kAttentionBlock,
                        values);
    });
  }
  float largest[kMaxQueryRows];
  for (size_t i = 0; i < queries.n; ++i) {
    float* logits = s.logits + i * kAttentionBlock;
    DotsToLogits(shape, queries, span, i, begin, n, logits);
    const size_t seen =
        visible == nullptr ? n : std::min(n, visible[i] > begin ? visible[i] - begin : 0);
    std::fill(logits + seen, logits + kAttentionBlock, kMasked);
    if (out_logits != nullptr) std::copy_n(logits, n, out_logits[i] + begin);
    largest[i] = LargestOfBlock(logits);
  }
  // A separate loop, because each step for a query depends on the one before.
  for (size_t i = 0; i < queries.n; ++i) {
    largest[i] = FoldBlock(shape.d_v, largest[i], s.logits + i * kAttentionBlock, state.max[i],
                           state.sum[i], state.acc + i * shape.d_v);
  }
  if (careful) {
    AddWeightedValues(s.logits, largest[0], span, begin, n, shape.d_v, s, state.acc);
    return;
  }
  for (size_t i = 0; i < tiles.n; ++i) {
    const QueryTile& tile = tiles.tiles[i];
    WithQueries(tile.n, [&]<size_t kQueries>() HWY_ATTR {
      AddValues<kQueries>(s.logits + tile.first * kAttentionBlock, largest + tile.first, span,
                          begin, n, shape.d_v, s, state.acc + tile.first * shape.d_v, next_keys);
    });
  }
}

HWY_INLINE void AttendSpansOnce(const HeadShape& shape, const QueryBlock& queries,
                                const KvSpan* spans, size_t n_spans, const size_t* visible,
                                bool careful, const SoftmaxState& state, KernelScratch s) {
  QueryTiles tiles;
  PackQueries(shape, queries, spans, n_spans, s, tiles);
  const size_t max_visible =
      visible != nullptr ? *std::max_element(visible, visible + queries.n) : ~size_t{0};
  const auto end_of = [&](size_t i) { return std::min(spans[i].n, max_visible); };
  const auto block_at = [&](size_t i, size_t begin) -> Block {
    return {spans + i, begin, std::min(kAttentionBlock, end_of(i) - begin)};
  };
  const auto after = [&](const Block& block) -> Block {
    if (block.n == 0) return {};
    auto i = static_cast<size_t>(block.span - spans);
    const size_t begin = block.begin + block.n;
    if (begin < end_of(i)) return block_at(i, begin);
    while (++i < n_spans) {
      if (end_of(i) > 0) return block_at(i, 0);
    }
    return {};
  };
  size_t column = 0;
  float* logits[kMaxQueryRows];
  for (size_t i = 0; i < n_spans; ++i) {
    const size_t end = end_of(i);
    for (size_t q = 0; q < queries.n && queries.logits != nullptr; ++q) {
      logits[q] = queries.logits[q] + column;
      std::fill(logits[q] + end, logits[q] + spans[i].n, kMasked);
    }
    for (size_t begin = 0; begin < end; begin += kAttentionBlock) {
      const Block block = block_at(i, begin);
      const Block next = after(block);
      AttendBlock(shape, queries, tiles, block, visible,
                  queries.logits != nullptr ? logits : nullptr, careful, state, s,
                  ValuesOf(shape, block, next), KeysOf(shape, next, after(next)));
    }
    column += spans[i].n;
  }
}

// Queries of a tile multiply every row of a block; invisible rows have a weight of zero. If the
// result is not finite, the query is repeated alone from its old state, with `careful`.
HWY_INLINE void AttendSpansImpl(const HeadShape& shape, const QueryBlock& queries,
                                const KvSpan* spans, size_t n_spans, const size_t* visible,
                                const SoftmaxState& state, float* HWY_RESTRICT scratch) {
  const KernelScratch s(scratch, shape.d_k, shape.d_v);
  float max[kMaxQueryRows];
  float sum[kMaxQueryRows];
  std::copy_n(state.max, queries.n, max);
  std::copy_n(state.sum, queries.n, sum);
  std::copy_n(state.acc, queries.n * shape.d_v, s.acc);
  AttendSpansOnce(shape, queries, spans, n_spans, visible, false, state, s);
  for (size_t i = 0; i < queries.n; ++i) {
    float* acc = state.acc + i * shape.d_v;
    if (AllFinite(acc, shape.d_v)) continue;
    state.max[i] = max[i];
    state.sum[i] = sum[i];
    std::copy_n(s.acc + i * shape.d_v, shape.d_v, acc);
    AttendSpansOnce(shape,
                    {.rows = queries.rows + i,
                     .n = 1,
                     .bias = queries.bias != nullptr ? queries.bias + i : nullptr,
                     .half_norm = queries.half_norm != nullptr ? queries.half_norm + i : nullptr},
                    spans, n_spans, visible != nullptr ? visible + i : nullptr, true,
                    {.acc = acc, .max = state.max + i, .sum = state.sum + i}, s);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace rkv
HWY_AFTER_NAMESPACE();

#endif  // RETENTIVEKV_KERNELS_ATTENTION_INL_H_
