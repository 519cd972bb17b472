// Encoding, decoding and rotation of rows. The part in HWY_NAMESPACE is compiled once per SIMD
// target.
#include "kernels/element.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/element.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h, which re-includes this file once per target.
#include <algorithm>
#include <limits>

#include "kernels/element-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rkv {
namespace HWY_NAMESPACE {

void DecodeRowTarget(ElementType type, const uint8_t* row, size_t d, float* x) {
  DecodeRowImpl(type, row, d, x);
}

HWY_INLINE void HadamardBlock(float* HWY_RESTRICT x, size_t n) {
  for (size_t half = 1; half < n; half *= 2) {
    for (size_t begin = 0; begin < n; begin += 2 * half) {
      for (size_t i = begin; i < begin + half; ++i) {
        const float a = x[i];
        const float b = x[i + half];
        x[i] = a + b;
        x[i + half] = a - b;
      }
    }
  }
}

#if HWY_TARGET != HWY_SCALAR
// The stages within eight elements. Each adds the vector, with signs, to itself with halves of
// groups swapped: (a, b) becomes (a + b, a - b).
HWY_INLINE void HadamardEights(float* HWY_RESTRICT x, size_t n) {
  HWY_ALIGN static constexpr float kSigns[3][8] = {
      {1, -1, 1, -1, 1, -1, 1, -1}, {1, 1, -1, -1, 1, 1, -1, -1}, {1, 1, 1, 1, -1, -1, -1, -1}};
  const hn::CappedTag<float, 8> df;
  constexpr size_t kLanes = hn::MaxLanes(df);
  for (size_t i = 0; i < n; i += 8) {
    for (size_t at = i; at < i + 8; at += kLanes) {
      auto v = hn::LoadU(df, x + at);
      v = hn::MulAdd(v, hn::Load(df, kSigns[0]), hn::Shuffle2301(v));
      v = hn::MulAdd(v, hn::Load(df, kSigns[1]), hn::Shuffle1032(v));
      if constexpr (kLanes == 8) {
        v = hn::MulAdd(v, hn::Load(df, kSigns[2]), hn::ConcatLowerUpper(df, v, v));
      }
      hn::StoreU(v, df, x + at);
    }
    if constexpr (kLanes == 4) {
      const auto a = hn::LoadU(df, x + i);
      const auto b = hn::LoadU(df, x + i + 4);
      hn::StoreU(hn::Add(a, b), df, x + i);
      hn::StoreU(hn::Sub(a, b), df, x + i + 4);
    }
  }
}

// n: a power of two from 8 on.
HWY_INLINE void HadamardVectors(float* HWY_RESTRICT x, size_t n) {
  HadamardEights(x, n);
  const hn::CappedTag<float, 8> df;
  constexpr size_t kLanes = hn::MaxLanes(df);
  for (size_t half = 8; half < n; half *= 2) {
    for (size_t begin = 0; begin < n; begin += 2 * half) {
      for (size_t i = begin; i < begin + half; i += kLanes) {
        const auto a = hn::LoadU(df, x + i);
        const auto b = hn::LoadU(df, x + i + half);
        hn::StoreU(hn::Add(a, b), df, x + i);
        hn::StoreU(hn::Sub(a, b), df, x + i + half);
      }
    }
  }
}
#endif

void RotateRowTarget(float* HWY_RESTRICT x, size_t d, size_t n) {
  for (size_t begin = 0; begin < d; begin += n) {
#if HWY_TARGET != HWY_SCALAR
    if (n >= 8) {
      HadamardVectors(x + begin, n);
      continue;
    }
#endif
    HadamardBlock(x + begin, n);
  }
  const float scale = 1.0f / std::sqrt(static_cast<float>(n));
  for (size_t i = 0; i < d; ++i) x[i] *= scale;
}

// Levels of a block are 2^kBits integers plus kOffset, times its step: for up to three bits half
// integers of both signs, for four bits -8 to 7, as the bits would not suffice for doubled codes.
template <size_t kBits>
inline constexpr float kOffset = kBits == 4 ? 0.0f : 0.5f;

// Element, in steps, to the integer of its level. NaN becomes the lowest.
template <size_t kBits, class D>
HWY_INLINE hn::Vec<D> LevelOf(D df, hn::Vec<D> steps) {
  constexpr float kHalf = 1 << (kBits - 1);
  const auto level = hn::Floor(hn::Add(steps, hn::Set(df, 0.5f - kOffset<kBits>)));
  const auto lowest = hn::Set(df, -kHalf);
  return hn::Min(hn::IfThenElse(hn::Ge(level, lowest), level, lowest), hn::Set(df, kHalf - 1));
}

template <size_t kBits>
HWY_INLINE float LevelError(const float* HWY_RESTRICT x, float step) {
  const FloatTag df;
  const auto inverse = hn::Set(df, 1.0f / step);
  const auto minus_step = hn::Set(df, -step);
  auto error = hn::Zero(df);
  for (size_t i = 0; i < kQuantBlock; i += kFloatLanes) {
    const auto element = hn::LoadU(df, x + i);
    const auto level = LevelOf<kBits>(df, hn::Mul(element, inverse));
    const auto e = hn::MulAdd(hn::Add(level, hn::Set(df, kOffset<kBits>)), minus_step, element);
    error = hn::MulAdd(e, e, error);
  }
  return hn::GetLane(hn::SumOfLanes(df, error));
}

// The scale byte with the minimum squared error for one block.
template <size_t kBits>
HWY_INLINE uint8_t BestScale(const float* HWY_RESTRICT x) {
  float square = 0;
  for (size_t i = 0; i < kQuantBlock; ++i) square += x[i] * x[i];
  if (square == 0) return 0;
  // A Gaussian's best step is 1.6, 1, .59 and .33 of its standard deviation. Other blocks are
  // within half and double.
  constexpr int kMiddle[] = {149, 144, 138, 131};
  const float rms = std::sqrt(square / static_cast<float>(kQuantBlock));
  const int middle = static_cast<int>(std::lround(8 * std::log2(rms))) + kMiddle[kBits - 1];
  uint8_t best = 1;
  float min_error = std::numeric_limits<float>::infinity();
  for (int code = std::max(1, middle - 6); code <= std::min(255, middle + 6); ++code) {
    const float error = LevelError<kBits>(x, ScaleOfByte(static_cast<uint8_t>(code)));
    if (error < min_error) {
      min_error = error;
      best = static_cast<uint8_t>(code);
    }
  }
  return best;
}

// The scale byte, then the codes as docs/formats.md describes them.
template <size_t kBits>
HWY_INLINE void EncodeLevels(const float* HWY_RESTRICT x, uint8_t* HWY_RESTRICT block) {
  constexpr int kHalf = 1 << (kBits - 1);
  block[0] = BestScale<kBits>(x);
  const float step = ScaleOfByte(block[0]);
  const FloatTag df;
  const hn::Rebind<int32_t, FloatTag> di;
  const auto inverse = hn::Set(df, step > 0 ? 1.0f / step : 0.0f);
  HWY_ALIGN int32_t codes[kQuantBlock];
  for (size_t i = 0; i < kQuantBlock; i += kFloatLanes) {
    const auto level = LevelOf<kBits>(df, hn::Mul(hn::LoadU(df, x + i), inverse));
    hn::Store(hn::Add(hn::ConvertTo(di, level), hn::Set(di, kHalf)), di, codes + i);
  }
  uint8_t* at = block + 1;
  if constexpr (kBits == 4) {
    for (size_t i = 0; i < kQuantBlock / 2; ++i) {
      at[i] = static_cast<uint8_t>(codes[i] | codes[i + kQuantBlock / 2] << 4);
    }
    return;
  }
  if constexpr (kBits >= 2) {
    constexpr size_t kBytes = kQuantBlock / 4;
    for (size_t i = 0; i < kBytes; ++i) {
      int low = 0;
      for (size_t part = 0; part < 4; ++part) low |= (codes[part * kBytes + i] & 3) << (2 * part);
      at[i] = static_cast<uint8_t>(low);
    }
    at += kBytes;
  }
  if constexpr (kBits != 2) {
    for (size_t i = 0; i < 4; ++i) {
      int high = 0;
      for (size_t bit = 0; bit < 8; ++bit) high |= (codes[4 * bit + i] >> (kBits - 1)) << bit;
      at[i] = static_cast<uint8_t>(high);
    }
  }
}

// REQUIRES: HasScaleByte(type).
void EncodeLevelsTarget(ElementType type, const float* HWY_RESTRICT x,
                        uint8_t* HWY_RESTRICT block) {
  WithBlockType(type, [&]<ElementType kType>() HWY_ATTR {
    if constexpr (HasScaleByte(kType)) EncodeLevels<CodeBits(kType)>(x, block);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace rkv
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rkv {

HWY_EXPORT(DecodeRowTarget);
HWY_EXPORT(RotateRowTarget);
HWY_EXPORT(EncodeLevelsTarget);

namespace {

void EncodeQ8_0Block(const float* x, uint8_t* block) {
  float max = 0;
  for (size_t i = 0; i < kQuantBlock; ++i) max = std::max(max, std::abs(x[i]));
  const float scale = max / 127.0f;
  const float inverse = scale > 0 ? 1.0f / scale : 0.0f;
  const uint16_t half = F16FromF32(scale);
  std::memcpy(block, &half, sizeof(half));
  for (size_t i = 0; i < kQuantBlock; ++i) {
    // Half away from zero, as std::lround.
    const float scaled = x[i] * inverse;
    const float rounded = scaled + std::copysign(0.5f, scaled);
    const int code = static_cast<int>(std::min(std::max(-127.5f, rounded), 127.5f));
    block[2 + i] = static_cast<uint8_t>(static_cast<int8_t>(code));
  }
}

void EncodeQ4_0Block(const float* x, uint8_t* block) {
  float extreme = 0;  // the element of largest magnitude becomes -8
  for (size_t i = 0; i < kQuantBlock; ++i) {
    if (std::abs(x[i]) > std::abs(extreme)) extreme = x[i];
  }
  const float scale = extreme / -8.0f;
  const float inverse = scale != 0 ? 1.0f / scale : 0.0f;
  const uint16_t half = F16FromF32(scale);
  std::memcpy(block, &half, sizeof(half));
  const auto code = [inverse](float value) {
    return static_cast<uint8_t>(std::min(15.0f, std::max(0.0f, value * inverse + 8.5f)));
  };
  for (size_t i = 0; i < kQuantBlock / 2; ++i) {
    block[2 + i] = static_cast<uint8_t>(code(x[i]) | (code(x[i + kQuantBlock / 2]) << 4));
  }
}

void EncodeBlock(ElementType type, const float* x, uint8_t* block) {
  if (type == ElementType::kQ8_0) return EncodeQ8_0Block(x, block);
  if (type == ElementType::kQ4_0) return EncodeQ4_0Block(x, block);
  HWY_DYNAMIC_DISPATCH(EncodeLevelsTarget)(type, x, block);
}

void EncodeBlocks(ElementType type, const float* x, size_t d, uint8_t* row) {
  const size_t unit = UnitBytes(type);
  size_t i = 0;
  for (; i + kQuantBlock <= d; i += kQuantBlock, row += unit) EncodeBlock(type, x + i, row);
  if (i < d) {
    float last[kQuantBlock] = {};
    std::copy(x + i, x + d, last);
    EncodeBlock(type, last, row);
  }
}

uint16_t BF16FromF32(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  return static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace

void EncodeRow(ElementType type, const float* x, size_t d, void* row) {
  auto* bytes = static_cast<uint8_t*>(row);
  const auto set_half = [bytes](size_t i, uint16_t half) {
    std::memcpy(bytes + i * sizeof(half), &half, sizeof(half));
  };
  switch (type) {
    case ElementType::kF16:
      for (size_t i = 0; i < d; ++i) set_half(i, F16FromF32(x[i]));
      return;
    case ElementType::kBF16:
      for (size_t i = 0; i < d; ++i) set_half(i, BF16FromF32(x[i]));
      return;
    default:
      for (const RowPart& part : PartsOf(type, d)) {
        EncodeBlocks(part.type, x + part.begin, part.size(), bytes + part.at);
      }
  }
}

void DecodeRow(ElementType type, const void* row, size_t d, float* x) {
  HWY_DYNAMIC_DISPATCH(DecodeRowTarget)(type, static_cast<const uint8_t*>(row), d, x);
}

void RotateRow(float* x, size_t d, size_t n) { HWY_DYNAMIC_DISPATCH(RotateRowTarget)(x, d, n); }

}  // namespace rkv
#endif  // HWY_ONCE
