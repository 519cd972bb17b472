// Dot products of up to kTileQueries queries with a block of keys of any element type, compiled
// once per target. Each key is read and converted once for all queries of a tile, and the result
// for one query does not depend on the others.
#if defined(RETENTIVEKV_KERNELS_KEY_DOTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RETENTIVEKV_KERNELS_KEY_DOTS_INL_H_
#undef RETENTIVEKV_KERNELS_KEY_DOTS_INL_H_
#else
#define RETENTIVEKV_KERNELS_KEY_DOTS_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/element-inl.h"
#include "kernels/kernel_scratch.h"
#include "kernels/row_blocks-inl.h"
#include "kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rkv {
namespace HWY_NAMESPACE {

// The element types of the keys of a call.
struct KeyTypes {
  bool halves = false;
  bool bytes = false;
  bool codes = false;

  void Add(ElementType type) {
    if (!IsQuantized(type)) {
      halves = true;
    } else if (type == ElementType::kQ8_0) {
      bytes = true;
    } else {
      codes = true;
    }
  }
};

#if HWY_TARGET == HWY_SCALAR

// Without vectors, rows are decoded one by one.
HWY_INLINE void PackTile(const KeyTypes&, size_t, QueryTile&) {}
HWY_INLINE void PrepareKeys(const KvSpan&, size_t, size_t, size_t, const KernelScratch&) {}

template <size_t kQueries>
HWY_INLINE void DotKeys(const HeadShape& shape, const QueryTile& tile, const KvSpan& span,
                        size_t begin, size_t n, const KernelScratch& s, float* HWY_RESTRICT dots,
                        Prefetcher&) {
  for (size_t t = 0; t < n; ++t) {
    DecodeRowImpl(span.k_type, RowAt(span.k, span.k_stride, begin + t), shape.d_k, s.row);
    for (size_t q = 0; q < kQueries; ++q) {
      float sum = 0;
      for (size_t e = 0; e < shape.d_k; ++e) sum += tile.rows[q][e] * s.row[e];
      dots[q * kAttentionBlock + t] = sum;
    }
  }
}

#else

// Keys multiplied at once: enough independent sums, all in registers.
template <size_t kQueries>
constexpr size_t TileTokens() {
  return kQueries * 4 <= kRegisterSums ? 4 : (kQueries * 2 <= kRegisterSums ? 2 : 1);
}

// f16 and bf16: queries as packed by PackFloats().
template <ElementType kType, size_t kQueries>
HWY_INLINE void DotHalves(const float* HWY_RESTRICT packed, const KvSpan& span, size_t begin,
                          size_t n, size_t d, float* HWY_RESTRICT dots, Prefetcher& values) {
  constexpr size_t kTokens = TileTokens<kQueries>();
  const FloatTag df;
  HWY_ALIGN float partial[kQueries][4][kFloatLanes];
  for (size_t t0 = 0; t0 < n; t0 += 4) {
    for (size_t tile = 0; tile < 4; tile += kTokens) {
      const uint16_t* keys[kTokens];
      for (size_t t = 0; t < kTokens; ++t) {
        const size_t row = begin + std::min(t0 + tile + t, n - 1);
        keys[t] = reinterpret_cast<const uint16_t*>(RowAt(span.k, span.k_stride, row));
      }
      FloatVec sums[kQueries][kTokens];
      for (size_t q = 0; q < kQueries; ++q) {
        for (size_t t = 0; t < kTokens; ++t) sums[q][t] = hn::Zero(df);
      }
      const float* HWY_RESTRICT query = packed;
      const auto add = [&](const auto& load) HWY_ATTR {
        values.Advance(kTokens * kFloatLanes * sizeof(uint16_t));
        FloatVec key[kTokens];
        for (size_t t = 0; t < kTokens; ++t) key[t] = load(keys[t]);
        for (size_t q = 0; q < kQueries; ++q) {
          const FloatVec x = InRegister(hn::LoadU(df, query + q * kFloatLanes));
          for (size_t t = 0; t < kTokens; ++t) sums[q][t] = hn::MulAdd(x, key[t], sums[q][t]);
        }
        query += kQueries * kFloatLanes;
      };
      size_t i = 0;
      for (; i + kFloatLanes <= d; i += kFloatLanes) {
        add([i](const uint16_t* key) HWY_ATTR { return LoadHalves<kType>(key + i); });
      }
      if (i < d) {
        add([i, d](const uint16_t* key) HWY_ATTR { return LoadFewHalves<kType>(key + i, d - i); });
      }
      for (size_t q = 0; q < kQueries; ++q) {
        for (size_t t = 0; t < kTokens; ++t) hn::Store(sums[q][t], df, partial[q][tile + t]);
      }
    }
    for (size_t q = 0; q < kQueries; ++q) {
      StoreSumsOfFour(hn::Load(df, partial[q][0]), hn::Load(df, partial[q][1]),
                      hn::Load(df, partial[q][2]), hn::Load(df, partial[q][3]),
                      dots + q * kAttentionBlock + t0);
    }
  }
}

// Queries as [elements / lanes][queries][lanes], with zeros after the last element.
HWY_INLINE void PackFloats(const float* const* rows, size_t n, size_t d, float* HWY_RESTRICT out) {
  for (size_t i = 0; i < d; i += kFloatLanes) {
    const size_t count = std::min(kFloatLanes, d - i);
    for (size_t q = 0; q < n; ++q, out += kFloatLanes) {
      std::copy_n(rows[q] + i, count, out);
      std::fill(out + count, out + kFloatLanes, 0.0f);
    }
  }
}

// Rounds queries to integers of magnitude up to `max_rounded`. Also gives the step of each query
// and the sum of each block. Calls store(block, query, integers) for each block, with zeros after
// the last element.
template <typename Store>
HWY_INLINE void RoundQueries(const float* const* rows, size_t n, size_t d, float max_rounded,
                             float* HWY_RESTRICT steps, int32_t* HWY_RESTRICT sums,
                             const Store& store) {
  const FloatTag df;
  const hn::Rebind<int32_t, FloatTag> di;
  const size_t n_blocks = BlocksOf(d);
  for (size_t q = 0; q < n; ++q) {
    const float* row = rows[q];
    auto largest = hn::Zero(df);
    size_t i = 0;
    for (; i + kFloatLanes <= d; i += kFloatLanes) {
      largest = hn::Max(largest, hn::Abs(hn::LoadU(df, row + i)));
    }
    float max = hn::GetLane(hn::MaxOfLanes(df, largest));
    for (; i < d; ++i) max = std::max(max, std::abs(row[i]));
    const bool finite = AllFinite(row, d);
    steps[q] = finite ? max / max_rounded : std::numeric_limits<float>::infinity();
    // A query whose largest element is too close to zero becomes zero.
    const float inverse = finite && max > 1e-30f ? max_rounded / max : 0.0f;
    for (size_t block = 0; block < n_blocks; ++block) {
      const size_t first = block * kQuantBlock;
      HWY_ALIGN int32_t integers[kQuantBlock];
      HWY_ALIGN float elements[kQuantBlock] = {};
      if (finite) std::copy_n(row + first, std::min(kQuantBlock, d - first), elements);
      auto sum = hn::Zero(di);
      for (size_t e = 0; e < kQuantBlock; e += kFloatLanes) {
        const auto scaled = hn::Mul(hn::Load(df, elements + e), hn::Set(df, inverse));
        const auto integer = hn::NearestInt(scaled);
        sum = hn::Add(sum, integer);
        hn::Store(integer, di, integers + e);
      }
      sums[block * n + q] = hn::GetLane(hn::SumOfLanes(di, sum));
      store(block, q, integers);
    }
  }
}

inline constexpr size_t kQuads = kQuantBlock / 4;  // of a block

// Stores the bytes of a query's block to every stride-th of `quads`.
HWY_INLINE void StoreQuads(const int8_t* HWY_RESTRICT bytes, size_t stride,
                           int32_t* HWY_RESTRICT quads) {
  for (size_t i = 0; i < kQuads; ++i) std::memcpy(quads + i * stride, bytes + i * 4, 4);
}

// Types of at most four bits: [blocks][kQuads][queries] of four int8.
HWY_INLINE void PackBytes(const float* const* rows, size_t n, size_t d, QueryTile& tile) {
  RoundQueries(rows, n, d, kMaxOfByte, tile.steps8, tile.sums8,
               [&](size_t block, size_t q, const int32_t* HWY_RESTRICT integers) HWY_ATTR {
                 int8_t bytes[kQuantBlock];
                 for (size_t e = 0; e < kQuantBlock; ++e) {
                   bytes[e] = static_cast<int8_t>(integers[e]);
                 }
                 StoreQuads(bytes, n, tile.codes8 + block * kQuads * n + q);
               });
}

// q8_0: [blocks][queries][kQuantBlock] of int16, or with RKV_MULTIPLIES_BYTES
// [blocks][kQuads][queries][2] of four int8 each: the high bytes (times 256), then the rest.
HWY_INLINE void PackTwoBytes(const float* const* rows, size_t n, size_t d, QueryTile& tile) {
  RoundQueries(rows, n, d, kMaxOfTwoBytes, tile.steps16, tile.sums16,
               [&](size_t block, size_t q, const int32_t* HWY_RESTRICT integers) HWY_ATTR {
#if RKV_MULTIPLIES_BYTES
                 int8_t high[kQuantBlock], low[kQuantBlock];
                 for (size_t e = 0; e < kQuantBlock; ++e) {
                   low[e] = static_cast<int8_t>(integers[e]);
                   high[e] = static_cast<int8_t>((integers[e] - low[e]) >> 8);
                 }
                 int32_t* quads = tile.codes16 + (block * kQuads * n + q) * 2;
                 StoreQuads(high, 2 * n, quads);
                 StoreQuads(low, 2 * n, quads + 1);
#else
                 auto* out = reinterpret_cast<int16_t*>(tile.codes16) +
                             (block * n + q) * kQuantBlock;
                 for (size_t e = 0; e < kQuantBlock; ++e) {
                   out[e] = static_cast<int16_t>(integers[e]);
                 }
#endif
               });
}

// Sums of the products of a block of codes and a query, for one row per four bytes of a vector of
// codes. REQUIRES: codes <= 15, or RKV_MULTIPLIES_BYTES.
#if RKV_MULTIPLIES_BYTES
class BlockSums {
 public:
  HWY_INLINE void Start(const int32_t& start) { sums_ = hn::Set(PairSumTag(), start); }
  HWY_INLINE void Add(CodeVec codes, const int32_t& quad) {
    sums_ = MulAddQuads(codes, quad, sums_);
  }
  HWY_INLINE PairSumVec Total() const { return sums_; }

