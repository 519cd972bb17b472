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

// Keys that are multiplied at once, so that enough sums are in flight and all fit in registers.
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

// Queries as integers, [blocks][queries][kQuantBlock], with the step of each query and, for codes
// that are not centred, the sum of the integers of each block.
template <typename T>
HWY_INLINE void PackIntegers(const float* const* rows, size_t n, size_t d, T* HWY_RESTRICT codes,
                             float* HWY_RESTRICT steps, float* HWY_RESTRICT sums) {
  constexpr float kMax = sizeof(T) == 1 ? 127.0f : 32767.0f;
  const FloatTag df;
  const hn::Rebind<int32_t, FloatTag> di;
  const size_t n_blocks = (d + kQuantBlock - 1) / kQuantBlock;
  for (size_t q = 0; q < n; ++q) {
    const float* row = rows[q];
    auto largest = hn::Zero(df);
    size_t i = 0;
    for (; i + kFloatLanes <= d; i += kFloatLanes) {
      largest = hn::Max(largest, hn::Abs(hn::LoadU(df, row + i)));
    }
    float max = hn::GetLane(hn::MaxOfLanes(df, largest));
    for (; i < d; ++i) max = std::max(max, std::abs(row[i]));
    steps[q] = max / kMax;
    const float inverse = max > 0 ? kMax / max : 0.0f;
    for (size_t block = 0; block < n_blocks; ++block) {
      const size_t first = block * kQuantBlock;
      HWY_ALIGN int32_t integers[kQuantBlock] = {};
      HWY_ALIGN float elements[kQuantBlock] = {};
      std::copy_n(row + first, std::min(kQuantBlock, d - first), elements);
      int32_t sum = 0;
      for (size_t e = 0; e < kQuantBlock; e += kFloatLanes) {
        const auto scaled = hn::Mul(hn::Load(df, elements + e), hn::Set(df, inverse));
        hn::Store(hn::NearestInt(scaled), di, integers + e);
      }
      T* out = codes + (block * n + q) * kQuantBlock;
      for (size_t e = 0; e < kQuantBlock; ++e) {
        out[e] = static_cast<T>(integers[e]);
        sum += integers[e];
      }
      if (sums != nullptr) sums[block * n + q] = static_cast<float>(sum);
    }
  }
}

// q4_0 and q2: queries as int8. A block's product is multiplied by the block's step as a share of
// the row's largest in 15 bits, so that a row's sum is one integer.
template <ElementType kType, size_t kQueries>
HWY_INLINE void DotCodes(const int8_t* HWY_RESTRICT packed, const KvSpan& span, size_t begin,
                         size_t n, size_t n_blocks, const int16_t* HWY_RESTRICT block_steps,
                         int32_t* HWY_RESTRICT sums, Prefetcher& values) {
  const I8Tag d8;
  const I16Tag d16;
  const I32Tag d32;
  constexpr size_t kLanes = kByteLanes / sizeof(int32_t);
  const size_t v_bytes = values.bytes() / n;  // of a row
  HWY_ALIGN int32_t partial[kQueries][4][kLanes];
  for (size_t t0 = 0; t0 < n; t0 += 4) {
    for (size_t t = 0; t < 4; ++t) {
      const size_t token = std::min(t0 + t, n - 1);
      const uint8_t* row = RowAt(span.k, span.k_stride, begin + token);
      values.Advance(v_bytes);
      I32Vec acc[kQueries];
      for (size_t q = 0; q < kQueries; ++q) acc[q] = hn::Zero(d32);
      const int8_t* HWY_RESTRICT query = packed;
      for (size_t block = 0; block < n_blocks; ++block, row += UnitBytes(kType)) {
        const I16Vec step = hn::Set(d16, block_steps[block * kAttentionBlock + token]);
        for (size_t part = 0; part < kQuantBlock; part += kByteLanes) {
          const U8Vec codes = UnpackCodes<kType>(row, part);
          for (size_t q = 0; q < kQueries; ++q) {
            const I8Vec x = hn::LoadU(d8, query + q * kQuantBlock + part);
            acc[q] = MulAddPairs(MulPairs(codes, x), step, acc[q]);
          }
        }
        query += kQueries * kQuantBlock;
      }
      for (size_t q = 0; q < kQueries; ++q) hn::Store(acc[q], d32, partial[q][t]);
    }
    for (size_t q = 0; q < kQueries; ++q) {
      StoreSumsOfFour(hn::Load(d32, partial[q][0]), hn::Load(d32, partial[q][1]),
                      hn::Load(d32, partial[q][2]), hn::Load(d32, partial[q][3]),
                      sums + q * kAttentionBlock + t0);
    }
  }
}

