// Weighted sums of a block of values of any element type for up to kTileQueries queries, compiled
// once per target. Each value is read and converted once for all queries of a tile, and the result
// for one query does not depend on the others.
#if defined(RETENTIVEKV_KERNELS_VALUE_SUMS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RETENTIVEKV_KERNELS_VALUE_SUMS_INL_H_
#undef RETENTIVEKV_KERNELS_VALUE_SUMS_INL_H_
#else
#define RETENTIVEKV_KERNELS_VALUE_SUMS_INL_H_
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

#if HWY_TARGET == HWY_SCALAR

// Without vectors, rows are decoded one by one.
template <size_t kQueries>
HWY_INLINE void AddValues(const float* HWY_RESTRICT weights, const float*, const KvSpan& span,
                          size_t begin, size_t n, size_t d, const KernelScratch& s,
                          float* HWY_RESTRICT acc, Prefetcher&) {
  for (size_t t = 0; t < n; ++t) {
    DecodeRowImpl(span.v_type, RowAt(span.v, span.v_stride, begin + t), d, s.row);
    for (size_t q = 0; q < kQueries; ++q) {
      const float weight = weights[q * kAttentionBlock + t];
      for (size_t e = 0; e < d; ++e) acc[q * d + e] += weight * s.row[e];
    }
  }
}

#else

// f16 and bf16: elements [first, first + kVecs * lanes) of every row.
template <ElementType kType, size_t kQueries, size_t kVecs>
HWY_INLINE void AddHalves(const float* HWY_RESTRICT weights, const uint8_t* HWY_RESTRICT rows,
                          size_t stride, size_t n, size_t first, float* HWY_RESTRICT acc,
                          size_t acc_stride, Prefetcher& next) {
  const FloatTag df;
  FloatVec sums[kQueries][kVecs];
  for (size_t q = 0; q < kQueries; ++q) {
    for (size_t c = 0; c < kVecs; ++c) {
      sums[q][c] = hn::LoadU(df, acc + q * acc_stride + first + c * kFloatLanes);
    }
  }
  const uint8_t* HWY_RESTRICT row = rows + first * sizeof(uint16_t);
  for (size_t t = 0; t < n; ++t, row += stride) {
    next.Advance(kVecs * kFloatLanes * sizeof(uint16_t));
    FloatVec value[kVecs];
    for (size_t c = 0; c < kVecs; ++c) {
      value[c] = LoadHalves<kType>(reinterpret_cast<const uint16_t*>(row) + c * kFloatLanes);
    }
    for (size_t q = 0; q < kQueries; ++q) {
      const FloatVec weight = hn::Set(df, weights[q * kAttentionBlock + t]);
      for (size_t c = 0; c < kVecs; ++c) sums[q][c] = hn::MulAdd(weight, value[c], sums[q][c]);
    }
  }
  for (size_t q = 0; q < kQueries; ++q) {
    for (size_t c = 0; c < kVecs; ++c) {
      hn::StoreU(sums[q][c], df, acc + q * acc_stride + first + c * kFloatLanes);
    }
  }
}

template <ElementType kType, size_t kQueries>
HWY_INLINE void AddHalfRows(const float* HWY_RESTRICT weights, const KvSpan& span, size_t begin,
                            size_t n, size_t d, float* HWY_RESTRICT acc, Prefetcher& next) {
  // As many sums as registers hold, as for keys.
  constexpr size_t kVecs = kQueries == 1 ? 8 : TileTokens<kQueries>();
  const uint8_t* rows = RowAt(span.v, span.v_stride, begin);
  const FloatTag df;
  size_t i = 0;
  for (; i + kVecs * kFloatLanes <= d; i += kVecs * kFloatLanes) {
    AddHalves<kType, kQueries, kVecs>(weights, rows, span.v_stride, n, i, acc, d, next);
  }
  for (; i + kFloatLanes <= d; i += kFloatLanes) {
    AddHalves<kType, kQueries, 1>(weights, rows, span.v_stride, n, i, acc, d, next);
  }
  if (i == d) return;
  for (size_t q = 0; q < kQueries; ++q) {
    HWY_ALIGN float few[kFloatLanes] = {};
    std::copy_n(acc + q * d + i, d - i, few);
    FloatVec sum = hn::Load(df, few);
    for (size_t t = 0; t < n; ++t) {
      const auto* value = reinterpret_cast<const uint16_t*>(rows + t * span.v_stride) + i;
      sum = hn::MulAdd(hn::Set(df, weights[q * kAttentionBlock + t]),
                       LoadFewHalves<kType>(value, d - i), sum);
    }
    hn::Store(sum, df, few);
    std::copy_n(few, d - i, acc + q * d + i);
  }
}

