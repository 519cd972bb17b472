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
  // As many sums as fit into registers, as for keys.
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

// Sixteen bytes of two rows as pairs of int16.
template <class V>
HWY_INLINE PairVec PairBytes(V a, V b) {
  const hn::FixedTag<uint8_t, 32> d8;
#if RKV_MULTIPLIES_BYTES
  // An operation that Highway lacks: any byte of a vector to any place, or zero.
  HWY_ALIGN static constexpr uint32_t kFrom[] = {
      0x100000, 0x110001, 0x120002, 0x130003, 0x140004, 0x150005, 0x160006, 0x170007,
      0x180008, 0x190009, 0x1A000A, 0x1B000B, 0x1C000C, 0x1D000D, 0x1E000E, 0x1F000F};
  const auto both = _mm512_castsi256_si512(hn::Combine(d8, b, a).raw);
  return PairVec{_mm512_maskz_permutexvar_epi8(
      0x5555555555555555, hn::Load(hn::Repartition<uint32_t, PairTag>(), kFrom).raw, both)};
#else
  const hn::FixedTag<uint8_t, 16> half;
  return hn::PromoteTo(
      PairTag(), hn::Combine(d8, hn::InterleaveUpper(half, a, b), hn::InterleaveLower(half, a, b)));
#endif
}

// Adds `value` to the codes of a block of two rows whose high bit is set. The bits are in four
// bytes of each row, for elements 0 to 3, 4 to 7, ...
HWY_INLINE void AddHighBits(const uint8_t* HWY_RESTRICT a, const uint8_t* HWY_RESTRICT b,
                            int16_t value, PairVec* HWY_RESTRICT codes) {
  const PairTag d16;
  const hn::FixedTag<uint8_t, 16> bytes;
  const hn::FixedTag<uint32_t, 4> d32;
  uint32_t high[2];
  std::memcpy(high, a, sizeof(high[0]));
  std::memcpy(high + 1, b, sizeof(high[1]));
  const PairVec both = PairBytes(hn::BitCast(bytes, hn::Set(d32, high[0])),
                                 hn::BitCast(bytes, hn::Set(d32, high[1])));
  HWY_ALIGN static constexpr int16_t kBits[32] = {1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2,
                                                  4, 4, 4, 4, 4, 4, 4, 4, 8, 8, 8, 8, 8, 8, 8, 8};
  const PairVec bits = hn::Load(d16, kBits);
  const auto add = [&](const PairVec& bit, PairVec& code) HWY_ATTR {
    code = hn::Or(code, hn::IfThenElseZero(hn::TestBit(both, bit), hn::Set(d16, value)));
  };
  add(bits, codes[0]);
  add(hn::ShiftLeft<4>(bits), codes[1]);
}

