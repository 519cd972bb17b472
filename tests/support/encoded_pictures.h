// Picture files for tests, made by the libraries that decode them elsewhere.
#ifndef RETENTIVEKV_TESTS_SUPPORT_ENCODED_PICTURES_H_
#define RETENTIVEKV_TESTS_SUPPORT_ENCODED_PICTURES_H_

#include <gif_lib.h>
#include <spng.h>
#include <webp/encode.h>

#include <cstdio>
//
#include <jpeglib.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"

namespace rkv {

using Bytes = std::vector<uint8_t>;

inline std::string Little(uint64_t value, size_t n) {
  std::string bytes;
  for (size_t i = 0; i < n; ++i, value >>= 8) bytes += static_cast<char>(value);
  return bytes;
}

inline std::string Big(uint64_t value, size_t n) {
  const std::string little = Little(value, n);
  return {little.rbegin(), little.rend()};
}

// Pixels that tell where they are.
inline Bytes Gradient(int width, int height) {
  Bytes rgb;
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      rgb.push_back(static_cast<uint8_t>(x * 255 / std::max(width - 1, 1)));
      rgb.push_back(static_cast<uint8_t>(y * 255 / std::max(height - 1, 1)));
      rgb.push_back(static_cast<uint8_t>((x * 7 + y * 13) % 256));
    }
  }
  return rgb;
}

inline Bytes WithAlpha(const Bytes& rgb, uint8_t alpha) {
  Bytes rgba;
  for (size_t i = 0; i < rgb.size(); i += 3) {
    rgba.insert(rgba.end(), rgb.begin() + static_cast<ptrdiff_t>(i),
                rgb.begin() + static_cast<ptrdiff_t>(i) + 3);
    rgba.push_back(alpha);
  }
  return rgba;
}

// EXIF data that say an orientation, behind another entry.
inline std::string Exif(int orientation, bool little = true) {
  const auto n = [little](uint64_t value, size_t size) {
    return little ? Little(value, size) : Big(value, size);
  };
  const auto entry = [&](uint64_t tag, uint64_t value) {
    return n(tag, 2) + n(3, 2) + n(1, 4) + n(value, 2) + n(0, 2);
  };
  return (little ? "II" : "MM") + n(42, 2) + n(8, 4) + n(2, 2) + entry(0x0100, 7) +
         entry(0x0112, static_cast<uint64_t>(orientation)) + n(0, 4);
}

struct PngSpec {
  int width = 0;
  int height = 0;
  int color_type = SPNG_COLOR_TYPE_TRUECOLOR;
  int depth = 8;
  bool interlaced = false;
  std::vector<std::array<uint8_t, 3>> palette = {};
  std::vector<uint8_t> palette_alpha = {};
  const spng_trns* key = nullptr;
  std::string exif = "";
};

// `pixels` as they stand in the file's rows: without filters, big-endian, each row in whole bytes.
inline std::string EncodePng(const PngSpec& spec, const Bytes& pixels) {
  spng_ctx* context = spng_ctx_new(SPNG_CTX_ENCODER);
  spng_set_option(context, SPNG_ENCODE_TO_BUFFER, 1);
  spng_ihdr header{.width = static_cast<uint32_t>(spec.width),
                   .height = static_cast<uint32_t>(spec.height),
                   .bit_depth = static_cast<uint8_t>(spec.depth),
                   .color_type = static_cast<uint8_t>(spec.color_type),
                   .compression_method = 0,
                   .filter_method = 0,
                   .interlace_method = static_cast<uint8_t>(spec.interlaced ? 1 : 0)};
  spng_set_ihdr(context, &header);
  if (!spec.palette.empty()) {
    spng_plte palette{};
    for (const auto& color : spec.palette) {
      palette.entries[palette.n_entries++] = {color[0], color[1], color[2], 255};
    }
    spng_set_plte(context, &palette);
  }
  spng_trns trns{};
  if (spec.key != nullptr) trns = *spec.key;
  for (const uint8_t alpha : spec.palette_alpha) trns.type3_alpha[trns.n_type3_entries++] = alpha;
  if (spec.key != nullptr || !spec.palette_alpha.empty()) spng_set_trns(context, &trns);
  std::string exif_data = spec.exif;
  if (!exif_data.empty()) {
    spng_exif exif{.length = exif_data.size(), .data = exif_data.data()};
    spng_set_exif(context, &exif);
  }
  int code =
      spng_encode_image(context, pixels.data(), pixels.size(), SPNG_FMT_RAW, SPNG_ENCODE_FINALIZE);
  size_t size = 0;
  void* data = code == 0 ? spng_get_png_buffer(context, &size, &code) : nullptr;
  std::string file(static_cast<const char*>(data), data == nullptr ? 0 : size);
  std::free(data);
  spng_ctx_free(context);
  return file;
}

inline std::string EncodeRgbPng(int width, int height, const Bytes& rgb, bool interlaced = false) {
  return EncodePng({.width = width, .height = height, .interlaced = interlaced}, rgb);
}