// Elements in a pass over quantised rows, and the vectors that hold them for two rows.
inline constexpr size_t kPassElements = 16;
inline constexpr size_t kPassVecs = 2 * kPassElements * sizeof(int16_t) / kPairBytes;

#if HWY_MAX_BYTES >= 64

// Codes of a block of two rows as pairs of int16: of an element, the first row's code and then the
// second's.
template <ElementType kType>
HWY_INLINE void UnpackBlock(const uint8_t* HWY_RESTRICT a, const uint8_t* HWY_RESTRICT b,
                            PairVec* HWY_RESTRICT out) {
  static_assert(kPassVecs == 1);
  const PairTag d16;
  const hn::FixedTag<uint8_t, 16> bytes;
  const hn::FixedTag<uint8_t, 32> pairs;
  const auto interleave = [&](const auto& row_a, const auto& row_b) HWY_ATTR {
    return hn::Combine(pairs, hn::InterleaveUpper(bytes, row_a, row_b),
                       hn::InterleaveLower(bytes, row_a, row_b));
  };
  if constexpr (kType == ElementType::kQ2) {
    const hn::FixedTag<uint64_t, 2> wide;
    const hn::FixedTag<uint16_t, 16> half;
    const hn::RebindToUnsigned<PairTag> du16;
    uint64_t bits[2];
    std::memcpy(bits, a + 1, sizeof(bits[0]));
    std::memcpy(bits + 1, b + 1, sizeof(bits[1]));
    const auto row_a = hn::BitCast(bytes, hn::Set(wide, bits[0]));
    const auto row_b = hn::BitCast(bytes, hn::Set(wide, bits[1]));
    const auto eight = hn::PromoteTo(half, hn::InterleaveLower(bytes, row_a, row_b));
    HWY_ALIGN static constexpr uint16_t kShifts[32] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                                                       0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2,
                                                       2, 2, 2, 2, 2, 2, 2, 2, 2, 2};
    const auto packed = hn::Shr(hn::Combine(du16, eight, eight), hn::Load(du16, kShifts));
    const auto mask = hn::Set(du16, uint16_t{3});
    out[0] = hn::BitCast(d16, hn::And(packed, mask));
    out[1] = hn::BitCast(d16, hn::And(hn::ShiftRight<4>(packed), mask));
  } else if constexpr (kType == ElementType::kQ4_0) {
    const auto packed =
        hn::PromoteTo(d16, interleave(hn::LoadU(bytes, a + 2), hn::LoadU(bytes, b + 2)));
    out[0] = hn::And(packed, hn::Set(d16, int16_t{15}));
    out[1] = hn::ShiftRight<4>(packed);
  } else {
    const hn::FixedTag<int8_t, 32> codes;
    for (size_t i = 0; i < 2; ++i) {
      const auto row_a = hn::LoadU(bytes, a + 2 + i * kPassElements);
      const auto row_b = hn::LoadU(bytes, b + 2 + i * kPassElements);
      out[i] = hn::PromoteTo(d16, hn::BitCast(codes, interleave(row_a, row_b)));
    }
  }
}

#else

