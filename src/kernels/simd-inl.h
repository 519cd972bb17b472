// SIMD operations of the kernels that Highway lacks, compiled once per target.
#if defined(RETENTIVEKV_KERNELS_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RETENTIVEKV_KERNELS_SIMD_INL_H_
#undef RETENTIVEKV_KERNELS_SIMD_INL_H_
#else
#define RETENTIVEKV_KERNELS_SIMD_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "kernels/element.h"

HWY_BEFORE_NAMESPACE();
namespace rkv {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::ScalableTag<float>;
using FloatVec = hn::Vec<FloatTag>;

// Integers work in vectors of at most 32 bytes, a block of a quantised row,
using I16Tag = hn::CappedTag<int16_t, 16>;
using I32Tag = hn::Repartition<int32_t, I16Tag>;
using I16Vec = hn::Vec<I16Tag>;
using I32Vec = hn::Vec<I32Tag>;
// or of at most 64: half a block of two rows, or four elements of many rows.
using CodeTag = hn::CappedTag<uint8_t, 64>;
using PairTag = hn::Repartition<int16_t, CodeTag>;
using PairSumTag = hn::Repartition<int32_t, CodeTag>;
using CodeVec = hn::Vec<CodeTag>;
using PairVec = hn::Vec<PairTag>;
using PairSumVec = hn::Vec<PairSumTag>;

inline constexpr size_t kFloatLanes = hn::MaxLanes(FloatTag());
inline constexpr size_t kByteLanes = HWY_MIN(HWY_MAX_BYTES, 32);
inline constexpr size_t kPairBytes = HWY_MIN(HWY_MAX_BYTES, 64);

// 1 if an instruction multiplies bytes and adds four products at once: AVX-512's VNNI.
#undef RKV_MULTIPLIES_BYTES
#if HWY_TARGET <= HWY_AVX3_DL && HWY_ARCH_X86
#define RKV_MULTIPLIES_BYTES 1
#else
#define RKV_MULTIPLIES_BYTES 0
#endif

// Vectors of sums that fit into registers, beside the loaded operands.
inline constexpr size_t kRegisterSums = HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM_A64 ? 24 : 12;

#if HWY_TARGET != HWY_SCALAR

// Stores the sums of the lanes of four vectors to out[0..3]. The order of additions is the same for
// each.
template <class V>
HWY_INLINE void StoreSumsOfFour(V a, V b, V c, V d, hn::TFromV<V>* HWY_RESTRICT out) {
  const hn::DFromV<V> tag;
  const hn::Repartition<uint64_t, decltype(tag)> wide;
  const auto ab = hn::Add(hn::InterleaveLower(tag, a, b), hn::InterleaveUpper(tag, a, b));
  const auto cd = hn::Add(hn::InterleaveLower(tag, c, d), hn::InterleaveUpper(tag, c, d));
  const auto ab64 = hn::BitCast(wide, ab);
  const auto cd64 = hn::BitCast(wide, cd);
  const auto sums = hn::Add(hn::BitCast(tag, hn::InterleaveLower(wide, ab64, cd64)),
                            hn::BitCast(tag, hn::InterleaveUpper(wide, ab64, cd64)));
  if constexpr (hn::MaxLanes(tag) == 4) {
    hn::StoreU(sums, tag, out);
  } else {
    const hn::Half<decltype(tag)> half;
    const auto folded = hn::Add(hn::LowerHalf(half, sums), hn::UpperHalf(half, sums));
    if constexpr (hn::MaxLanes(half) == 4) {
      hn::StoreU(folded, half, out);
    } else {
      const hn::Half<decltype(half)> quarter;
      hn::StoreU(hn::Add(hn::LowerHalf(quarter, folded), hn::UpperHalf(quarter, folded)), quarter,
                 out);
    }
  }
}

#if RKV_MULTIPLIES_BYTES
// Not by intrinsics: Highway compiles the target with AVX-VNNI, and some of its CPUs lack that
// encoding of the same instructions.
template <class V16, class V32>
HWY_INLINE V32 MulAddPairsVnni(V16 a, V16 b, V32 sum) {
  asm("vpdpwssd %2, %1, %0" : "+v"(sum.raw) : "v"(a.raw), "vm"(b.raw));
  return sum;
}

// Lane i: sum[i] + the products of a[4i] to a[4i+3] and the four of `quad`, which are signed.
HWY_INLINE PairSumVec MulAddQuads(CodeVec a, const int32_t& quad, PairSumVec sum) {
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum.raw) : "v"(a.raw), "m"(quad));
  return sum;
}
#else
// Lane i: a[2i] b[2i] + a[2i+1] b[2i+1], where b is signed. REQUIRES: a <= 127, so that nothing
// saturates.
HWY_INLINE PairVec MulPairs(CodeVec a, CodeVec b) {
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
  return PairVec{_mm512_maddubs_epi16(a.raw, b.raw)};
#elif HWY_TARGET <= HWY_AVX2 && HWY_ARCH_X86
  return PairVec{_mm256_maddubs_epi16(a.raw, b.raw)};
#elif HWY_TARGET <= HWY_SSSE3 && HWY_ARCH_X86
  return PairVec{_mm_maddubs_epi16(a.raw, b.raw)};
#else
  const PairTag tag;
  const auto a16 = hn::BitCast(tag, a);
  const auto b16 = hn::BitCast(tag, b);
  const auto even =
      hn::Mul(hn::And(a16, hn::Set(tag, int16_t{0xFF})), hn::ShiftRight<8>(hn::ShiftLeft<8>(b16)));
  return hn::Add(even, hn::Mul(hn::ShiftRight<8>(a16), hn::ShiftRight<8>(b16)));
#endif
}
#endif

