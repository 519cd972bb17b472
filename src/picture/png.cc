// Decodes PNG files with libspng, row by row, onto white. Transparency of a palette or a colour is
// applied here.
#include <spng.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <vector>

#include "base/bytes.h"
#include "picture/decoder.h"
#include "picture/exif.h"
#include "picture/row_scaler.h"

namespace rkv {

namespace {

// Limit of profiles and texts, which are not used.
constexpr size_t kMaxChunkBytes = size_t{16} << 20;

struct SpngDeleter {
  void operator()(spng_ctx* context) const { spng_ctx_free(context); }
};
using SpngPtr = std::unique_ptr<spng_ctx, SpngDeleter>;

Status PngError(int code) {
  if (code == SPNG_IO_EOF || code == SPNG_EIO || code == SPNG_IO_ERROR) return CutOff();
  if (code == SPNG_EMEM) return BadFile("needs more memory than is available");
  return Damaged("PNG", spng_strerror(code));
}

Result<SpngPtr> OpenPng(std::string_view bytes, spng_ihdr& header) {
  SpngPtr context(spng_ctx_new(0));
  if (context == nullptr) return PngError(SPNG_EMEM);
  spng_set_chunk_limits(context.get(), kMaxChunkBytes, kMaxChunkBytes);
  spng_set_png_buffer(context.get(), bytes.data(), bytes.size());
  const int code = spng_get_ihdr(context.get(), &header);
  if (code != 0) return PngError(code);
  return context;
}

// Converts rows of the file to RGB over white.
class PngRows {
 public:
  using Pixel = std::array<uint32_t, 4>;

  PngRows(spng_ctx* context, const spng_ihdr& header) : header_(header) {
    has_key_ = spng_get_trns(context, &key_) == 0;
    if (samples() == 1 && header.bit_depth <= 8) FillTable(context);
  }

  void ToRgb(const uint8_t* row, uint8_t* rgb) const {
    if (!table_.empty()) return LookUp(row, rgb);
    if (samples() == 3 && header_.bit_depth == 8 && !has_key_) {
      std::memcpy(rgb, row, 3 * size_t{header_.width});
      return;
    }
    const size_t n = samples();
    const bool alpha = n == 2 || n == 4;
    const size_t color_step = n >= 3 ? 1 : 0;
    const bool deep = header_.bit_depth == 16;
    for (size_t x = 0; x < header_.width; ++x, rgb += 3) {
      Pixel pixel{};
      for (size_t i = 0; i < n; ++i) {
        const size_t at = x * n + i;
        uint16_t sample = row[deep ? 0 : at];
        if (deep) std::memcpy(&sample, row + 2 * at, sizeof(sample));
        pixel[i] = sample;
      }
      const int shift = deep ? 8 : 0;
      const auto value = [&](size_t i) { return static_cast<uint8_t>(pixel[i] >> shift); };
      uint8_t rgba[4] = {value(0), value(color_step), value(2 * color_step), 255};
      if (alpha) rgba[3] = value(n - 1);
      if (has_key_ && IsKey(pixel)) rgba[3] = 0;
      OverWhite(rgba, rgb);
    }
  }

 private:
  size_t samples() const {  // of a pixel
    switch (header_.color_type) {
      case SPNG_COLOR_TYPE_TRUECOLOR:
        return 3;
      case SPNG_COLOR_TYPE_GRAYSCALE_ALPHA:
        return 2;
      case SPNG_COLOR_TYPE_TRUECOLOR_ALPHA:
        return 4;
      default:
        return 1;
    }
  }

  // Whether it is the transparent colour.
  bool IsKey(const Pixel& pixel) const {
    const uint32_t max_value = (1u << header_.bit_depth) - 1;
    if (samples() == 1) return pixel[0] == (key_.gray & max_value);
    return samples() == 3 && pixel[0] == (key_.red & max_value) &&
           pixel[1] == (key_.green & max_value) && pixel[2] == (key_.blue & max_value);
  }

  void FillTable(spng_ctx* context) {
    const bool indexed = header_.color_type == SPNG_COLOR_TYPE_INDEXED;
    spng_plte palette{};
    if (indexed) spng_get_plte(context, &palette);
    const uint32_t max_value = (1u << header_.bit_depth) - 1;
    table_.resize(max_value + 1);
    for (uint32_t i = 0; i <= max_value; ++i) {
      const auto grey = static_cast<uint8_t>(i * 255 / max_value);
      uint8_t rgba[4] = {grey, grey, grey, 255};
      if (indexed) {
        // An index without a colour is black.
        const spng_plte_entry color =
            i < palette.n_entries ? palette.entries[i] : spng_plte_entry{};
        rgba[0] = color.red;
        rgba[1] = color.green;
        rgba[2] = color.blue;
        if (has_key_ && i < key_.n_type3_entries) rgba[3] = key_.type3_alpha[i];
      } else if (has_key_ && IsKey({i})) {
        rgba[3] = 0;
      }
      OverWhite(rgba, table_[i].data());
    }
  }

