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

// A code of 4 or 2 bits stands for (code - offset) steps.
constexpr float CodeOffset(ElementType type) {
  return type == ElementType::kQ4_0 ? 8.0f : (type == ElementType::kQ2 ? 1.5f : 0.0f);
}

// Codes of the elements [first, first + kByteLanes) of a block of q4_0 or q2.
template <ElementType kType>
HWY_INLINE U8Vec UnpackCodes(const uint8_t* HWY_RESTRICT block, size_t first) {
  const U8Tag d8;
  const hn::Repartition<uint64_t, U8Tag> d64;
  HWY_ALIGN static constexpr uint64_t kShifts2[] = {0, 2, 4, 6};
  HWY_ALIGN static constexpr uint64_t kShifts4[] = {0, 0, 4, 4};
  if constexpr (kType == ElementType::kQ2) {
    uint64_t bits;  // eight bytes with four codes each, for elements i, i + 8, i + 16, i + 24
    std::memcpy(&bits, block + 1, sizeof(bits));
    const auto shifted = hn::Shr(hn::Set(d64, bits), hn::Load(d64, kShifts2 + first / 8));
    return hn::And(hn::BitCast(d8, shifted), hn::Set(d8, uint8_t{3}));
  } else {
    // Sixteen bytes with two codes each, for elements i and i + 16.
    const auto bits = hn::BitCast(d64, hn::LoadDup128(d8, block + 2));
    const auto shifted = hn::Shr(bits, hn::Load(d64, kShifts4 + first / 8));
    return hn::And(hn::BitCast(d8, shifted), hn::Set(d8, uint8_t{15}));
  }
}

template <ElementType kType, size_t kBlocks>
HWY_INLINE void LoadStepsOf(const uint8_t* HWY_RESTRICT rows, size_t stride, size_t n,
                            float* HWY_RESTRICT steps) {
  constexpr size_t kUnit = UnitBytes(kType);
  if constexpr (kType == ElementType::kQ2) {
    for (size_t t = 0; t < n; ++t, rows += stride) {
      for (size_t b = 0; b < kBlocks; ++b) {
        steps[b * kAttentionBlock + t] = kQ2Scales.scales[rows[b * kUnit]];
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
      // Unlike NaN, infinity survives taking a maximum, so no damaged row goes unnoticed.
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
