// Rows of quantised elements as the kernels read them, compiled once per target.
#if defined(RETENTIVEKV_KERNELS_ROW_BLOCKS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RETENTIVEKV_KERNELS_ROW_BLOCKS_INL_H_
#undef RETENTIVEKV_KERNELS_ROW_BLOCKS_INL_H_
#else
#define RETENTIVEKV_KERNELS_ROW_BLOCKS_INL_H_
#endif

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/attention.h"
#include "kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rkv {
namespace HWY_NAMESPACE {

HWY_INLINE const uint8_t* RowAt(const void* rows, size_t stride, size_t t) {
  return static_cast<const uint8_t*>(rows) + t * stride;
}

#if HWY_TARGET != HWY_SCALAR

// Transposes four dwords of each row to four vectors, each with one dword of all rows. The number
// of rows is that of dwords in a vector. `load(row)` gives the four dwords of a row.
template <typename Load>
HWY_INLINE void TransposeQuads(const Load& load, CodeVec* HWY_RESTRICT out) {
  const CodeTag d8;
  const hn::Repartition<uint64_t, CodeTag> d64;
  const hn::Repartition<uint32_t, CodeTag> d32;
  const auto rows = [&](size_t i) HWY_ATTR {  // row i and every fourth row after it
#if HWY_MAX_BYTES >= 64
    const hn::FixedTag<uint8_t, 32> half;
    return hn::BitCast(d32, hn::Combine(d8, hn::Combine(half, load(i + 12), load(i + 8)),
                                        hn::Combine(half, load(i + 4), load(i))));
#elif HWY_MAX_BYTES >= 32
    return hn::BitCast(d32, hn::Combine(d8, load(i + 4), load(i)));
#else
    return hn::BitCast(d32, load(i));
#endif
  };
  const auto a = rows(0);
  const auto b = rows(1);
  const auto c = rows(2);
  const auto d = rows(3);
  const auto ab_low = hn::BitCast(d64, hn::InterleaveLower(d32, a, b));
  const auto ab_high = hn::BitCast(d64, hn::InterleaveUpper(d32, a, b));
  const auto cd_low = hn::BitCast(d64, hn::InterleaveLower(d32, c, d));
  const auto cd_high = hn::BitCast(d64, hn::InterleaveUpper(d32, c, d));
  out[0] = hn::BitCast(d8, hn::InterleaveLower(d64, ab_low, cd_low));
  out[1] = hn::BitCast(d8, hn::InterleaveUpper(d64, ab_low, cd_low));
  out[2] = hn::BitCast(d8, hn::InterleaveLower(d64, ab_high, cd_high));
  out[3] = hn::BitCast(d8, hn::InterleaveUpper(d64, ab_high, cd_high));
}

// Value of an unpacked code: (code - offset) * unit steps. Codes of q3, q2 and q1 are doubled,
// and those of q8_0 are unsigned.
struct CodeScale {
  int32_t offset;
  float unit;
};
constexpr CodeScale UnpackedScale(ElementType type) {
  if (type == ElementType::kQ2) return {.offset = 3, .unit = 0.5f};
  if (type == ElementType::kQ3) return {.offset = 7, .unit = 0.5f};
  if (type == ElementType::kQ1) return {.offset = 1, .unit = 0.5f};
  return {.offset = type == ElementType::kQ8_0 ? 128 : 8, .unit = 1.0f};
}

// Unpacks the codes of one block of `rows`, one row per lane, to out[dword, lane]. For q2, of two
// blocks, the second to out[second + ...].
template <ElementType kType>
HWY_INLINE void UnpackQuads(const uint8_t* const* HWY_RESTRICT rows, size_t at, size_t second_at,
                            uint8_t* HWY_RESTRICT out, size_t second) {
  const CodeTag d8;
  const hn::Repartition<uint16_t, CodeTag> d16;
  const hn::FixedTag<uint8_t, 16> bytes;
  CodeVec quads[4];
  const auto store = [&](const auto& codes, size_t i)
                         HWY_ATTR { hn::Store(hn::BitCast(d8, codes), d8, out + i * kPairBytes); };
  if constexpr (kType == ElementType::kQ2) {
    const hn::FixedTag<uint64_t, 2> wide;
    const hn::FixedTag<uint64_t, 1> word;
    TransposeQuads(
        [&](size_t row) HWY_ATTR {
          const auto load = [&](size_t offset) HWY_ATTR {
            return hn::LoadU(word, reinterpret_cast<const uint64_t*>(rows[row] + offset + 1));
          };
          return hn::BitCast(bytes, hn::Combine(wide, load(second_at), load(at)));
        },
        quads);
    const auto mask = hn::Set(d16, uint16_t{0x0606});
    for (size_t half = 0; half < 2; ++half, out += second) {
      for (size_t i = 0; i < 2; ++i) {
        const auto packed = hn::BitCast(d16, quads[2 * half + i]);
        store(hn::And(hn::ShiftLeft<1>(packed), mask), i);
        store(hn::And(hn::ShiftRight<1>(packed), mask), 2 + i);
        store(hn::And(hn::ShiftRight<3>(packed), mask), 4 + i);
        store(hn::And(hn::ShiftRight<5>(packed), mask), 6 + i);
      }
    }
  } else if constexpr (kType == ElementType::kQ3) {
    const hn::FixedTag<uint64_t, 2> wide;
    const hn::FixedTag<uint64_t, 1> word;
    // Two dwords of low bits, the second again, and the high bits.
    TransposeQuads(
        [&](size_t row) HWY_ATTR {
          const auto load = [&](size_t offset) HWY_ATTR {
            return hn::LoadU(word, reinterpret_cast<const uint64_t*>(rows[row] + at + offset));
          };
          return hn::BitCast(bytes, hn::Combine(wide, load(5), load(1)));
        },
        quads);
    const auto mask = hn::Set(d16, uint16_t{0x0606});
    const auto bit = hn::Set(d16, uint16_t{0x0808});
    const auto first = hn::BitCast(d16, quads[0]);
    const auto second_low = hn::BitCast(d16, quads[1]);
    const auto high = hn::BitCast(d16, quads[3]);
    const auto join = [&](const auto& low_bits, const auto& high_bit, size_t i) HWY_ATTR {
      store(hn::Or(hn::And(low_bits, mask), hn::And(high_bit, bit)), i);
    };
    join(hn::ShiftLeft<1>(first), hn::ShiftLeft<3>(high), 0);
    join(hn::ShiftLeft<1>(second_low), hn::ShiftLeft<2>(high), 1);
    join(hn::ShiftRight<1>(first), hn::ShiftLeft<1>(high), 2);
    join(hn::ShiftRight<1>(second_low), high, 3);
    join(hn::ShiftRight<3>(first), hn::ShiftRight<1>(high), 4);
    join(hn::ShiftRight<3>(second_low), hn::ShiftRight<2>(high), 5);
    join(hn::ShiftRight<5>(first), hn::ShiftRight<3>(high), 6);
    join(hn::ShiftRight<5>(second_low), hn::ShiftRight<4>(high), 7);
  } else if constexpr (kType == ElementType::kQ1) {
    HWY_ALIGN uint32_t dwords[kFloatLanes];
    for (size_t row = 0; row < kFloatLanes; ++row) std::memcpy(dwords + row, rows[row] + at + 1, 4);
    const hn::Repartition<uint32_t, CodeTag> d32;
    const auto high = hn::BitCast(d16, hn::Load(d32, dwords));
    const auto bit = hn::Set(d16, uint16_t{0x0202});
    store(hn::And(hn::ShiftLeft<1>(high), bit), 0);
    store(hn::And(high, bit), 1);
    store(hn::And(hn::ShiftRight<1>(high), bit), 2);
    store(hn::And(hn::ShiftRight<2>(high), bit), 3);
    store(hn::And(hn::ShiftRight<3>(high), bit), 4);
    store(hn::And(hn::ShiftRight<4>(high), bit), 5);
    store(hn::And(hn::ShiftRight<5>(high), bit), 6);
    store(hn::And(hn::ShiftRight<6>(high), bit), 7);
  } else if constexpr (kType == ElementType::kQ4_0 || kType == ElementType::kQ4) {
    constexpr size_t kHeader = HeaderBytes(kType);
    TransposeQuads([&](size_t row) HWY_ATTR { return hn::LoadU(bytes, rows[row] + at + kHeader); },
                   quads);
    const auto mask = hn::Set(d16, uint16_t{0x0F0F});
    for (size_t i = 0; i < 4; ++i) {
      const auto packed = hn::BitCast(d16, quads[i]);
      store(hn::And(packed, mask), i);
      store(hn::And(hn::ShiftRight<4>(packed), mask), 4 + i);
    }
  } else {
    for (size_t half = 0; half < 2; ++half) {
      TransposeQuads(
          [&](size_t row)
              HWY_ATTR { return hn::LoadU(bytes, rows[row] + at + 2 + half * kQuantBlock / 2); },
          quads);
      for (size_t i = 0; i < 4; ++i) {
        store(hn::Xor(quads[i], hn::Set(d8, uint8_t{128})), 4 * half + i);
      }
    }
  }
}

// Unpacks codes of the rows [begin, begin + n) for the multiplication of keys, padded with valid
// codes to whole vectors. [blocks][rows / lanes][dwords][lanes]: a dword has the codes of four
// elements, and a lane is a row.
template <ElementType kType>
HWY_INLINE void UnpackBlocks(const void* keys, size_t stride, size_t begin, size_t n,
                             size_t n_blocks, uint8_t* HWY_RESTRICT out) {
  constexpr size_t kBlocks = kType == ElementType::kQ2 ? 2 : 1;  // at once
  constexpr size_t kBlockBytes = kAttentionBlock * kQuantBlock;
  for (size_t t = 0; t < n; t += kFloatLanes) {
    const uint8_t* rows[kFloatLanes];
    for (size_t i = 0; i < kFloatLanes; ++i) {
      rows[i] = RowAt(keys, stride, begin + std::min(t + i, n - 1));
    }
    uint8_t* at = out + t * kQuantBlock;
    for (size_t block = 0; block < n_blocks; block += kBlocks) {
      const size_t second = std::min(block + kBlocks, n_blocks) - 1;
      UnpackQuads<kType>(rows, block * UnitBytes(kType), second * UnitBytes(kType),
                         at + block * kBlockBytes, (second - block) * kBlockBytes);
    }
  }
}

template <ElementType kType, size_t kBlocks>
HWY_INLINE void LoadStepsOf(const uint8_t* HWY_RESTRICT rows, size_t stride, size_t n,
                            float* HWY_RESTRICT steps) {
  constexpr size_t kUnit = UnitBytes(kType);
  if constexpr (HasScaleByte(kType)) {
    for (size_t t = 0; t < n; ++t, rows += stride) {
      for (size_t b = 0; b < kBlocks; ++b) {
        steps[b * kAttentionBlock + t] = kScalesOfBytes.scales[rows[b * kUnit]];
      }
    }
    for (size_t b = 0; b < kBlocks; ++b) {
      std::fill(steps + b * kAttentionBlock + n, steps + (b + 1) * kAttentionBlock, 0.0f);
    }
  } else {
    HWY_ALIGN uint16_t halves[kBlocks][kAttentionBlock];
    for (size_t b = 0; b < kBlocks; ++b) std::fill(halves[b] + n, halves[b] + kAttentionBlock, 0);
    for (size_t t = 0; t < n; ++t, rows += stride) {
      for (size_t b = 0; b < kBlocks; ++b) {
        std::memcpy(&halves[b][t], rows + b * kUnit, sizeof(uint16_t));
      }
    }
    const FloatTag df;
    const auto infinity = hn::Set(df, std::numeric_limits<float>::infinity());
    for (size_t i = 0; i < kBlocks * kAttentionBlock; i += kFloatLanes) {
      // Unlike NaN, infinity survives a maximum, so every damaged row is noticed.
      const auto step = LoadHalves<ElementType::kF16>(halves[0] + i);
      hn::StoreU(hn::IfThenElse(hn::Eq(step, step), step, infinity), df, steps + i);
    }
  }
}

// The steps of every block of the rows [begin, begin + n), to steps[block * kAttentionBlock + t];
// zero from n on.
template <ElementType kType>
HWY_INLINE void LoadSteps(const void* rows, size_t stride, size_t begin, size_t n, size_t n_blocks,
                          float* HWY_RESTRICT steps) {
  const uint8_t* at = RowAt(rows, stride, begin);
  size_t b = 0;
  for (; b + 4 <= n_blocks; b += 4, at += 4 * UnitBytes(kType)) {
    LoadStepsOf<kType, 4>(at, stride, n, steps + b * kAttentionBlock);
  }
  for (; b < n_blocks; ++b, at += UnitBytes(kType)) {
    LoadStepsOf<kType, 1>(at, stride, n, steps + b * kAttentionBlock);
  }
}

#endif  // HWY_TARGET != HWY_SCALAR

}  // namespace HWY_NAMESPACE
}  // namespace rkv
HWY_AFTER_NAMESPACE();

#endif  // RETENTIVEKV_KERNELS_ROW_BLOCKS_INL_H_