// Sixteen bytes as int16, in kPassVecs / 2 vectors.
template <class V>
HWY_INLINE void Widen(V bytes, I16Vec* HWY_RESTRICT out) {
  const I16Tag d16;
  if constexpr (sizeof(V) * 2 == kByteLanes) {
    out[0] = hn::PromoteTo(d16, bytes);
  } else {
    const hn::Half<hn::DFromV<V>> half;
    out[0] = hn::PromoteTo(d16, hn::LowerHalf(half, bytes));
    out[1] = hn::PromoteTo(d16, hn::UpperHalf(half, bytes));
  }
}

// Codes of the elements [first, first + kPassElements) of a block of two rows as pairs of int16: of
// an element, the first row's code and then the second's.
template <ElementType kType>
HWY_INLINE void UnpackPairs(const uint8_t* HWY_RESTRICT a, const uint8_t* HWY_RESTRICT b,
                            size_t first, I16Vec* HWY_RESTRICT out) {
  const I16Tag d16;
  const hn::FixedTag<uint8_t, 16> bytes;
  constexpr size_t kEight = kPassVecs / 2;  // vectors for eight elements
  if constexpr (kType == ElementType::kQ2) {
    const hn::FixedTag<uint64_t, 2> wide;
    uint64_t bits[2];
    std::memcpy(bits, a + 1, sizeof(bits[0]));
    std::memcpy(bits + 1, b + 1, sizeof(bits[1]));
    const auto row_a = hn::BitCast(bytes, hn::Set(wide, bits[0]));
    const auto row_b = hn::BitCast(bytes, hn::Set(wide, bits[1]));
    Widen(hn::InterleaveLower(bytes, row_a, row_b), out);
    const auto mask = hn::Set(d16, int16_t{3});
    for (size_t i = 0; i < kEight; ++i) {
      const I16Vec packed = first == 0 ? out[i] : hn::ShiftRight<4>(out[i]);
      out[i] = hn::And(packed, mask);
      out[kEight + i] = hn::And(hn::ShiftRight<2>(packed), mask);
    }
  } else if constexpr (kType == ElementType::kQ4_0) {
    const auto row_a = hn::LoadU(bytes, a + 2);
    const auto row_b = hn::LoadU(bytes, b + 2);
    Widen(hn::InterleaveLower(bytes, row_a, row_b), out);
    Widen(hn::InterleaveUpper(bytes, row_a, row_b), out + kEight);
    for (size_t i = 0; i < kPassVecs; ++i) {
      out[i] = first == 0 ? hn::And(out[i], hn::Set(d16, int16_t{15})) : hn::ShiftRight<4>(out[i]);
    }
  } else {
    const hn::FixedTag<int8_t, 16> codes;
    const auto row_a = hn::LoadU(bytes, a + 2 + first);
    const auto row_b = hn::LoadU(bytes, b + 2 + first);
    Widen(hn::BitCast(codes, hn::InterleaveLower(bytes, row_a, row_b)), out);
    Widen(hn::BitCast(codes, hn::InterleaveUpper(bytes, row_a, row_b)), out + kEight);
  }
}

#endif  // HWY_MAX_BYTES >= 64