struct JpegSpec {
  int width = 0;
  int height = 0;
  J_COLOR_SPACE pixels = JCS_RGB;  // JCS_RGB, JCS_GRAYSCALE or JCS_CMYK
  J_COLOR_SPACE file = JCS_YCbCr;
  bool progressive = false;
  int quality = 95;
  std::string exif = "";
};

inline std::string EncodeJpeg(const JpegSpec& spec, const Bytes& pixels) {
  jpeg_compress_struct info{};
  jpeg_error_mgr errors{};
  info.err = jpeg_std_error(&errors);
  jpeg_create_compress(&info);
  unsigned char* data = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&info, &data, &size);
  info.image_width = static_cast<JDIMENSION>(spec.width);
  info.image_height = static_cast<JDIMENSION>(spec.height);
  info.in_color_space = spec.pixels;
  info.input_components = spec.pixels == JCS_GRAYSCALE ? 1 : spec.pixels == JCS_CMYK ? 4 : 3;
  jpeg_set_defaults(&info);
  jpeg_set_colorspace(&info, spec.pixels == JCS_GRAYSCALE ? JCS_GRAYSCALE : spec.file);
  jpeg_set_quality(&info, spec.quality, TRUE);
  if (spec.progressive) jpeg_simple_progression(&info);
  jpeg_start_compress(&info, TRUE);
  if (!spec.exif.empty()) {
    const std::string segment = std::string("Exif\0\0", 6) + spec.exif;
    jpeg_write_marker(&info, JPEG_APP0 + 1, reinterpret_cast<const JOCTET*>(segment.data()),
                      static_cast<unsigned>(segment.size()));
  }
  const auto row_bytes = static_cast<size_t>(spec.width * info.input_components);
  while (info.next_scanline < info.image_height) {
    auto* row = const_cast<JSAMPLE*>(&pixels[row_bytes * info.next_scanline]);
    jpeg_write_scanlines(&info, &row, 1);
  }
  jpeg_finish_compress(&info);
  jpeg_destroy_compress(&info);
  std::string file(reinterpret_cast<const char*>(data), size);
  std::free(data);
  return file;
}

inline std::string EncodeWebp(int width, int height, const Bytes& rgba, bool lossless) {
  uint8_t* data = nullptr;
  const size_t size = lossless
                          ? WebPEncodeLosslessRGBA(rgba.data(), width, height, 4 * width, &data)
                          : WebPEncodeRGBA(rgba.data(), width, height, 4 * width, 95, &data);
  std::string file(reinterpret_cast<const char*>(data), size);
  WebPFree(data);
  return file;
}

inline std::string RiffChunk(std::string_view name, const std::string& body) {
  return std::string(name) + Little(body.size(), 4) + body + std::string(body.size() % 2, '\0');
}

// The chunk with the pixels of a still picture without transparency.
inline std::string WebpPixels(const std::string& file) {
  const std::string_view bytes(file);
  for (size_t at = 12; at + 8 <= bytes.size();) {
    const uint64_t size = LittleEndian(bytes, at + 4, 4);
    const std::string_view name = bytes.substr(at, 4);
    if (name == "VP8 " || name == "VP8L") return file.substr(at, 8 + size + size % 2);
    at += 8 + size + size % 2;
  }
  return "";
}

inline std::string WebpFile(const std::string& chunks) {
  return "RIFF" + Little(4 + chunks.size(), 4) + "WEBP" + chunks;
}

// `flags` of the extended header: 2 animation, 8 EXIF, 16 transparency.
inline std::string WebpHeader(uint64_t flags, int width, int height) {
  return RiffChunk("VP8X", Little(flags, 4) + Little(static_cast<uint64_t>(width - 1), 3) +
                               Little(static_cast<uint64_t>(height - 1), 3));
}

// A frame of an animation; `x` and `y` are even.
inline std::string WebpFrame(int x, int y, int width, int height, const std::string& pixels) {
  const auto number = [](int value) { return Little(static_cast<uint64_t>(value), 3); };
  return RiffChunk("ANMF", number(x / 2) + number(y / 2) + number(width - 1) + number(height - 1) +
                               number(100) + Little(0, 1) + pixels);
}

struct GifFrame {
  int x = 0;
  int y = 0;
  int width = 0;
  int height = 0;
  Bytes indexes = {};
  bool interlaced = false;
  int transparent = -1;
};

