// Rows of K and V in every element type that the cache stores. f16, bf16, q8_0 and q4_0 have
// llama.cpp's layouts; the others are ours. docs/formats.md describes them.
#ifndef RETENTIVEKV_KERNELS_ELEMENT_H_
#define RETENTIVEKV_KERNELS_ELEMENT_H_

#include <bit>
#include <cstddef>
#include <cstdint>

#include "retentivekv/options.h"

namespace rkv {

// Quantised types work in blocks of this many elements; a row that is no multiple of it is padded
// with zeros.
inline constexpr size_t kQuantBlock = 32;

constexpr bool IsQuantized(ElementType type) { return type >= ElementType::kQ8_0; }

// Blocks begin with a logarithmic scale of one byte, which is always finite.
constexpr bool HasScaleByte(ElementType type) { return type >= ElementType::kQ4; }

// The two types of the blocks of a row: those of the first half of the blocks, and the others.
struct BlockTypes {
  ElementType first = ElementType::kF16;
  ElementType second = ElementType::kF16;
};
constexpr BlockTypes BlockTypesOf(ElementType type) {
  switch (type) {
    case ElementType::kQ42:
      return {ElementType::kQ4, ElementType::kQ2};
    case ElementType::kQ41:
      return {ElementType::kQ4, ElementType::kQ1};
    case ElementType::kQ31:
      return {ElementType::kQ3, ElementType::kQ1};
    default:
      return {type, type};
  }
}
constexpr bool IsMixed(ElementType type) { return BlockTypesOf(type).second != type; }

constexpr size_t BlocksOf(size_t d) { return (d + kQuantBlock - 1) / kQuantBlock; }
// Of `n` blocks in a row of a mixed type, those of the first type.
constexpr size_t FirstBlocks(size_t n) { return (n + 1) / 2; }

// Bits of a code. REQUIRES: a quantised type that is not mixed; so also below.
constexpr size_t CodeBits(ElementType type) {
  switch (type) {
    case ElementType::kQ8_0:
      return 8;
    case ElementType::kQ4_0:
    case ElementType::kQ4:
      return 4;
    case ElementType::kQ3:
      return 3;
    case ElementType::kQ2:
      return 2;
    default:
      return 1;
  }
}

// Bytes of a block before its codes: a logarithmic scale of one byte, or an f16 scale.
constexpr size_t HeaderBytes(ElementType type) { return HasScaleByte(type) ? 1 : 2; }

// Bytes of a block.
constexpr size_t UnitBytes(ElementType type) {
  return HeaderBytes(type) + kQuantBlock * CodeBits(type) / 8;
}

// Elements [begin, end) of a row, all in blocks of one type, from byte `at` of the row on.
struct RowPart {
  ElementType type = ElementType::kF16;
  size_t begin = 0;
  size_t end = 0;
  size_t at = 0;

  constexpr size_t size() const { return end - begin; }
  constexpr size_t end_byte() const { return at + BlocksOf(size()) * UnitBytes(type); }
};

// One part, or two of a mixed type.
struct RowParts {
  RowPart parts[2];
  size_t n = 1;

  constexpr const RowPart* begin() const { return parts; }
  constexpr const RowPart* end() const { return parts + n; }
};

// REQUIRES: a quantised type.
constexpr RowParts PartsOf(ElementType type, size_t d) {
  const BlockTypes types = BlockTypesOf(type);
  const size_t border = FirstBlocks(BlocksOf(d)) * kQuantBlock;
  if (!IsMixed(type) || border >= d) return {.parts = {{.type = types.first, .end = d}, {}}};
  const RowPart first{.type = types.first, .end = border};
  return {
      .parts = {first, {.type = types.second, .begin = border, .end = d, .at = first.end_byte()}},
      .n = 2};
}

// Bytes of a row of d elements.
constexpr size_t RowBytes(ElementType type, size_t d) {
  if (!IsQuantized(type)) return 2 * d;
  const RowParts parts = PartsOf(type, d);
  return parts.parts[parts.n - 1].end_byte();
}

// Bound on the error of one element after Encode and Decode, as a share of the largest magnitude in
// its block (for f16 and bf16: of its own magnitude, in the type's normal range).
constexpr double ElementErrorBound(ElementType type) {
  switch (type) {
    case ElementType::kF16:
      return 0x1p-11;
    case ElementType::kBF16:
      return 0x1p-8;
    case ElementType::kQ8_0:
      return 0.5 / 127 + 0x1p-10;
    case ElementType::kQ4_0:
      return 1.0 / 8 + 0x1p-10;
    case ElementType::kQ4:
      return 0.35;
    case ElementType::kQ3:
      return 0.55;
    case ElementType::kQ42:
    case ElementType::kQ2:
      return 0.8;
    case ElementType::kQ41:
    case ElementType::kQ31:
    case ElementType::kQ1:
      return 1.0;
  }
  return 0;
}

// Mean squared error of Gaussian elements after Encode and Decode, as a share of their variance:
// the ladder's errors for rotated rows. Measured; a test checks them.
constexpr double GaussianError(ElementType type) {
  switch (type) {
    case ElementType::kF16:
      return 4.3e-8;
    case ElementType::kBF16:
      return 2.8e-6;
    case ElementType::kQ8_0:
      return 2.4e-5;
    case ElementType::kQ4_0:
      return 7.0e-3;
    case ElementType::kQ4:
      return 0.0085;
    case ElementType::kQ3:
      return 0.031;
    case ElementType::kQ2:
      return 0.105;
    case ElementType::kQ1:
      return 0.36;
    case ElementType::kQ42:
    case ElementType::kQ41:
    case ElementType::kQ31:
      break;
  }
  const BlockTypes types = BlockTypesOf(type);
  return 0.5 * (GaussianError(types.first) + GaussianError(types.second));
}

// The scale of a block's byte: 0, or 2^((code - 144) / 8).
constexpr float ScaleOfByte(uint8_t code) {
  constexpr float kEighths[] = {1.0f,       1.0905077f, 1.1892071f, 1.2968396f,
                                1.4142136f, 1.5422108f, 1.6817928f, 1.8340081f};
  // 2^(code / 8 - 18) by its exponent bits.
  const uint32_t power = (static_cast<uint32_t>(code / 8) + 127 - 18) << 23;
  return code == 0 ? 0.0f : std::bit_cast<float>(power) * kEighths[code % 8];
}

// ScaleOfByte() of every code.
inline constexpr auto kScalesOfBytes = [] {
  struct {
    float scales[256];
  } table = {};
  for (int code = 0; code < 256; ++code)
    table.scales[code] = ScaleOfByte(static_cast<uint8_t>(code));
  return table;
}();

// `row` has RowBytes(type, d) bytes, at any address. Elements must be finite and within f16's
// range.
void EncodeRow(ElementType type, const float* x, size_t d, void* row);
void DecodeRow(ElementType type, const void* row, size_t d, float* x);

// Multiplies x by an orthonormal symmetric matrix, so that calling it twice gives x back: Hadamard
// transforms of the largest power of two that divides d (each a block of its own), by the fast
// algorithm, d log d. `n`: a power of two that divides d, instead of the largest. Outlier channels
// are spread over the block, and dot products do not change, so that few bits suffice (QuaRot;
// Ashkboos et al. 2024, arXiv 2404.00456).
void RotateRow(float* x, size_t d, size_t n);
inline void RotateRow(float* x, size_t d) { RotateRow(x, d, d & (~d + 1)); }

}  // namespace rkv

#endif  // RETENTIVEKV_KERNELS_ELEMENT_H_