// Sums of weights times codes over the rows, for the elements [kFirst, kFirst + kElements) of a
// block, to sums[q, kElements].
template <ElementType kType, size_t kQueries, size_t kFirst, size_t kElements>
HWY_INLINE void SumCodes(const int16_t* HWY_RESTRICT weights, const uint8_t* HWY_RESTRICT rows,
                         size_t stride, size_t n, int32_t* HWY_RESTRICT sums) {
  const PairTag d16;
  const PairSumTag d32;
  constexpr size_t kLanes = kPairBytes / sizeof(int32_t);
  constexpr size_t kVecs = kElements / kLanes;
  PairSumVec acc[kQueries][kVecs];
  for (size_t q = 0; q < kQueries; ++q) {
    for (size_t c = 0; c < kVecs; ++c) acc[q][c] = hn::Zero(d32);
  }
  for (size_t t = 0; t < n; t += 2, rows += 2 * stride) {
    // Without a second row, its weight is zero.
    const uint8_t* second = t + 1 < n ? rows + stride : rows;
    PairVec codes[kVecs];
#if HWY_MAX_BYTES >= 64
    static_assert(kElements == kQuantBlock);
    UnpackBlock<kType>(rows, second, codes);
#else
    for (size_t e = 0; e < kElements; e += kPassElements) {
      UnpackPairs<kType>(rows, second, kFirst + e, codes + e / kLanes);
    }
#endif
    for (size_t q = 0; q < kQueries; ++q) {
      int32_t pair;
      std::memcpy(&pair, weights + q * kAttentionBlock + t, sizeof(pair));
      const PairVec weight = InRegister(hn::BitCast(d16, hn::Set(d32, pair)));
      for (size_t c = 0; c < kVecs; ++c) {
        acc[q][c] = InRegister(MulAddPairs(codes[c], weight, acc[q][c]));
      }
    }
  }
  for (size_t q = 0; q < kQueries; ++q) {
    for (size_t c = 0; c < kVecs; ++c) {
      hn::Store(acc[q][c], d32, sums + q * kElements + c * kLanes);
    }
  }
}

// Weights times the steps of one block of elements as 15-bit shares of the largest that they can
// be, [queries, kAttentionBlock]. Returns their sums and what a share of 1 stands for.
template <size_t kQueries>
HWY_INLINE void ShareWeights(const float* HWY_RESTRICT weights, float* HWY_RESTRICT steps,
                             const float* HWY_RESTRICT largest_weight, int16_t* HWY_RESTRICT shares,
                             float* HWY_RESTRICT wholes, int32_t* HWY_RESTRICT sums) {
  const FloatTag df;
  const hn::Rebind<int16_t, FloatTag> d16;
  const hn::Rebind<int32_t, FloatTag> d32;
  auto largest = hn::Zero(df);
  for (size_t t = 0; t < kAttentionBlock; t += kFloatLanes) {
    const auto step = hn::Load(df, steps + t);
    largest = hn::Max(largest, hn::Abs(step));
    // A damaged row's makes all sums infinite as the largest; here it would make no number, of
    // which there is no share.
    hn::Store(hn::IfThenElseZero(hn::IsFinite(step), step), df, steps + t);
  }
  const float largest_step = hn::GetLane(hn::MaxOfLanes(df, largest));
  for (size_t q = 0; q < kQueries; ++q) {
    const float most = largest_step * largest_weight[q];
    // What is too small to be told from zero is.
    const float factor = most > 1e-30f ? 32767.0f / most : 0.0f;
    wholes[q] = most * (1.0f / 32767.0f);
    auto sum = hn::Zero(d32);
    const auto whole = hn::Set(df, kIntegerFloat);
    for (size_t t = 0; t < kAttentionBlock; t += kFloatLanes) {
      const auto x =
          hn::Mul(hn::Load(df, steps + t), hn::Load(df, weights + q * kAttentionBlock + t));
      const auto bits = hn::BitCast(d32, hn::MulAdd(x, hn::Set(df, factor), whole));
      const auto share = hn::Sub(bits, hn::Set(d32, kIntegerBits));
      sum = hn::Add(sum, share);
      hn::StoreU(hn::DemoteTo(d16, share), d16, shares + q * kAttentionBlock + t);
    }
    sums[q] = hn::GetLane(hn::SumOfLanes(d32, sum));
  }
}