// `colors`: a power of two of them.
inline std::string EncodeGif(int width, int height,
                             const std::vector<std::array<uint8_t, 3>>& colors,
                             const std::vector<GifFrame>& frames) {
  std::string file;
  int error = 0;
  GifFileType* gif = EGifOpen(
      &file,
      [](GifFileType* self, const GifByteType* data, int n) {
        static_cast<std::string*>(self->UserData)
            ->append(reinterpret_cast<const char*>(data), static_cast<size_t>(n));
        return n;
      },
      &error);
  EGifSetGifVersion(gif, true);
  ColorMapObject* map = GifMakeMapObject(static_cast<int>(colors.size()), nullptr);
  for (size_t i = 0; i < colors.size(); ++i) {
    map->Colors[i] = {colors[i][0], colors[i][1], colors[i][2]};
  }
  EGifPutScreenDesc(gif, width, height, 8, 0, map);
  for (const GifFrame& frame : frames) {
    GifByteType control[4];
    const GraphicsControlBlock block{.DisposalMode = 0,
                                     .UserInputFlag = false,
                                     .DelayTime = 10,
                                     .TransparentColor = frame.transparent};
    EGifGCBToExtension(&block, control);
    EGifPutExtension(gif, GRAPHICS_EXT_FUNC_CODE, 4, control);
    EGifPutImageDesc(gif, frame.x, frame.y, frame.width, frame.height, frame.interlaced, nullptr);
    const auto row_bytes = static_cast<size_t>(frame.width);
    for (int pass = 0; pass < (frame.interlaced ? 4 : 1); ++pass) {
      constexpr int kFirst[] = {0, 4, 2, 1};
      constexpr int kStep[] = {8, 8, 4, 2};
      for (int y = kFirst[pass]; y < frame.height; y += frame.interlaced ? kStep[pass] : 1) {
        Bytes row(frame.indexes.begin() + static_cast<ptrdiff_t>(row_bytes) * y,
                  frame.indexes.begin() + static_cast<ptrdiff_t>(row_bytes) * (y + 1));
        EGifPutLine(gif, row.data(), frame.width);
      }
    }
  }
  EGifCloseFile(gif, &error);
  GifFreeMapObject(map);
  return file;
}

struct BmpSpec {
  int width = 0;
  int height = 0;  // negative: rows from the top
  int bits = 24;
  uint64_t compression = 0;
  uint64_t header = 40;              // its size; 12: OS/2's
  std::string behind_header = "";    // masks and colours
  std::vector<uint32_t> masks = {};  // in a header that has them
};

// `rows` as they stand in the file.
inline std::string EncodeBmp(const BmpSpec& spec, const std::string& rows) {
  const auto number = [](int64_t value, size_t n) {
    return Little(static_cast<uint64_t>(value), n);
  };
  std::string header = Little(spec.header, 4);
  if (spec.header == 12) {
    header += number(spec.width, 2) + number(spec.height, 2) + Little(1, 2) + number(spec.bits, 2);
  } else {
    header += number(spec.width, 4) + number(spec.height, 4) + Little(1, 2) + number(spec.bits, 2) +
              Little(spec.compression, 4) + Little(0, 20);
    for (const uint32_t mask : spec.masks) header += Little(mask, 4);
    header.resize(spec.header, '\0');
  }
  const size_t begin = 14 + header.size() + spec.behind_header.size();
  return "BM" + Little(begin + rows.size(), 4) + Little(0, 4) + Little(begin, 4) + header +
         spec.behind_header + rows;
}

// A file of each kind that is decoded in its own way. `width` and `height` are multiples of 4.
inline std::vector<std::string> PicturesOfEachFormat(int width, int height) {
  const Bytes rgb = Gradient(width, height);
  const Bytes rgba = WithAlpha(rgb, 200);
  const std::vector<std::array<uint8_t, 3>> colors = {
      {255, 0, 0}, {0, 255, 0}, {0, 0, 255}, {0, 0, 0}};
  GifFrame frame{.width = width, .height = height};
  for (int i = 0; i < width * height; ++i) {
    frame.indexes.push_back(static_cast<uint8_t>(i * 7 % 4));
  }
  GifFrame interlaced = frame;
  interlaced.interlaced = true;
  const spng_trns key{};
  const auto text = [](const Bytes& bytes) {
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  const std::string still = EncodeWebp(width, height, WithAlpha(rgb, 255), true);
  return {
      EncodeRgbPng(width, height, rgb),
      EncodeRgbPng(width, height, rgb, true),
      EncodePng({.width = width, .height = height, .key = &key, .exif = Exif(6)}, rgb),
      EncodePng({.width = width,
                 .height = height,
                 .color_type = SPNG_COLOR_TYPE_INDEXED,
                 .palette = colors,
                 .palette_alpha = {10}},
                frame.indexes),
      EncodeJpeg({.width = width, .height = height}, rgb),
      EncodeJpeg({.width = width, .height = height, .progressive = true, .exif = Exif(8)}, rgb),
      EncodeJpeg({.width = width, .height = height * 3 / 4, .pixels = JCS_CMYK, .file = JCS_YCCK},
                 rgba),
      still,
      EncodeWebp(width, height, rgba, false),
      EncodeWebp(width, height, WithAlpha(rgb, 255), false),
      WebpFile(WebpHeader(2, width + 4, height) + RiffChunk("ANIM", Little(0, 6)) +
               WebpFrame(2, 0, width, height, WebpPixels(still))),
      EncodeGif(width, height, colors, {frame}),
      EncodeGif(width, height, colors, {interlaced}),
      EncodeBmp({.width = width, .height = height}, text(rgb)),
      EncodeBmp({.width = width, .height = -height * 3 / 4, .bits = 32}, text(rgba))};
}

}  // namespace rkv

#endif  // RETENTIVEKV_TESTS_SUPPORT_ENCODED_PICTURES_H_
