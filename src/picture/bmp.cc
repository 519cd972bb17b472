// Windows and OS/2 bitmaps, which no library of Debian reads alone: uncompressed, in any depth.
// https://learn.microsoft.com/windows/win32/gdi/bitmap-header-types
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstdlib>

#include "base/bytes.h"
#include "picture/decoder.h"
#include "picture/row_scaler.h"

namespace rkv {

namespace {

constexpr size_t kFileHeader = 14;
constexpr uint64_t kCoreHeader = 12;  // OS/2's, with sides of 16 bits and colours of 3 bytes
constexpr uint64_t kInfoHeader = 40;
constexpr uint64_t kAlphaHeader = 56;  // the first with a mask for transparency

constexpr uint64_t kUncompressed = 0;
constexpr uint64_t kBitFields = 3;
constexpr uint64_t kAlphaBitFields = 6;

// Bits of a pixel that are one channel.
struct Channel {
  uint32_t mask = 0;
  int shift = 0;
  uint32_t max_value = 0;

  explicit Channel(uint64_t bits = 0)
      : mask(static_cast<uint32_t>(bits)),
        shift(mask == 0 ? 0 : std::countr_zero(mask)),
        max_value(mask >> shift) {}
  uint8_t Value(uint32_t pixel) const {
    if (max_value == 0) return 0;
    return static_cast<uint8_t>((uint64_t{(pixel & mask) >> shift} * 255 + max_value / 2) /
                                max_value);
  }
  // Consecutive ones.
  bool sound() const { return (max_value & (uint64_t{max_value} + 1)) == 0; }
};

struct Bitmap {
  PictureSize size;
  bool from_top = false;
  uint64_t bits = 0;
  std::string_view palette;
  size_t color_bytes = 0;           // of one colour in it
  std::array<Channel, 4> channels;  // red, green, blue, alpha; of 16 and 32 bits
  size_t row_bytes = 0;
  std::string_view rows;