template <ElementType kType, size_t kQueries>
HWY_INLINE void AddCodeRows(const float* HWY_RESTRICT weights,
                            const float* HWY_RESTRICT largest_weight, const KvSpan& span,
                            size_t begin, size_t n, size_t d, const KernelScratch& s,
                            float* HWY_RESTRICT acc, Prefetcher& next) {
  const FloatTag df;
  const hn::Rebind<int32_t, FloatTag> d32;
  const size_t n_blocks = (d + kQuantBlock - 1) / kQuantBlock;
  LoadSteps<kType>(span.v, span.v_stride, begin, n, n_blocks, s.steps);
  for (size_t block = 0; block < n_blocks; ++block) {
    next.Advance(next.bytes() / n_blocks);
    float wholes[kQueries];
    int32_t weight_sums[kQueries];
    ShareWeights<kQueries>(weights, s.steps + block * kAttentionBlock, largest_weight, s.weights,
                           wholes, weight_sums);
    const uint8_t* rows = RowAt(span.v, span.v_stride, begin) + block * UnitBytes(kType);
    HWY_ALIGN int32_t sums[kQueries * kQuantBlock];
    // Few queries leave registers for the whole block, which is then unpacked once; so do vectors
    // of 64 bytes.
    constexpr size_t kElements = kQueries <= 2 || kPairBytes == 64 ? kQuantBlock : kPassElements;
    SumCodes<kType, kQueries, 0, kElements>(s.weights, rows, span.v_stride, n, sums);
    if constexpr (kElements < kQuantBlock) {
      SumCodes<kType, kQueries, kElements, kElements>(s.weights, rows, span.v_stride, n,
                                                      sums + kQueries * kElements);
    }
    for (size_t q = 0; q < kQueries; ++q) {
      // (code - offset) steps, in halves so that it is exact.
      const auto offset =
          hn::Set(d32, static_cast<int32_t>(2 * CodeOffset(kType)) * weight_sums[q]);
      const auto half = hn::Set(df, 0.5f * wholes[q]);
      HWY_ALIGN float added[kQuantBlock];
      for (size_t e = 0; e < kQuantBlock; e += kFloatLanes) {
        const auto sum = hn::Load(
            d32, sums + e / kElements * kQueries * kElements + q * kElements + e % kElements);
        hn::Store(hn::Mul(hn::ConvertTo(df, hn::Sub(hn::Add(sum, sum), offset)), half), df,
                  added + e);
      }
      const size_t first = block * kQuantBlock;
      float* out = acc + q * d + first;
      const size_t count = std::min(kQuantBlock, d - first);
      for (size_t e = 0; e < count; ++e) out[e] += added[e];
    }
  }
}

// acc[q] += sum over the rows [begin, begin + n) of the span of weights[q, t] times the value.
// `weights` are zero from n on, and largest_weight[q] is the largest of a query's.
template <size_t kQueries>
HWY_INLINE void AddValues(const float* HWY_RESTRICT weights,
                          const float* HWY_RESTRICT largest_weight, const KvSpan& span,
                          size_t begin, size_t n, size_t d, const KernelScratch& s,
                          float* HWY_RESTRICT acc, Prefetcher& next) {
  switch (span.v_type) {
    case ElementType::kF16:
      return AddHalfRows<ElementType::kF16, kQueries>(weights, span, begin, n, d, acc, next);
    case ElementType::kBF16:
      return AddHalfRows<ElementType::kBF16, kQueries>(weights, span, begin, n, d, acc, next);
    case ElementType::kQ8_0:
      return AddCodeRows<ElementType::kQ8_0, kQueries>(weights, largest_weight, span, begin, n, d,
                                                       s, acc, next);
    case ElementType::kQ4_0:
      return AddCodeRows<ElementType::kQ4_0, kQueries>(weights, largest_weight, span, begin, n, d,
                                                       s, acc, next);
    case ElementType::kQ2:
      return AddCodeRows<ElementType::kQ2, kQueries>(weights, largest_weight, span, begin, n, d, s,
                                                     acc, next);
  }
}

#endif  // HWY_TARGET == HWY_SCALAR

}  // namespace HWY_NAMESPACE
}  // namespace rkv
HWY_AFTER_NAMESPACE();

#endif  // RETENTIVEKV_KERNELS_VALUE_SUMS_INL_H_