// Lane i: sum[i] + a[2i] b[2i] + a[2i+1] b[2i+1].
HWY_INLINE I32Vec MulAddPairs(I16Vec a, I16Vec b, I32Vec sum) {
#if RKV_MULTIPLIES_BYTES
  return MulAddPairsVnni(a, b, sum);
#elif HWY_TARGET <= HWY_AVX2 && HWY_ARCH_X86
  return hn::Add(sum, I32Vec{_mm256_madd_epi16(a.raw, b.raw)});
#elif HWY_TARGET <= HWY_SSSE3 && HWY_ARCH_X86
  return hn::Add(sum, I32Vec{_mm_madd_epi16(a.raw, b.raw)});
#else
  const I32Tag tag;
  const auto a32 = hn::BitCast(tag, a);
  const auto b32 = hn::BitCast(tag, b);
  const auto even = hn::Mul(hn::ShiftRight<16>(hn::ShiftLeft<16>(a32)),
                            hn::ShiftRight<16>(hn::ShiftLeft<16>(b32)));
  return hn::Add(sum, hn::Add(even, hn::Mul(hn::ShiftRight<16>(a32), hn::ShiftRight<16>(b32))));
#endif
}

#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
HWY_INLINE PairSumVec MulAddPairs(PairVec a, PairVec b, PairSumVec sum) {
#if RKV_MULTIPLIES_BYTES
  return MulAddPairsVnni(a, b, sum);
#else
  return hn::Add(sum, PairSumVec{_mm512_madd_epi16(a.raw, b.raw)});
#endif
}
#endif

#endif  // HWY_TARGET != HWY_SCALAR

// Forces the vector into a register at this point. Compilers for x86 otherwise fold its load into
// each instruction that uses it, which makes more loads than the CPU can execute. They also reorder
// sums until these no longer fit into registers.
template <class V>
HWY_INLINE V InRegister(V v) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_SSSE3 && (HWY_COMPILER_GCC || HWY_COMPILER_CLANG)
  asm volatile("" : "+v"(v.raw));
#endif
  return v;
}

HWY_INLINE bool AllFinite(const float* HWY_RESTRICT x, size_t n) {
  const FloatTag df;
  auto zeros = hn::Zero(df);
  size_t i = 0;
  for (; i + kFloatLanes <= n; i += kFloatLanes) {
    zeros = hn::MulAdd(hn::LoadU(df, x + i), hn::Zero(df), zeros);
  }
  float zero = hn::GetLane(hn::SumOfLanes(df, zeros));
  for (; i < n; ++i) zero += 0.0f * x[i];
  return zero == 0.0f;
}

// The nearest integer of each lane, as the low bits of 1.5 * 2^23 + x. REQUIRES: |x| <= 2^22.
inline constexpr float kIntegerFloat = 12582912.0f;
inline constexpr int32_t kIntegerBits = 0x4B400000;

#if HWY_TARGET != HWY_SCALAR

// exp(x) for x <= 0. Zero for x < -87, and exp(0) for x > 0. Off by at most two units in the last
// place: 2^n times a polynomial of the rest (from Arm's optimized routines).
HWY_INLINE FloatVec ExpOfNegative(FloatVec x) {
  const FloatTag df;
  x = hn::Min(x, hn::Zero(df));
  const hn::Rebind<int32_t, FloatTag> di;
  const auto n_bits = hn::MulAdd(x, hn::Set(df, 1.44269504f), hn::Set(df, kIntegerFloat));
  const auto n = hn::Sub(n_bits, hn::Set(df, kIntegerFloat));
  auto r = hn::NegMulAdd(n, hn::Set(df, 0x1.62e4p-1f), x);
  r = hn::NegMulAdd(n, hn::Set(df, 0x1.7f7d1cp-20f), r);
  const auto r2 = hn::Mul(r, r);
  const auto high = hn::MulAdd(hn::Set(df, 0x1.0e4020p-7f), r, hn::Set(df, 0x1.573e2ep-5f));
  const auto middle = hn::MulAdd(hn::Set(df, 0x1.555e66p-3f), r, hn::Set(df, 0x1.fffdb6p-2f));
  const auto rest =
      hn::MulAdd(hn::MulAdd(high, r2, middle), r2, hn::Mul(hn::Set(df, 0x1.ffffecp-1f), r));
  const auto power = hn::Add(hn::Set(df, 1.0f), rest);
  const auto scaled = hn::Add(hn::BitCast(di, power), hn::ShiftLeft<23>(hn::BitCast(di, n_bits)));
  return hn::IfThenElseZero(hn::Ge(x, hn::Set(df, -87.0f)), hn::BitCast(df, scaled));
}