 private:
  PairSumVec sums_;
};
#else
class BlockSums {
 public:
  HWY_INLINE void Start(const int32_t& start) {
    start_ = &start;
    pairs_ = hn::Zero(PairTag());
  }
  HWY_INLINE void Add(CodeVec codes, const int32_t& quad) {
    // A pair's sum over the eight quads of a block is at most 8 * 2 * 15 * 127, which fits into
    // int16.
    const auto query = hn::BitCast(CodeTag(), hn::Set(PairSumTag(), quad));
    pairs_ = hn::Add(pairs_, MulPairs(codes, query));
  }
  HWY_INLINE PairSumVec Total() const {
    return MulAddPairs(pairs_, hn::Set(PairTag(), int16_t{1}), hn::Set(PairSumTag(), *start_));
  }

 private:
  const int32_t* start_;
  PairVec pairs_;
};
#endif

// Dot products of queries with the codes from UnpackBlocks(). Query elements have `kWords` bytes;
// of two, the first counts 256-fold. `quads`: [blocks][kQuads][kQueries][kWords] of four bytes
// each; `starts`: [blocks][kQueries][kWords], contributions of the codes' offset.
template <size_t kQueries, size_t kWords>
HWY_INLINE void DotCodes(const int32_t* HWY_RESTRICT quads, const int32_t* HWY_RESTRICT starts,
                         const float* HWY_RESTRICT query_steps, float unit, const KernelScratch& s,
                         size_t n, size_t n_blocks, float* HWY_RESTRICT dots, Prefetcher& values) {
  const FloatTag df;
  const CodeTag d8;
  constexpr size_t kSums = kQueries * kWords;
  const size_t v_bytes = values.StepBytes((n + kFloatLanes - 1) / kFloatLanes * n_blocks);
  for (size_t t = 0; t < n; t += kFloatLanes) {
    FloatVec sums[kQueries];
    for (size_t q = 0; q < kQueries; ++q) sums[q] = hn::Zero(df);
    const int32_t* HWY_RESTRICT query = quads;
    for (size_t block = 0; block < n_blocks; ++block) {
      values.Advance(v_bytes);
      const uint8_t* codes = s.codes + (block * kAttentionBlock + t) * kQuantBlock;
      BlockSums products[kSums];
      for (size_t i = 0; i < kSums; ++i) products[i].Start(starts[block * kSums + i]);
      for (size_t quad = 0; quad < kQuads; ++quad, query += kSums) {
        const CodeVec four = hn::Load(d8, codes + quad * kPairBytes);
        for (size_t i = 0; i < kSums; ++i) products[i].Add(four, query[i]);
      }
      const FloatVec step = hn::Load(df, s.steps + block * kAttentionBlock + t);
      for (size_t q = 0; q < kQueries; ++q) {
        auto total = products[q * kWords].Total();
        if constexpr (kWords == 2) {
          total = hn::Add(hn::ShiftLeft<8>(total), products[2 * q + 1].Total());
        }
        sums[q] = hn::MulAdd(hn::ConvertTo(df, total), step, sums[q]);
      }
    }
    for (size_t q = 0; q < kQueries; ++q) {
      hn::Store(hn::Mul(sums[q], hn::Set(df, unit * query_steps[q])), df,
                dots + q * kAttentionBlock + t);
    }
  }
}

#if !RKV_MULTIPLIES_BYTES
// q8_0: queries as int16, so the products of a block are exact.
template <size_t kQueries>
HWY_INLINE void DotBytes(const QueryTile& tile, const KvSpan& span, size_t begin, size_t n,
                         size_t n_blocks, const float* HWY_RESTRICT block_steps,
                         float* HWY_RESTRICT dots, Prefetcher& values) {
  const I16Tag d16;
  const I32Tag d32;
  const hn::Rebind<int8_t, I16Tag> d8;
  const hn::Rebind<float, I32Tag> df;
  using Vec = hn::Vec<decltype(df)>;
  constexpr size_t kLanes = kByteLanes / sizeof(int32_t);
  constexpr size_t kStep = kByteLanes / sizeof(int16_t);
  constexpr size_t kParts = kQuantBlock / kStep;
  const size_t v_bytes = values.bytes() / n;  // of a row
  HWY_ALIGN float partial[kQueries][4][kLanes];
  for (size_t t0 = 0; t0 < n; t0 += 4) {
    for (size_t t = 0; t < 4; ++t) {
      const size_t token = std::min(t0 + t, n - 1);
      const uint8_t* row = RowAt(span.k, span.k_stride, begin + token);
      values.Advance(v_bytes);
      Vec acc[kQueries];
      for (size_t q = 0; q < kQueries; ++q) acc[q] = hn::Zero(df);
      const auto* HWY_RESTRICT query = reinterpret_cast<const int16_t*>(tile.codes16);
      for (size_t block = 0; block < n_blocks; ++block) {
        const auto* bytes = reinterpret_cast<const int8_t*>(row) + 2;
        I16Vec codes[kParts];
        for (size_t part = 0; part < kParts; ++part) {
          codes[part] = hn::PromoteTo(d16, hn::LoadU(d8, bytes + part * kStep));
        }
        const Vec step = hn::Set(df, block_steps[block * kAttentionBlock + token]);
        for (size_t q = 0; q < kQueries; ++q, query += kQuantBlock) {
          I32Vec sum = hn::Zero(d32);
          for (size_t part = 0; part < kParts; ++part) {
            sum = MulAddPairs(codes[part], hn::LoadU(d16, query + part * kStep), sum);
          }
          acc[q] = hn::MulAdd(hn::ConvertTo(df, sum), step, acc[q]);
        }
        row += UnitBytes(ElementType::kQ8_0);
      }
      for (size_t q = 0; q < kQueries; ++q) hn::Store(acc[q], df, partial[q][t]);
    }
    for (size_t q = 0; q < kQueries; ++q) {
      StoreSumsOfFour(hn::Load(df, partial[q][0]), hn::Load(df, partial[q][1]),
                      hn::Load(df, partial[q][2]), hn::Load(df, partial[q][3]),
                      dots + q * kAttentionBlock + t0);
    }
  }
  for (size_t q = 0; q < kQueries; ++q) {
    for (size_t t = 0; t < n; ++t) dots[q * kAttentionBlock + t] *= tile.steps16[q];
  }
}
#endif

// Packs the queries of a tile for every element type in the call.
HWY_INLINE void PackTile(const KeyTypes& types, size_t d, QueryTile& tile) {
  if (types.halves) PackFloats(tile.rows, tile.n, d, tile.floats);
  if (types.bytes) PackTwoBytes(tile.rows, tile.n, d, tile);
  if (types.codes) PackBytes(tile.rows, tile.n, d, tile);
}

HWY_INLINE void ScaleSteps(float factor, float* HWY_RESTRICT steps, size_t n) {
  const FloatTag df;
  for (size_t i = 0; i < n; i += kFloatLanes) {
    hn::StoreU(hn::Mul(hn::LoadU(df, steps + i), hn::Set(df, factor)), df, steps + i);
  }
}

// Unpacks rows for DotKeys(), once for all tiles.
HWY_INLINE void PrepareKeys(const KvSpan& span, size_t begin, size_t n, size_t d,
                            const KernelScratch& s) {
  if (!IsQuantized(span.k_type)) return;
  const RowParts parts = PartsOf(span.k_type, d);
  for (const RowPart& part : parts) {
    const uint8_t* rows = static_cast<const uint8_t*>(span.k) + part.at;
    const size_t n_blocks = BlocksOf(part.size());
    float* steps = s.steps + part.begin / kQuantBlock * kAttentionBlock;
    WithBlockType(part.type, [&]<ElementType kType>() HWY_ATTR {
      LoadSteps<kType>(rows, span.k_stride, begin, n, n_blocks, steps);
      if constexpr (kType != ElementType::kQ8_0 || RKV_MULTIPLIES_BYTES) {
        UnpackBlocks<kType>(rows, span.k_stride, begin, n, n_blocks,
                            s.codes + part.begin * kAttentionBlock);
      }
    });
    // All blocks in the unit of the first.
    const float ratio = UnpackedScale(part.type).unit / UnpackedScale(parts.begin()->type).unit;
    if (ratio != 1.0f) ScaleSteps(ratio, steps, n_blocks * kAttentionBlock);
  }
}

// dots[q, t] = q.k of the rows [begin, begin + n) of the span, with row stride kAttentionBlock.
// Dots from n on are undefined. Meanwhile advances `values`. REQUIRES: n <= kAttentionBlock; the
// tile is packed for the type.
template <size_t kQueries>
HWY_INLINE void DotKeys(const HeadShape& shape, const QueryTile& tile, const KvSpan& span,
                        size_t begin, size_t n, const KernelScratch& s, float* HWY_RESTRICT dots,
                        Prefetcher& values) {
  const size_t d = shape.d_k;
  const size_t n_blocks = BlocksOf(d);
  const auto codes = [&]() HWY_ATTR {
    const RowParts parts = PartsOf(span.k_type, d);
    for (const RowPart& part : parts) {
      const int32_t offset = UnpackedScale(part.type).offset;
      const size_t end = BlocksOf(part.end) * kQueries;
      for (size_t i = part.begin / kQuantBlock * kQueries; i < end; ++i) {
        s.starts[i] = -offset * tile.sums8[i];
      }
    }
    DotCodes<kQueries, 1>(tile.codes8, s.starts, tile.steps8,
                          UnpackedScale(parts.begin()->type).unit, s, n, n_blocks, dots, values);
  };
  switch (span.k_type) {
    case ElementType::kF16:
      return DotHalves<ElementType::kF16, kQueries>(tile.floats, span, begin, n, d, dots, values);
    case ElementType::kBF16:
      return DotHalves<ElementType::kBF16, kQueries>(tile.floats, span, begin, n, d, dots, values);
    default:
      return codes();
    case ElementType::kQ8_0:
#if RKV_MULTIPLIES_BYTES
      for (size_t i = 0; i < n_blocks * kQueries; ++i) {
        s.starts[2 * i] = 0;
        s.starts[2 * i + 1] = -UnpackedScale(ElementType::kQ8_0).offset * tile.sums16[i];
      }
      return DotCodes<kQueries, 2>(tile.codes16, s.starts, tile.steps16, 1.0f, s, n, n_blocks, dots,
                                   values);
#else
      return DotBytes<kQueries>(tile, span, begin, n, n_blocks, s.steps, dots, values);
#endif
  }
}

#endif  // HWY_TARGET == HWY_SCALAR

}  // namespace HWY_NAMESPACE
}  // namespace rkv
HWY_AFTER_NAMESPACE();

#endif  // RETENTIVEKV_KERNELS_KEY_DOTS_INL_H_
