// SIMD bodies of element.h, compiled once per target.
#if defined(RETENTIVEKV_KERNELS_ELEMENT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RETENTIVEKV_KERNELS_ELEMENT_INL_H_
#undef RETENTIVEKV_KERNELS_ELEMENT_INL_H_
#else
#define RETENTIVEKV_KERNELS_ELEMENT_INL_H_
#endif

#include <bit>
#include <cmath>
#include <cstring>

#include "base/f16.h"
#include "hwy/highway.h"
#include "kernels/element.h"
#include "kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rkv {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Rows of halves may start at any address.
HWY_INLINE uint16_t HalfAt(const uint8_t* bytes, size_t i) {
  uint16_t half;
  std::memcpy(&half, bytes + i * sizeof(half), sizeof(half));
  return half;
}

HWY_INLINE void DecodeF16(const uint8_t* HWY_RESTRICT bytes, size_t n, float* HWY_RESTRICT out) {
  const auto* in = reinterpret_cast<const uint16_t*>(bytes);
  const FloatTag df;
  size_t i = 0;
  for (; i + kFloatLanes <= n; i += kFloatLanes) {
    hn::StoreU(LoadHalves<ElementType::kF16>(in + i), df, out + i);
  }
  for (; i < n; ++i) out[i] = F32FromF16(HalfAt(bytes, i));
}

HWY_INLINE void DecodeBF16(const uint8_t* HWY_RESTRICT bytes, size_t n, float* HWY_RESTRICT out) {
  for (size_t i = 0; i < n; ++i) {
    out[i] = std::bit_cast<float>(static_cast<uint32_t>(HalfAt(bytes, i)) << 16);
  }
}

// Calls body.operator()<type>(). REQUIRES: a quantised type that is not mixed.
template <typename Body>
HWY_INLINE void WithBlockType(ElementType type, const Body& body) {
  switch (type) {
    case ElementType::kQ8_0:
      return body.template operator()<ElementType::kQ8_0>();
    case ElementType::kQ4_0:
      return body.template operator()<ElementType::kQ4_0>();
    case ElementType::kQ4:
      return body.template operator()<ElementType::kQ4>();
    case ElementType::kQ3:
      return body.template operator()<ElementType::kQ3>();
    case ElementType::kQ2:
      return body.template operator()<ElementType::kQ2>();
    default:
      return body.template operator()<ElementType::kQ1>();
  }
}

// Decodes one block; written so that compilers vectorise it for each target.
template <ElementType kType>
HWY_INLINE void DecodeBlock(const uint8_t* HWY_RESTRICT block, float* HWY_RESTRICT out) {
  constexpr size_t kBits = CodeBits(kType);
  const float scale = HasScaleByte(kType) ? ScaleOfByte(block[0]) : F32FromF16(HalfAt(block, 0));
  const uint8_t* codes = block + HeaderBytes(kType);
  if constexpr (kBits == 8) {
    for (size_t i = 0; i < kQuantBlock; ++i) {
      out[i] = scale * static_cast<float>(static_cast<int8_t>(codes[i]));
    }
  } else if constexpr (kBits == 4) {
    for (size_t i = 0; i < kQuantBlock / 2; ++i) {
      out[i] = scale * static_cast<float>((codes[i] & 15) - 8);
      out[i + kQuantBlock / 2] = scale * static_cast<float>((codes[i] >> 4) - 8);
    }
  } else {
    constexpr size_t kBytes = kQuantBlock / 4;
    constexpr float kMiddle = 0.5f * static_cast<float>((1 << kBits) - 1);
    const uint8_t* high = kBits == 1 ? codes : codes + kBytes;
    for (size_t i = 0; i < kQuantBlock; ++i) {
      int code = 0;
      if constexpr (kBits >= 2) code = (codes[i % kBytes] >> (2 * (i / kBytes))) & 3;
      if constexpr (kBits != 2) code |= ((high[i % 4] >> (i / 4)) & 1) << (kBits - 1);
      out[i] = scale * (static_cast<float>(code) - kMiddle);
    }
  }
}

template <ElementType kType>
HWY_INLINE void DecodeBlocks(const uint8_t* HWY_RESTRICT row, size_t d, float* HWY_RESTRICT out) {
  size_t i = 0;
  for (; i + kQuantBlock <= d; i += kQuantBlock, row += UnitBytes(kType)) {
    DecodeBlock<kType>(row, out + i);
  }
  if (i < d) {
    float last[kQuantBlock];
    DecodeBlock<kType>(row, last);
    std::memcpy(out + i, last, (d - i) * sizeof(float));
  }
}

HWY_INLINE void DecodeRowImpl(ElementType type, const uint8_t* HWY_RESTRICT row, size_t d,
                              float* HWY_RESTRICT out) {
  if (type == ElementType::kF16) return DecodeF16(row, d, out);
  if (type == ElementType::kBF16) return DecodeBF16(row, d, out);
  for (const RowPart& part : PartsOf(type, d)) {
    WithBlockType(part.type, [&]<ElementType kType>() HWY_ATTR {
      DecodeBlocks<kType>(row + part.at, part.size(), out + part.begin);
    });
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace rkv
HWY_AFTER_NAMESPACE();

#endif  // RETENTIVEKV_KERNELS_ELEMENT_INL_H_