// Codes of a block of two rows as pairs of int16: of an element, the first row's code and then the
// second's.
template <ElementType kType>
HWY_INLINE void UnpackBlock(const uint8_t* HWY_RESTRICT a, const uint8_t* HWY_RESTRICT b,
                            PairVec* HWY_RESTRICT out) {
  static_assert(kPassVecs == 1);
  const PairTag d16;
  const hn::FixedTag<uint8_t, 16> bytes;
  if constexpr (kType == ElementType::kQ2 || kType == ElementType::kQ3) {
    const hn::FixedTag<uint64_t, 2> wide;
    const hn::RebindToUnsigned<PairTag> du16;
    uint64_t bits[2];
    std::memcpy(bits, a + 1, sizeof(bits[0]));
    std::memcpy(bits + 1, b + 1, sizeof(bits[1]));
    const auto eight = hn::BitCast(du16, PairBytes(hn::BitCast(bytes, hn::Set(wide, bits[0])),
                                                   hn::BitCast(bytes, hn::Set(wide, bits[1]))));
    HWY_ALIGN static constexpr uint16_t kShifts[32] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                                                       0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2,
                                                       2, 2, 2, 2, 2, 2, 2, 2, 2, 2};
    const auto packed = hn::Shr(eight, hn::Load(du16, kShifts));
    const auto mask = hn::Set(du16, uint16_t{3});
    out[0] = hn::BitCast(d16, hn::And(packed, mask));
    out[1] = hn::BitCast(d16, hn::And(hn::ShiftRight<4>(packed), mask));
    if constexpr (kType == ElementType::kQ3) AddHighBits(a + 9, b + 9, 4, out);
  } else if constexpr (kType == ElementType::kQ1) {
    out[0] = out[1] = hn::Zero(d16);
    AddHighBits(a + 1, b + 1, 1, out);
  } else if constexpr (kType == ElementType::kQ4_0 || kType == ElementType::kQ4) {
    constexpr size_t kHeader = HeaderBytes(kType);
    const PairVec packed = PairBytes(hn::LoadU(bytes, a + kHeader), hn::LoadU(bytes, b + kHeader));
    out[0] = hn::And(packed, hn::Set(d16, int16_t{15}));
    out[1] = hn::ShiftRight<4>(packed);
  } else {
    const auto offset = hn::Set(bytes, uint8_t{128});
    for (size_t i = 0; i < 2; ++i) {
      const auto row_a = hn::LoadU(bytes, a + 2 + i * kPassElements);
      const auto row_b = hn::LoadU(bytes, b + 2 + i * kPassElements);
      out[i] = PairBytes(hn::Xor(row_a, offset), hn::Xor(row_b, offset));
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

// Adds `value` to the codes of UnpackPairs() whose high bit is set. The bits are in four bytes of
// each row, for elements 0 to 3, 4 to 7, ...
HWY_INLINE void AddHighBits(const uint8_t* HWY_RESTRICT a, const uint8_t* HWY_RESTRICT b,
                            size_t first, int16_t value, I16Vec* HWY_RESTRICT codes) {
  const I16Tag d16;
  const hn::FixedTag<uint8_t, 16> bytes;
  const hn::FixedTag<uint32_t, 4> d32;
  constexpr size_t kEight = kPassVecs / 2;  // vectors for eight elements
  uint32_t high[2];
  std::memcpy(high, a, sizeof(high[0]));
  std::memcpy(high + 1, b, sizeof(high[1]));
  I16Vec both[kEight];
  Widen(hn::InterleaveLower(bytes, hn::BitCast(bytes, hn::Set(d32, high[0])),
                            hn::BitCast(bytes, hn::Set(d32, high[1]))),
        both);
  HWY_ALIGN static constexpr int16_t kBits[16] = {1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2};
  constexpr size_t kLanes = kByteLanes / sizeof(int16_t);
  for (size_t i = 0; i < kEight; ++i) {
    I16Vec bit = hn::Load(d16, kBits + i * kLanes);
    if (first != 0) bit = hn::ShiftLeft<4>(bit);
    for (size_t eight = 0; eight < 2; ++eight, bit = hn::ShiftLeft<2>(bit)) {
      I16Vec& code = codes[eight * kEight + i];
      code = hn::Or(code, hn::IfThenElseZero(hn::TestBit(both[i], bit), hn::Set(d16, value)));
    }
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
  if constexpr (kType == ElementType::kQ2 || kType == ElementType::kQ3) {
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
    if constexpr (kType == ElementType::kQ3) AddHighBits(a + 9, b + 9, first, 4, out);
  } else if constexpr (kType == ElementType::kQ1) {
    for (size_t i = 0; i < kPassVecs; ++i) out[i] = hn::Zero(d16);
    AddHighBits(a + 1, b + 1, first, 1, out);
  } else if constexpr (kType == ElementType::kQ4_0 || kType == ElementType::kQ4) {
    constexpr size_t kHeader = HeaderBytes(kType);
    const auto row_a = hn::LoadU(bytes, a + kHeader);
    const auto row_b = hn::LoadU(bytes, b + kHeader);
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

// A code of UnpackBlock() or UnpackPairs() stands for (code - half of this) steps.
constexpr int32_t TwiceOffset(ElementType type) {
  if (type == ElementType::kQ8_0 && kPairBytes < 64) return 0;
  const CodeScale scale = UnpackedScale(type);  // as for keys
  return static_cast<int32_t>(2.0f * scale.unit) * scale.offset;
}

// Rows t and t + PairDistance(n) of a block form a pair, so that vectors of weights become pairs
// without shuffling. With fewer rows than two vectors have lanes, this is slower.
HWY_INLINE size_t PairDistance(size_t n) {
  return (n + 2 * kFloatLanes - 1) / (2 * kFloatLanes) * kFloatLanes;
}

// Sums weights times codes over the rows, for the elements [kFirst, kFirst + kElements) of a block,
// to sums[q, kElements]. `weights`: [queries, kAttentionBlock / 2] pairs of rows that are
// `distance` apart.
template <ElementType kType, size_t kQueries, size_t kFirst, size_t kElements>
HWY_INLINE void SumCodes(const int32_t* HWY_RESTRICT weights, const uint8_t* HWY_RESTRICT rows,
                         size_t stride, size_t n, size_t distance, int32_t* HWY_RESTRICT sums) {
  const PairTag d16;
  const PairSumTag d32;
  constexpr size_t kLanes = kPairBytes / sizeof(int32_t);
  constexpr size_t kVecs = kElements / kLanes;
  // Independent sums, to hide latency.
  constexpr size_t kPairs = kQueries == 1 ? 2 : 1;
  PairSumVec acc[kPairs][kQueries][kVecs];
  for (auto& of_pair : acc) {
    for (auto& of_query : of_pair) {
      for (PairSumVec& sum : of_query) sum = hn::Zero(d32);
    }
  }
  const auto add = [&](const uint8_t* first, const uint8_t* second, size_t t,
                       auto& sums_of) HWY_ATTR {
    PairVec codes[kVecs];
#if HWY_MAX_BYTES >= 64
    static_assert(kElements == kQuantBlock);
    UnpackBlock<kType>(first, second, codes);
#else
    for (size_t e = 0; e < kElements; e += kPassElements) {
      UnpackPairs<kType>(first, second, kFirst + e, codes + e / kLanes);
    }
#endif
    for (size_t q = 0; q < kQueries; ++q) {
      const int32_t pair = weights[q * kAttentionBlock / 2 + t];
      const PairVec weight = InRegister(hn::BitCast(d16, hn::Set(d32, pair)));
      for (size_t c = 0; c < kVecs; ++c) {
        sums_of[q][c] = InRegister(MulAddPairs(codes[c], weight, sums_of[q][c]));
      }
    }
  };
  const size_t n_pairs = n > distance ? n - distance : 0;
  const uint8_t* second = n_pairs > 0 ? rows + distance * stride : rows;
  size_t t = 0;
  for (; t + kPairs <= n_pairs; t += kPairs) {
    for (size_t p = 0; p < kPairs; ++p, rows += stride, second += stride) {
      add(rows, second, t + p, acc[p]);
    }
  }
  for (; t < n_pairs; ++t, rows += stride, second += stride) add(rows, second, t, acc[0]);
  // Without a second row, its weight is zero.
  for (; t < std::min(n, distance); ++t, rows += stride) add(rows, rows, t, acc[0]);
  for (size_t q = 0; q < kQueries; ++q) {
    for (size_t c = 0; c < kVecs; ++c) {
      PairSumVec sum = acc[0][q][c];
      for (size_t p = 1; p < kPairs; ++p) sum = hn::Add(sum, acc[p][q][c]);
      hn::Store(sum, d32, sums + q * kElements + c * kLanes);
    }
  }
}

// Scales weights, or steps, so that the largest becomes `whole`. Returns the value of a result of
// 1.
HWY_INLINE float ScaleToLargest(float largest, float whole, const float* HWY_RESTRICT x,
                                float* HWY_RESTRICT out) {
  const FloatTag df;
  // If the largest is too close to zero, all become zero.
  const auto factor = hn::Set(df, largest > 1e-30f ? whole / largest : 0.0f);
  for (size_t t = 0; t < kAttentionBlock; t += kFloatLanes) {
    hn::Store(hn::Mul(hn::Load(df, x + t), factor), df, out + t);
  }
  return largest / whole;
}

// Scales the steps of one block of elements to shares of the largest, in place, and returns the
// largest. A damaged row makes the largest not finite, and so all sums. Its own share is set to
// zero.
HWY_INLINE float ShareSteps(float* HWY_RESTRICT steps) {
  const FloatTag df;
  auto max_step = hn::Zero(df);
  for (size_t t = 0; t < kAttentionBlock; t += kFloatLanes) {
    const auto step = hn::Load(df, steps + t);
    max_step = hn::Max(max_step, hn::Abs(step));
    hn::Store(hn::IfThenElseZero(hn::IsFinite(step), step), df, steps + t);
  }
  return ScaleToLargest(hn::GetLane(hn::MaxOfLanes(df, max_step)), 1.0f, steps, steps);
}

// Weights of rows times their steps, both as shares, rounded to int16 and in pairs of rows. Their
// total is the sum of the lanes of `sums`.
HWY_INLINE void PairShares(const float* HWY_RESTRICT weights, const float* HWY_RESTRICT steps,
                           size_t distance, int32_t* HWY_RESTRICT pairs,
                           int32_t* HWY_RESTRICT sums) {
  const FloatTag df;
  const hn::Rebind<int32_t, FloatTag> d32;
  const auto whole = hn::Set(df, kIntegerFloat);
  const auto low_half = hn::Set(d32, 0xFFFF);
  const auto n_added = static_cast<uint32_t>(2 * distance / kFloatLanes);
  auto sum = hn::Set(d32, static_cast<int32_t>(-n_added * static_cast<uint32_t>(kIntegerBits)));
  const auto share = [&](size_t t) HWY_ATTR {
    const auto weight = hn::Load(df, weights + t);
    const auto bits = hn::BitCast(d32, hn::MulAdd(hn::Load(df, steps + t), weight, whole));
    sum = hn::Add(sum, bits);
    return bits;
  };
  for (size_t t = 0; t < distance; t += kFloatLanes) {
    const auto first = share(t);
    const auto second = share(t + distance);
    hn::Store(hn::Or(hn::And(first, low_half), hn::ShiftLeft<16>(second)), d32, pairs + t);
  }
  hn::Store(sum, d32, sums);
}

// Adds a part of the rows that begin at `values`. s.weights: scaled so that 1 means wholes[q].
template <ElementType kType, size_t kQueries>
HWY_INLINE void AddCodeRows(const float* HWY_RESTRICT wholes, const uint8_t* HWY_RESTRICT values,
                            size_t stride, size_t n, size_t d, size_t acc_stride,
                            const KernelScratch& s, float* HWY_RESTRICT acc, Prefetcher& next) {
  const FloatTag df;
  const hn::Rebind<int32_t, FloatTag> d32;
  const size_t n_blocks = BlocksOf(d);
  const size_t distance = PairDistance(n);
  const size_t step_bytes = next.StepBytes(BlocksOf(acc_stride));
  constexpr size_t kFours = (kQueries + 3) / 4;
  LoadSteps<kType>(values, stride, 0, n, n_blocks, s.steps);
  for (size_t block = 0; block < n_blocks; ++block) {
    s.max_steps[block] = ShareSteps(s.steps + block * kAttentionBlock);
  }
  for (size_t block = 0; block < n_blocks; ++block) {
    next.Advance(step_bytes);
    const float* steps = s.steps + block * kAttentionBlock;
    HWY_ALIGN int32_t lane_sums[4 * kFours][kFloatLanes];
    HWY_ALIGN int32_t weight_sums[4 * kFours];
    for (size_t q = 0; q < kQueries; ++q) {
      PairShares(s.weights + q * kAttentionBlock, steps, distance,
                 s.pairs + q * kAttentionBlock / 2, lane_sums[q]);
    }
    for (size_t q = 0; q < kQueries; q += 4) {
      const auto sum = [&](size_t i) HWY_ATTR {
        return hn::Load(d32, lane_sums[std::min(q + i, kQueries - 1)]);
      };
      StoreSumsOfFour(sum(0), sum(1), sum(2), sum(3), weight_sums + q);
    }
    const uint8_t* rows = values + block * UnitBytes(kType);
    HWY_ALIGN int32_t sums[kQueries * kQuantBlock];
    // With few queries, or vectors of 64 bytes, registers suffice for the whole block, which is
    // then unpacked only once.
    constexpr size_t kElements = kQueries <= 2 || kPairBytes == 64 ? kQuantBlock : kPassElements;
    SumCodes<kType, kQueries, 0, kElements>(s.pairs, rows, stride, n, distance, sums);
    if constexpr (kElements < kQuantBlock) {
      SumCodes<kType, kQueries, kElements, kElements>(s.pairs, rows, stride, n, distance,
                                                      sums + kQueries * kElements);
    }
    const size_t first = block * kQuantBlock;
    for (size_t q = 0; q < kQueries; ++q) {
      // (code - offset) steps, counted in halves to be exact.
      const auto offset = hn::Set(d32, TwiceOffset(kType) * weight_sums[q]);
      const auto half = hn::Set(df, 0.5f * wholes[q] * s.max_steps[block]);
      const auto added = [&](size_t e) HWY_ATTR {
        const auto sum = hn::Load(
            d32, sums + e / kElements * kQueries * kElements + q * kElements + e % kElements);
        return hn::Mul(hn::ConvertTo(df, hn::Sub(hn::Add(sum, sum), offset)), half);
      };
      float* out = acc + q * acc_stride + first;
      if (d - first >= kQuantBlock) {
        for (size_t e = 0; e < kQuantBlock; e += kFloatLanes) {
          hn::StoreU(hn::Add(hn::LoadU(df, out + e), added(e)), df, out + e);
        }
      } else {
        HWY_ALIGN float few[kQuantBlock];
        for (size_t e = 0; e < kQuantBlock; e += kFloatLanes) hn::Store(added(e), df, few + e);
        for (size_t e = 0; e < d - first; ++e) out[e] += few[e];
      }
    }
  }
}

// acc[q] += sum over the rows [begin, begin + n) of the span of weights[q, t] times the value.
// `weights` are zero from n on, and max_weight[q] is the largest of a query's.
template <size_t kQueries>
HWY_INLINE void AddValues(const float* HWY_RESTRICT weights, const float* HWY_RESTRICT max_weight,
                          const KvSpan& span, size_t begin, size_t n, size_t d,
                          const KernelScratch& s, float* HWY_RESTRICT acc, Prefetcher& next) {
  if (span.v_type == ElementType::kF16) {
    return AddHalfRows<ElementType::kF16, kQueries>(weights, span, begin, n, d, acc, next);
  }
  if (span.v_type == ElementType::kBF16) {
    return AddHalfRows<ElementType::kBF16, kQueries>(weights, span, begin, n, d, acc, next);
  }
  float wholes[kQueries];
  for (size_t q = 0; q < kQueries; ++q) {
    const size_t row = q * kAttentionBlock;
    wholes[q] = ScaleToLargest(max_weight[q], 32767.0f, weights + row, s.weights + row);
  }
  const uint8_t* rows = RowAt(span.v, span.v_stride, begin);
  for (const RowPart& part : PartsOf(span.v_type, d)) {
    WithBlockType(part.type, [&]<ElementType kType>() HWY_ATTR {
      AddCodeRows<kType, kQueries>(wholes, rows + part.at, span.v_stride, n, part.size(), d, s,
                                   acc + part.begin, next);
    });
  }
}

#endif  // HWY_TARGET == HWY_SCALAR

}  // namespace HWY_NAMESPACE
}  // namespace rkv
HWY_AFTER_NAMESPACE();

#endif  // RETENTIVEKV_KERNELS_VALUE_SUMS_INL_H_