  void LookUp(const uint8_t* row, uint8_t* rgb) const {
    const size_t bits = header_.bit_depth;
    const auto max_value = static_cast<uint8_t>(table_.size() - 1);
    for (size_t x = 0; x < header_.width; ++x, rgb += 3) {
      const size_t bit = x * bits;
      const size_t sample = (row[bit / 8] >> (8 - bits - bit % 8)) & max_value;
      std::memcpy(rgb, table_[sample].data(), 3);
    }
  }

  spng_ihdr header_;
  spng_trns key_{};
  bool has_key_ = false;
  std::vector<std::array<uint8_t, 3>> table_;  // colours by sample, for samples of few bits
};

// The chunk may follow the pixels; libspng reads it there only after it has decoded them.
int PngOrientation(std::string_view bytes) {
  constexpr size_t kSignature = 8;
  constexpr size_t kChunkHeader = 8;  // length and type; a checksum of 4 bytes ends a chunk
  for (size_t at = kSignature; at + kChunkHeader <= bytes.size();) {
    const uint64_t length = BigEndian(bytes, at, 4);
    const std::string_view type = bytes.substr(at + 4, 4);
    if (type == "eXIf") return ExifOrientation(bytes.substr(at + kChunkHeader, length));
    at += kChunkHeader + length + 4;
  }
  return 1;
}

}  // namespace

Result<FileHeader> ReadPngHeader(std::string_view bytes) {
  spng_ihdr ihdr{};
  RKV_ASSIGN_OR_RETURN(const SpngPtr context, OpenPng(bytes, ihdr));
  FileHeader header;
  header.size = {static_cast<int>(std::min<uint32_t>(ihdr.width, INT32_MAX)),
                 static_cast<int>(std::min<uint32_t>(ihdr.height, INT32_MAX))};
  header.orientation = PngOrientation(bytes);
  constexpr uint64_t kSamples[] = {1, 0, 3, 1, 2, 0, 4};  // by colour type
  const uint64_t bits = kSamples[std::min<size_t>(ihdr.color_type, 6)] * ihdr.bit_depth;
  header.unpacked_bytes = (ihdr.width * bits + 7) / 8 * ihdr.height;
  if (ihdr.interlace_method != 0) header.buffer_bytes = header.unpacked_bytes;
  return header;
}

Result<std::vector<uint8_t>> DecodePng(std::string_view bytes, const PictureSize& size,
                                       const Deadline& deadline) {
  spng_ihdr ihdr{};
  RKV_ASSIGN_OR_RETURN(const SpngPtr context, OpenPng(bytes, ihdr));
  int code = spng_decode_image(context.get(), nullptr, 0, SPNG_FMT_PNG, SPNG_DECODE_PROGRESSIVE);
  if (code != 0) return PngError(code);
  size_t n_bytes = 0;
  code = spng_decoded_image_size(context.get(), SPNG_FMT_PNG, &n_bytes);
  if (code != 0) return PngError(code);
  const bool interlaced = ihdr.interlace_method != 0;
  const size_t row_bytes = n_bytes / ihdr.height;
  // The rows of an interlaced picture come in seven passes, each of which fills gaps.
  std::vector<uint8_t> rows(interlaced ? n_bytes : row_bytes);
  std::vector<uint8_t> rgb(3 * static_cast<size_t>(ihdr.width));
  const PngRows converter(context.get(), ihdr);
  RowScaler scaler({static_cast<int>(ihdr.width), static_cast<int>(ihdr.height)}, size);
  const auto add = [&](const uint8_t* row) {
    converter.ToRgb(row, rgb.data());
    scaler.AddRow(rgb.data());
  };
  while (code == 0) {
    if (deadline.passed()) return deadline.Error();
    spng_row_info row{};
    code = spng_get_row_info(context.get(), &row);
    if (code != 0) break;
    uint8_t* out = rows.data() + (interlaced ? row_bytes * row.row_num : 0);
    code = spng_decode_row(context.get(), out, row_bytes);
    if (!interlaced && (code == 0 || code == SPNG_EOI)) add(out);
  }
  if (code != SPNG_EOI) return PngError(code);
  for (uint32_t y = 0; interlaced && y < ihdr.height; ++y) add(&rows[row_bytes * y]);
  if (!scaler.complete()) return CutOff();
  return scaler.Take();
}

}  // namespace rkv