  uint32_t Pixel(const char* row, size_t x) const {
    const auto* bytes = reinterpret_cast<const uint8_t*>(row);
    if (bits == 16) return bytes[2 * x] | static_cast<uint32_t>(bytes[2 * x + 1]) << 8;
    bytes += 4 * x;
    return bytes[0] | static_cast<uint32_t>(bytes[1]) << 8 | static_cast<uint32_t>(bytes[2]) << 16 |
           static_cast<uint32_t>(bytes[3]) << 24;
  }
  const char* Row(int y) const {
    const int at = from_top ? y : size.height - 1 - y;
    return rows.data() + row_bytes * static_cast<size_t>(at);
  }
};

Status SetChannels(std::string_view bytes, uint64_t header, uint64_t compression, Bitmap& bitmap) {
  if (bitmap.bits != 16 && bitmap.bits != 32) return OkStatus();
  std::array<uint64_t, 4> masks = bitmap.bits == 16
                                      ? std::array<uint64_t, 4>{0x7C00, 0x3E0, 0x1F, 0}
                                      : std::array<uint64_t, 4>{0xFF0000, 0xFF00, 0xFF, 0};
  if (compression != kUncompressed) {
    const bool alpha = header >= kAlphaHeader || compression == kAlphaBitFields;
    for (size_t i = 0; i < (alpha ? 4u : 3u); ++i) {
      masks[i] = LittleEndian(bytes, kFileHeader + kInfoHeader + 4 * i, 4);
    }
  }
  for (size_t i = 0; i < masks.size(); ++i) {
    bitmap.channels[i] = Channel(masks[i]);
    if (!bitmap.channels[i].sound()) return Damaged("BMP", "its colour masks have gaps");
  }
  return OkStatus();
}

// The packing of its pixels.
struct Packing {
  uint64_t compression = kUncompressed;
  bool fields = false;  // The file specifies the bits of each colour.
};

// Reads the size and the bits of a pixel from a header of this length, which must be complete.
Result<Packing> ReadInfo(std::string_view bytes, uint64_t header, Bitmap& bitmap) {
  const auto number = [&](size_t at, size_t n) { return LittleEndian(bytes, at, n); };
  const bool core = header == kCoreHeader;
  const auto width =
      core ? static_cast<int64_t>(number(18, 2)) : static_cast<int32_t>(number(18, 4));
  const auto height =
      core ? static_cast<int64_t>(number(20, 2)) : static_cast<int32_t>(number(22, 4));
  bitmap.from_top = height < 0;
  if (width < 1 || height == 0) return BadFile("has no pixels");
  bitmap.size = {static_cast<int>(width),
                 static_cast<int>(std::min<int64_t>(std::abs(height), INT32_MAX))};
  bitmap.bits = number(core ? 24 : 28, 2);
  constexpr uint64_t kDepths[] = {1, 4, 8, 16, 24, 32};
  if (std::ranges::find(kDepths, bitmap.bits) == std::end(kDepths)) {
    return BadFile(
        fmt::format("is a BMP file of {} bits a pixel, which is not supported", bitmap.bits));
  }
  Packing packing;
  if (header >= 20) packing.compression = number(30, 4);
  packing.fields = (packing.compression == kBitFields || packing.compression == kAlphaBitFields) &&
                   (bitmap.bits == 16 || bitmap.bits == 32) && header >= kInfoHeader;
  if (packing.compression != kUncompressed && !packing.fields) {
    return BadFile("is a compressed BMP file, which is not supported; save it as PNG");
  }
  return packing;
}

// Finds the palette at `begin`, if pixels are indexes.
void FindPalette(std::string_view bytes, uint64_t header, uint64_t begin, Bitmap& bitmap) {
  if (bitmap.bits > 8) return;
  const uint64_t max = uint64_t{1} << bitmap.bits;
  const uint64_t said = header >= kInfoHeader ? LittleEndian(bytes, 46, 4) : 0;
  bitmap.color_bytes = header == kCoreHeader ? 3 : 4;
  const uint64_t n = said == 0 ? max : std::min(said, max);
  bitmap.palette = bytes.substr(std::min<uint64_t>(begin, bytes.size()), n * bitmap.color_bytes);
}

// Finds the rows at `begin`.
Status FindRows(std::string_view bytes, uint64_t begin, Bitmap& bitmap) {
  bitmap.row_bytes = (static_cast<uint64_t>(bitmap.size.width) * bitmap.bits + 31) / 32 * 4;
  const auto n_rows = static_cast<uint64_t>(bitmap.size.height);
  if (begin > bytes.size()) return CutOff();
  bitmap.rows = bytes.substr(begin);
  // The last row may lack its padding.
  const uint64_t last = (static_cast<uint64_t>(bitmap.size.width) * bitmap.bits + 7) / 8;
  if ((n_rows - 1) > bitmap.rows.size() / bitmap.row_bytes ||
      (n_rows - 1) * bitmap.row_bytes + last > bitmap.rows.size()) {
    return CutOff();
  }
  return OkStatus();
}

Result<Bitmap> OpenBmp(std::string_view bytes) {
  const uint64_t header = LittleEndian(bytes, kFileHeader, 4);
  if (bytes.size() < kFileHeader + 4) return CutOff();
  if (header != kCoreHeader && (header < 16 || header > 256)) {
    return Damaged("BMP", fmt::format("it has a header of {} bytes", header));
  }
  if (bytes.size() < kFileHeader + header) return CutOff();
  Bitmap bitmap;
  const Result<Packing> packing = ReadInfo(bytes, header, bitmap);
  if (!packing.ok()) return packing.status();
  uint64_t tables = kFileHeader + header;  // end of the tables
  if (packing->fields && header == kInfoHeader) {
    tables += packing->compression == kBitFields ? 12 : 16;
  }
  RKV_RETURN_IF_ERROR(SetChannels(bytes, header, packing->compression, bitmap));
  FindPalette(bytes, header, tables, bitmap);
  tables += bitmap.palette.size();
  const uint64_t offset = LittleEndian(bytes, 10, 4);
  // Files of old programs have 0, or point into their own header.
  RKV_RETURN_IF_ERROR(FindRows(bytes, offset < kFileHeader + header ? tables : offset, bitmap));
  return bitmap;
}

// Many programs use no transparency, and write zeros in its place.
bool HasAlpha(const Bitmap& bitmap) {
  if (bitmap.channels[3].mask == 0) return false;
  for (int y = 0; y < bitmap.size.height; ++y) {
    for (size_t x = 0; x < static_cast<size_t>(bitmap.size.width); ++x) {
      if ((bitmap.Pixel(bitmap.Row(y), x) & bitmap.channels[3].mask) != 0) return true;
    }
  }
  return false;
}

}  // namespace

Result<FileHeader> ReadBmpHeader(std::string_view bytes) {
  RKV_ASSIGN_OR_RETURN(const Bitmap bitmap, OpenBmp(bytes));
  return FileHeader{.size = bitmap.size};
}

Result<std::vector<uint8_t>> DecodeBmp(std::string_view bytes, const PictureSize& size,
                                       const Deadline& deadline) {
  RKV_ASSIGN_OR_RETURN(const Bitmap bitmap, OpenBmp(bytes));
  const bool alpha = HasAlpha(bitmap);
  const auto width = static_cast<size_t>(bitmap.size.width);
  RowScaler scaler(bitmap.size, size);
  std::vector<uint8_t> rgb(3 * width);
  for (int y = 0; y < bitmap.size.height; ++y) {
    if (deadline.passed()) return deadline.Error();
    const char* row = bitmap.Row(y);
    for (size_t x = 0; x < width; ++x) {
      uint8_t* to = &rgb[3 * x];
      const char* bgr = nullptr;
      if (bitmap.bits <= 8) {
        const size_t bit = x * bitmap.bits;
        const auto byte = static_cast<uint8_t>(row[bit / 8]);
        const size_t index =
            static_cast<size_t>(byte >> (8 - bitmap.bits - bit % 8)) & ((1u << bitmap.bits) - 1);
        const size_t at = index * bitmap.color_bytes;
        // An index without a colour is black.
        bgr = at + bitmap.color_bytes <= bitmap.palette.size() ? bitmap.palette.data() + at
                                                               : "\0\0\0";
      } else if (bitmap.bits == 24) {
        bgr = row + 3 * x;
      }
      if (bgr != nullptr) {
        for (size_t c = 0; c < 3; ++c) to[c] = static_cast<uint8_t>(bgr[2 - c]);
        continue;
      }
      const uint32_t pixel = bitmap.Pixel(row, x);
      uint8_t rgba[4];
      for (size_t c = 0; c < 4; ++c) rgba[c] = bitmap.channels[c].Value(pixel);
      if (!alpha) rgba[3] = 255;
      OverWhite(rgba, to);
    }
    scaler.AddRow(rgb.data());
  }
  return scaler.Take();
}

}  // namespace rkv