#else

HWY_INLINE FloatVec ExpOfNegative(FloatVec x) {
  return FloatVec(x.raw >= -87.0f ? std::exp(std::min(x.raw, 0.0f)) : 0.0f);
}

#endif

// Elements of f16 or bf16 rows as floats.
template <ElementType kType>
HWY_INLINE FloatVec LoadHalves(const uint16_t* HWY_RESTRICT p) {
  const FloatTag df;
  if constexpr (kType == ElementType::kF16) {
    const hn::Rebind<hwy::float16_t, FloatTag> dh;
    const auto x = hn::PromoteTo(df, hn::LoadU(dh, reinterpret_cast<const hwy::float16_t*>(p)));
#if (HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2) || HWY_TARGET == HWY_NEON
    return x;
#else
    // Without an instruction for it, Highway converts infinity and NaN to numbers from 2^16 on.
    const auto infinity = hn::Set(df, std::numeric_limits<float>::infinity());
    return hn::IfThenElse(hn::Lt(hn::Abs(x), hn::Set(df, 65536.0f)), x, hn::CopySign(infinity, x));
#endif
  } else {
    const hn::Rebind<uint16_t, FloatTag> dh;
    const hn::RebindToUnsigned<FloatTag> du;
    return hn::BitCast(df, hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(dh, p))));
  }
}

// Loads the first n elements, then zeros.
template <ElementType kType>
HWY_INLINE FloatVec LoadFewHalves(const uint16_t* HWY_RESTRICT p, size_t n) {
  uint16_t few[kFloatLanes] = {};
  std::memcpy(few, p, n * sizeof(uint16_t));
  return LoadHalves<kType>(few);
}

// Prefetches a cache line to the second-level cache.
HWY_INLINE void PrefetchToL2(const uint8_t* p) {
#if HWY_COMPILER_GCC
  __builtin_prefetch(p, 0, 2);
#else
  hwy::Prefetch(p);
#endif
}

// Prefetches the rows that a kernel reads next, step by step while it computes. Of the rows after
// those, it prefetches every third line, only to the second-level cache. The first-level cache has
// too few outstanding misses for full memory bandwidth. Each prefetch takes one, but the lines
// between, which the CPU prefetches by itself, take none.
class Prefetcher {
 public:
  Prefetcher() = default;
  // `rows`: the `n` rows to read next. `later`: the start of later rows with the same stride; null:
  // none.
  Prefetcher(const uint8_t* rows, size_t stride, size_t row_bytes, size_t n, const uint8_t* later)
      : at_(rows),
        later_(later != nullptr ? later : rows),
        bytes_(n * row_bytes),
        stride_(stride),
        row_bytes_(row_bytes),
        left_(n) {
    if (stride == row_bytes) {  // contiguous rows count as one row
      row_bytes_ = bytes_;
      left_ = bytes_ > 0 ? 1 : 0;
    }
  }

  // Total bytes of the `n` rows.
  size_t bytes() const { return bytes_; }

  // Bytes of each of `n` steps over contiguous rows, in whole cache lines. REQUIRES: n > 0.
  size_t StepBytes(size_t n) const { return (bytes_ / n + 63) / 64 * 64; }

  // Prefetches `bytes` more, at most to the end of a row.
  HWY_INLINE void Advance(size_t bytes) {
    if (left_ == 0) return;
    for (size_t i = of_row_; i < of_row_ + bytes; i += 64) {
      hwy::Prefetch(at_ + i);
      if (i % kLaterStep < std::min(bytes, size_t{64})) PrefetchToL2(later_ + i);
    }
    of_row_ += bytes;
    if (of_row_ < row_bytes_) return;
    of_row_ = 0;
    at_ += stride_;
    later_ += stride_;
    --left_;
  }

 private:
  static constexpr size_t kLaterStep = size_t{3} * 64;

  const uint8_t* at_ = nullptr;
  const uint8_t* later_ = nullptr;
  size_t bytes_ = 0;
  size_t stride_ = 0;
  size_t row_bytes_ = 0;
  size_t of_row_ = 0;  // bytes prefetched in the current row
  size_t left_ = 0;    // rows
};

}  // namespace HWY_NAMESPACE
}  // namespace rkv
HWY_AFTER_NAMESPACE();

#endif  // RETENTIVEKV_KERNELS_SIMD_INL_H_