// q8_0: queries as int16, which is as exact as the products of a block are.
template <size_t kQueries>
HWY_INLINE void DotBytes(const int16_t* HWY_RESTRICT packed, const KvSpan& span, size_t begin,
                         size_t n, size_t n_blocks, const float* HWY_RESTRICT block_steps,
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
      const int16_t* HWY_RESTRICT query = packed;
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
}

// The steps of each block as shares of the largest of its row, [blocks, kAttentionBlock], and what
// a share of 1 stands for. 15 bits per share for up to 8 blocks; more blocks leave fewer, so that
// the sums of DotCodes() fit 31: 8 blocks * 2 * 32767 * 2 * 15 * 127.
HWY_INLINE void ShareSteps(const float* HWY_RESTRICT steps, size_t n_blocks,
                           int16_t* HWY_RESTRICT shares, float* HWY_RESTRICT row_steps) {
  const FloatTag df;
  const hn::Rebind<int16_t, FloatTag> d16;
  const float whole = 32767.0f / static_cast<float>((n_blocks + 7) / 8);
  for (size_t t = 0; t < kAttentionBlock; t += kFloatLanes) {
    auto largest = hn::Zero(df);
    for (size_t b = 0; b < n_blocks; ++b) {
      largest = hn::Max(largest, hn::Abs(hn::Load(df, steps + b * kAttentionBlock + t)));
    }
    const auto safe = hn::Max(largest, hn::Set(df, 1e-30f));
    hn::Store(hn::Mul(safe, hn::Set(df, 1.0f / whole)), df, row_steps + t);
    const auto inverse = hn::Div(hn::Set(df, whole), safe);
    for (size_t b = 0; b < n_blocks; ++b) {
      const auto share = hn::Mul(hn::Load(df, steps + b * kAttentionBlock + t), inverse);
      hn::StoreU(hn::DemoteTo(d16, hn::NearestInt(share)), d16, shares + b * kAttentionBlock + t);
    }
  }
}

// Integer sums to dot products: step of the query times (step of the row times the sum, less what
// the codes' offset adds).
template <ElementType kType, size_t kQueries>
HWY_INLINE void FinishCodes(const KernelScratch& s, size_t n_blocks, const QueryTile& tile,
                            float* HWY_RESTRICT dots) {
  const FloatTag df;
  const hn::Rebind<int32_t, FloatTag> di;
  const auto add_blocks = [&]<size_t kBlocks>(size_t q, size_t b) HWY_ATTR {
    FloatVec offsets[kBlocks];
    for (size_t i = 0; i < kBlocks; ++i) {
      offsets[i] =
          hn::Set(df, tile.steps8[q] * -CodeOffset(kType) * tile.sums8[(b + i) * kQueries + q]);
    }
    for (size_t t = 0; t < kAttentionBlock; t += kFloatLanes) {
      auto dot = hn::LoadU(df, dots + q * kAttentionBlock + t);
      for (size_t i = 0; i < kBlocks; ++i) {
        dot = hn::MulAdd(hn::Load(df, s.steps + (b + i) * kAttentionBlock + t), offsets[i], dot);
      }
      hn::StoreU(dot, df, dots + q * kAttentionBlock + t);
    }
  };
  for (size_t q = 0; q < kQueries; ++q) {
    const auto query_step = hn::Set(df, tile.steps8[q]);
    for (size_t t = 0; t < kAttentionBlock; t += kFloatLanes) {
      const auto sum = hn::ConvertTo(df, hn::Load(di, s.sums + q * kAttentionBlock + t));
      const auto step = hn::Mul(hn::Load(df, s.row_steps + t), query_step);
      hn::StoreU(hn::Mul(sum, step), df, dots + q * kAttentionBlock + t);
    }
    size_t b = 0;
    for (; b + 4 <= n_blocks; b += 4) add_blocks.template operator()<4>(q, b);
    for (; b < n_blocks; ++b) add_blocks.template operator()<1>(q, b);
  }
}

// Brings the rows of a tile into the forms that the types need.
HWY_INLINE void PackTile(const KeyTypes& types, size_t d, QueryTile& tile) {
  if (types.halves) PackFloats(tile.rows, tile.n, d, tile.floats);
  if (types.bytes) {
    PackIntegers<int16_t>(tile.rows, tile.n, d, tile.codes16, tile.steps16, nullptr);
  }
  if (types.codes) PackIntegers(tile.rows, tile.n, d, tile.codes8, tile.steps8, tile.sums8);
}

// What DotKeys() needs of the rows, for all tiles.
HWY_INLINE void PrepareKeys(const KvSpan& span, size_t begin, size_t n, size_t d,
                            const KernelScratch& s) {
  if (!IsQuantized(span.k_type)) return;
  const size_t n_blocks = (d + kQuantBlock - 1) / kQuantBlock;
  const auto load = [&]<ElementType kType>() HWY_ATTR {
    LoadSteps<kType>(span.k, span.k_stride, begin, n, n_blocks, s.steps);
  };
  if (span.k_type == ElementType::kQ8_0) return load.template operator()<ElementType::kQ8_0>();
  if (span.k_type == ElementType::kQ4_0) {
    load.template operator()<ElementType::kQ4_0>();
  } else {
    load.template operator()<ElementType::kQ2>();
  }
  ShareSteps(s.steps, n_blocks, s.shares, s.row_steps);
}

// dots[q, t] = q.k of the rows [begin, begin + n) of the span, with row stride kAttentionBlock.
// What lies behind n is undefined. Meanwhile asks for `values`. REQUIRES: n <= kAttentionBlock; the
// tile has what the type needs.
template <size_t kQueries>
HWY_INLINE void DotKeys(const HeadShape& shape, const QueryTile& tile, const KvSpan& span,
                        size_t begin, size_t n, const KernelScratch& s, float* HWY_RESTRICT dots,
                        Prefetcher& values) {
  const size_t d = shape.d_k;
  const size_t n_blocks = (d + kQuantBlock - 1) / kQuantBlock;
  const auto codes = [&]<ElementType kType>() HWY_ATTR {
    DotCodes<kType, kQueries>(tile.codes8, span, begin, n, n_blocks, s.shares, s.sums, values);
    FinishCodes<kType, kQueries>(s, n_blocks, tile, dots);
  };
  switch (span.k_type) {
    case ElementType::kF16:
      return DotHalves<ElementType::kF16, kQueries>(tile.floats, span, begin, n, d, dots, values);
    case ElementType::kBF16:
      return DotHalves<ElementType::kBF16, kQueries>(tile.floats, span, begin, n, d, dots, values);
    case ElementType::kQ4_0:
      return codes.template operator()<ElementType::kQ4_0>();
    case ElementType::kQ2:
      return codes.template operator()<ElementType::kQ2>();
    case ElementType::kQ8_0:
      DotBytes<kQueries>(tile.codes16, span, begin, n, n_blocks, s.steps, dots, values);
      for (size_t q = 0; q < kQueries; ++q) {
        for (size_t t = 0; t < n; ++t) dots[q * kAttentionBlock + t] *= tile.steps16[q];
      }
      return;
  }
}

#endif  // HWY_TARGET == HWY_SCALAR

}  // namespace HWY_NAMESPACE
}  // namespace rkv
HWY_AFTER_NAMESPACE();

#endif  // RETENTIVEKV_KERNELS_KEY_DOTS_INL_H_
