// Pictures of every format and kind, scaling and turning. Damaged and hostile files are refused
// within their limits.
#include "retentivekv/picture.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <numeric>
#include <string>
#include <vector>

#include "base/process_memory.h"
#include "support/encoded_pictures.h"

namespace rkv {
namespace {

using Rgb = std::array<uint8_t, 3>;

constexpr Rgb kRed{255, 0, 0};
constexpr Rgb kGreen{0, 255, 0};
constexpr Rgb kBlue{0, 0, 255};
constexpr Rgb kWhite{255, 255, 255};
constexpr Rgb kBlack{0, 0, 0};
constexpr Rgb kGrey{128, 128, 128};

Bytes Flat(const std::vector<Rgb>& colors) {
  Bytes bytes;
  for (const Rgb& color : colors) bytes.insert(bytes.end(), color.begin(), color.end());
  return bytes;
}

Picture Read(const std::string& file, std::optional<PictureSize> size = {}) {
  Result<Picture> picture = ReadPicture(file, "a picture", {}, size);
  EXPECT_TRUE(picture.ok()) << picture.status().message();
  return picture.ok() ? *std::move(picture) : Picture{};
}

std::string Refusal(const std::string& file, const PictureLimits& limits = {}) {
  const Result<Picture> picture = ReadPicture(file, "it", limits);
  EXPECT_FALSE(picture.ok());
  if (picture.ok()) return "";
  EXPECT_EQ(picture.status().code(), StatusCode::kBadFile) << picture.status().message();
  EXPECT_TRUE(picture.status().message().starts_with("'it' ")) << picture.status().message();
  return picture.status().message();
}

void ExpectRefusal(const std::string& file, const std::string& reason,
                   const PictureLimits& limits = {}) {
  const std::string message = Refusal(file, limits);
  EXPECT_NE(message.find(reason), std::string::npos) << message;
}

void ExpectPixels(const std::string& file, int width, int height, const Bytes& rgb,
                  int tolerance = 0) {
  const Picture picture = Read(file);
  EXPECT_EQ(picture.size, (PictureSize{width, height}));
  ASSERT_EQ(picture.rgb.size(), rgb.size());
  int worst = 0;
  for (size_t i = 0; i < rgb.size(); ++i)
    worst = std::max(worst, std::abs(picture.rgb[i] - rgb[i]));
  EXPECT_LE(worst, tolerance);
}

void ExpectColors(const std::string& file, int width, const std::vector<Rgb>& colors,
                  int tolerance = 0) {
  ExpectPixels(file, width, static_cast<int>(colors.size()) / width, Flat(colors), tolerance);
}

// --- PNG -----------------------------------------------------------------------------------------

TEST(PictureTest, PngOfEveryKind) {
  ExpectPixels(EncodeRgbPng(13, 7, Gradient(13, 7)), 13, 7, Gradient(13, 7));
  ExpectPixels(EncodeRgbPng(13, 7, Gradient(13, 7), true), 13, 7, Gradient(13, 7));
  ExpectPixels(EncodeRgbPng(1, 1, {1, 2, 3}, true), 1, 1, {1, 2, 3});
  // 16 bits: the upper 8 count.
  ExpectPixels(EncodePng({.width = 2, .height = 1, .depth = 16},
                         {0x12, 0xFF, 0x34, 0, 0x56, 0x80, 0xFF, 0xFF, 0, 0, 0x80, 1}),
               2, 1, {0x12, 0x34, 0x56, 0xFF, 0, 0x80});
  ExpectPixels(
      EncodePng({.width = 2, .height = 1, .color_type = SPNG_COLOR_TYPE_GRAYSCALE, .depth = 16},
                {0x80, 0x7F, 0x01, 0xFF}),
      2, 1, {0x80, 0x80, 0x80, 1, 1, 1});
  // Grey values of few bits cover black to white.
  for (const bool interlaced : {false, true}) {
    PngSpec grey{.width = 4,
                 .height = 1,
                 .color_type = SPNG_COLOR_TYPE_GRAYSCALE,
                 .depth = 1,
                 .interlaced = interlaced};
    ExpectColors(EncodePng(grey, {0b01010000}), 4, {kBlack, kWhite, kBlack, kWhite});
    grey.depth = 2;
    ExpectColors(EncodePng(grey, {0b00011011}), 4,
                 {kBlack, Rgb{85, 85, 85}, Rgb{170, 170, 170}, kWhite});
    grey.depth = 4;
    ExpectColors(EncodePng(grey, {0x08, 0xF1}), 4,
                 {kBlack, Rgb{136, 136, 136}, kWhite, Rgb{17, 17, 17}});
    grey.depth = 8;
    ExpectColors(EncodePng(grey, {0, 128, 255, 7}), 4, {kBlack, kGrey, kWhite, Rgb{7, 7, 7}});
  }
}

TEST(PictureTest, TransparencyOfPngLiesOverWhite) {
  const Bytes rgba = {255, 0, 0, 255, 0, 0, 255, 0, 0, 0, 0, 128};
  ExpectPixels(
      EncodePng({.width = 3, .height = 1, .color_type = SPNG_COLOR_TYPE_TRUECOLOR_ALPHA}, rgba), 3,
      1, {255, 0, 0, 255, 255, 255, 127, 127, 127});
  ExpectPixels(EncodePng({.width = 2, .height = 1, .color_type = SPNG_COLOR_TYPE_GRAYSCALE_ALPHA},
                         {10, 255, 10, 0}),
               2, 1, {10, 10, 10, 255, 255, 255});
  ExpectPixels(
      EncodePng(
          {.width = 1, .height = 1, .color_type = SPNG_COLOR_TYPE_TRUECOLOR_ALPHA, .depth = 16},
          {0, 0, 0, 0, 0, 0, 0x80, 0}),
      1, 1, {127, 127, 127});
  const PngSpec indexed{.width = 5,
                        .height = 1,
                        .color_type = SPNG_COLOR_TYPE_INDEXED,
                        .depth = 4,
                        .palette = {kRed, kGreen, kBlue},
                        .palette_alpha = {255, 0}};
  // The last index has no colour.
  ExpectColors(EncodePng(indexed, {0x01, 0x20, 0xF0}), 5, {kRed, kWhite, kBlue, kRed, kBlack});
  spng_trns green_key{};
  green_key.green = 255;
  ExpectColors(EncodePng({.width = 2, .height = 1, .key = &green_key}, Flat({kGreen, kRed})), 2,
               {kWhite, kRed});
  spng_trns grey_key{};
  grey_key.gray = 2;
  ExpectColors(EncodePng({.width = 2,
                          .height = 1,
                          .color_type = SPNG_COLOR_TYPE_GRAYSCALE,
                          .depth = 2,
                          .key = &grey_key},
                         {0b10010000}),
               2, {kWhite, Rgb{85, 85, 85}});
}

// --- JPEG ----------------------------------------------------------------------------------------

TEST(PictureTest, JpegOfEveryKind) {
  const Bytes gradient = Gradient(40, 24);
  Bytes smooth = gradient;
  for (size_t i = 2; i < smooth.size(); i += 3) smooth[i] = 90;
  ExpectPixels(EncodeJpeg({.width = 40, .height = 24, .quality = 100}, smooth), 40, 24, smooth, 12);
  ExpectPixels(EncodeJpeg({.width = 40, .height = 24, .progressive = true, .quality = 100}, smooth),
               40, 24, smooth, 12);
  ExpectPixels(EncodeJpeg({.width = 40, .height = 24, .file = JCS_RGB, .quality = 100}, smooth), 40,
               24, smooth, 3);
  ExpectColors(EncodeJpeg({.width = 8, .height = 1, .pixels = JCS_GRAYSCALE}, Bytes(8, 128)), 8,
               std::vector<Rgb>(8, kGrey), 1);
}

// Adobe's mark says that inks are inverted; libjpeg writes it.
TEST(PictureTest, JpegOfInks) {
  Bytes cmyk;
  for (int i = 0; i < 64; ++i) cmyk.insert(cmyk.end(), {255, 64, 0, 200});
  const Rgb expected{200, 50, 0};
  for (const J_COLOR_SPACE space : {JCS_CMYK, JCS_YCCK}) {
    ExpectColors(EncodeJpeg({.width = 8, .height = 8, .pixels = JCS_CMYK, .file = space}, cmyk), 8,
                 std::vector<Rgb>(64, expected), 4);
  }
  // Without the mark, inks are not inverted.
  std::string plain =
      EncodeJpeg({.width = 8, .height = 8, .pixels = JCS_CMYK, .file = JCS_CMYK}, cmyk);
  const size_t mark = plain.find(std::string("\xFF\xEE\0\x0E", 4) + "Adobe");
  ASSERT_NE(mark, std::string::npos);
  plain.erase(mark, 16);
  ExpectColors(plain, 8, std::vector<Rgb>(64, Rgb{0, 41, 55}), 4);
}

// --- WebP ----------------------------------------------------------------------------------------

TEST(PictureTest, WebpOfEveryKind) {
  const Bytes gradient = Gradient(20, 12);
  ExpectPixels(EncodeWebp(20, 12, WithAlpha(gradient, 255), true), 20, 12, gradient);
  ExpectColors(EncodeWebp(16, 16, WithAlpha(Flat(std::vector<Rgb>(256, kGrey)), 255), false), 16,
               std::vector<Rgb>(256, kGrey), 3);
  ExpectColors(EncodeWebp(1, 1, {255, 0, 0, 0}, true), 1, {kWhite});
  ExpectColors(EncodeWebp(16, 1, WithAlpha(Flat(std::vector<Rgb>(16, kBlack)), 128), false), 16,
               std::vector<Rgb>(16, Rgb{127, 127, 127}), 3);
}

TEST(PictureTest, AnimatedWebpShowsItsFirstFrame) {
  const auto pixels = [](const Rgb& color) {
    return WebpPixels(EncodeWebp(2, 1, WithAlpha(Flat({color, color}), 255), true));
  };
  const std::string file =
      WebpFile(WebpHeader(2, 4, 2) + RiffChunk("ANIM", Little(0, 6)) +
               WebpFrame(2, 0, 2, 1, pixels(kRed)) + WebpFrame(0, 0, 2, 1, pixels(kGreen)));
  ExpectColors(file, 4, {kWhite, kWhite, kRed, kRed, kWhite, kWhite, kWhite, kWhite});
}

// --- GIF -----------------------------------------------------------------------------------------

const std::vector<Rgb> kGifColors = {kRed, kGreen, kBlue, kBlack};

TEST(PictureTest, GifShowsItsFirstFrame) {
  const GifFrame first{.width = 2, .height = 2, .indexes = {0, 1, 2, 3}};
  const GifFrame second{.width = 2, .height = 2, .indexes = {3, 3, 3, 3}};
  ExpectColors(EncodeGif(2, 2, kGifColors, {first, second}), 2, kGifColors);
}

TEST(PictureTest, GifFramesMayBePartOfTheCanvasOrMore) {
  const GifFrame part{.x = 1, .y = 0, .width = 2, .height = 1, .indexes = {0, 1}, .transparent = 1};
  ExpectColors(EncodeGif(3, 2, kGifColors, {part}), 3,
               {kWhite, kRed, kWhite, kWhite, kWhite, kWhite});
  ExpectColors(EncodeGif(2, 1, kGifColors, {part}), 3, {kWhite, kRed, kWhite});
}

TEST(PictureTest, GifMayBeInterlaced) {
  GifFrame frame{.width = 1, .height = 11, .interlaced = true};
  std::vector<Rgb> colors;
  for (int y = 0; y < 11; ++y) {
    frame.indexes.push_back(static_cast<uint8_t>(y % 4));
    colors.push_back(kGifColors[static_cast<size_t>(y % 4)]);
  }
  ExpectColors(EncodeGif(1, 11, kGifColors, {frame}), 1, colors);
}

// --- BMP -----------------------------------------------------------------------------------------

std::string BmpColors(const std::vector<Rgb>& colors, size_t bytes = 4) {
  std::string text;
  for (const Rgb& color : colors) {
    text += {static_cast<char>(color[2]), static_cast<char>(color[1]), static_cast<char>(color[0])};
    text += std::string(bytes - 3, '\0');
  }
  return text;
}

TEST(PictureTest, BmpOfEveryDepth) {
  const std::string two = BmpColors({kRed, kGreen});
  ExpectColors(EncodeBmp({.width = 3, .height = 2, .bits = 1, .behind_header = two},
                         std::string("\xA0\0\0\0\x40\0\0\0", 8)),
               3, {kRed, kGreen, kRed, kGreen, kRed, kGreen});
  const std::string sixteen = BmpColors({kRed, kGreen, kBlue});
  BmpSpec four{.width = 3, .height = 1, .bits = 4, .behind_header = sixteen};
  four.behind_header += std::string(4 * 13, '\0');
  ExpectColors(EncodeBmp(four, std::string("\x21\x00\0\0", 4)), 3, {kBlue, kGreen, kRed});
  std::string colors(1024, '\0');
  colors.replace(4 * 200, 3, "\x01\x02\x03", 3);
  ExpectColors(EncodeBmp({.width = 2, .height = 1, .bits = 8, .behind_header = colors},
                         std::string("\xC8\x00\0\0", 4)),
               2, {Rgb{3, 2, 1}, kBlack});
  ExpectColors(
      EncodeBmp({.width = 2, .height = 1, .bits = 16}, Little(0x7C00, 2) + Little(0x03FF, 2)), 2,
      {kRed, Rgb{0, 255, 255}});
  ExpectColors(EncodeBmp({.width = 1, .height = 2}, std::string("\x10\x20\x30\0\x40\x50\x60\0", 8)),
               1, {Rgb{0x60, 0x50, 0x40}, Rgb{0x30, 0x20, 0x10}});
  ExpectColors(EncodeBmp({.width = 1, .height = 1, .bits = 32}, std::string("\x10\x20\x30\0", 4)),
               1, {Rgb{0x30, 0x20, 0x10}});
}

TEST(PictureTest, BmpWithMasksAndOtherHeaders) {
  const std::string masks = Little(0xF800, 4) + Little(0x07E0, 4) + Little(0x001F, 4);
  ExpectColors(
      EncodeBmp({.width = 2, .height = 1, .bits = 16, .compression = 3, .behind_header = masks},
                Little(0xF800, 2) + Little(0x07E0, 2)),
      2, {kRed, kGreen});
  const std::vector<uint32_t> alpha = {0xFF0000, 0xFF00, 0xFF, 0xFF000000};
  const BmpSpec deep{
      .width = 2, .height = 1, .bits = 32, .compression = 3, .header = 124, .masks = alpha};
  ExpectColors(EncodeBmp(deep, Little(0xFFFF0000, 4) + Little(0x00FF0000, 4)), 2, {kRed, kWhite});
  // An alpha channel of zeros means no transparency.
  ExpectColors(EncodeBmp(deep, Little(0x00FF0000, 4) + Little(0x0000FF00, 4)), 2, {kRed, kGreen});
  ExpectColors(EncodeBmp({.width = 1, .height = -2}, std::string("\0\0\xFF\0\0\xFF\0\0", 8)), 1,
               {kRed, kGreen});
  ExpectColors(EncodeBmp({.width = 2,
                          .height = 1,
                          .bits = 1,
                          .header = 12,
                          .behind_header = BmpColors({kBlue, kRed}, 3)},
                         std::string("\x40\0\0\0", 4)),
               2, {kBlue, kRed});
}

TEST(PictureTest, CompressedBmpIsRefused) {
  ExpectRefusal(EncodeBmp({.width = 1, .height = 1, .bits = 8, .compression = 1}, "1234"),
                "save it as PNG");
  ExpectRefusal(EncodeBmp({.width = 1, .height = 1, .bits = 2}, "1234"), "2 bits a pixel");
  ExpectRefusal(EncodeBmp({.width = 1,
                           .height = 1,
                           .bits = 16,
                           .compression = 3,
                           .behind_header = Little(0xF0F, 4) + Little(0, 8)},
                          "1234"),
                "gaps");
}

// --- upright -------------------------------------------------------------------------------------

// 3 x 2 upright pixels, and their stored order for each camera orientation.
TEST(PictureTest, OrientationIsApplied) {
  const std::vector<Rgb> seen = {kRed, kGreen, kBlue, kBlack, kGrey, kWhite};
  const auto stored = [&](std::initializer_list<size_t> order) {
    std::vector<Rgb> colors;
    for (const size_t i : order) colors.push_back(seen[i]);
    return Flat(colors);
  };
  const std::vector<Bytes> files = {stored({0, 1, 2, 3, 4, 5}), stored({2, 1, 0, 5, 4, 3}),
                                    stored({5, 4, 3, 2, 1, 0}), stored({3, 4, 5, 0, 1, 2}),
                                    stored({0, 3, 1, 4, 2, 5}), stored({2, 5, 1, 4, 0, 3}),
                                    stored({5, 2, 4, 1, 3, 0}), stored({3, 0, 4, 1, 5, 2})};
  for (int orientation = 1; orientation <= 8; ++orientation) {
    const bool side = orientation >= 5;
    const Bytes& rgb = files[static_cast<size_t>(orientation - 1)];
    SCOPED_TRACE(orientation);
    for (const bool little : {false, true}) {
      const std::string png = EncodePng(
          {.width = side ? 2 : 3, .height = side ? 3 : 2, .exif = Exif(orientation, little)}, rgb);
      ExpectColors(png, 3, seen);
      EXPECT_EQ(ReadPictureInfo(png, "")->orientation, orientation);
      EXPECT_EQ(ReadPictureInfo(png, "")->size, (PictureSize{3, 2}));
    }
    const std::string pixels =
        WebpPixels(EncodeWebp(side ? 2 : 3, side ? 3 : 2, WithAlpha(rgb, 255), true));
    ExpectColors(WebpFile(WebpHeader(8, side ? 2 : 3, side ? 3 : 2) + pixels +
                          RiffChunk("EXIF", Exif(orientation))),
                 3, seen);
    // One colour per block of 16 pixels; compression keeps the middle of a block.
    Bytes large;
    const int width = side ? 2 : 3, height = side ? 3 : 2;
    for (int y = 0; y < 16 * height; ++y) {
      for (int x = 0; x < 16 * width; ++x) {
        const auto from = rgb.begin() + 3 * (y / 16 * width + x / 16);
        large.insert(large.end(), from, from + 3);
      }
    }
    const Picture jpeg = Read(EncodeJpeg(
        {.width = 16 * width, .height = 16 * height, .quality = 100, .exif = Exif(orientation)},
        large));
    ASSERT_EQ(jpeg.size, (PictureSize{48, 32}));
    for (size_t i = 0; i < seen.size(); ++i) {
      const size_t at = 3 * ((i / 3 * 16 + 8) * 48 + i % 3 * 16 + 8);
      for (size_t c = 0; c < 3; ++c) EXPECT_NEAR(jpeg.rgb[at + c], seen[i][c], 4) << i;
    }
  }
}

TEST(PictureTest, OddExifIsIgnored) {
  for (const std::string& exif :
       {std::string("II"), std::string("II*\0\xFF\xFF\xFF\xFF", 8), Exif(9), Exif(0),
        Exif(6).substr(0, 30), std::string("MM\0*\0\0\0\x8\xFF\xFF", 10)}) {
    ExpectColors(EncodePng({.width = 2, .height = 1, .exif = exif}, Flat({kRed, kBlue})), 2,
                 {kRed, kBlue});
  }
}

// --- scaling -------------------------------------------------------------------------------------

TEST(PictureTest, ScalingTakesTheMeanOfTheArea) {
  const std::string file =
      EncodeRgbPng(3, 2, Flat({kBlack, kWhite, kBlack, kWhite, kBlack, kWhite}));
  EXPECT_EQ(Read(file, PictureSize{1, 1}).rgb, Bytes(3, 128));
  // Each new pixel covers one and a half.
  EXPECT_EQ(Read(file, PictureSize{2, 1}).rgb, Bytes(6, 128));
  EXPECT_EQ(Read(file, PictureSize{2, 2}).rgb,
            (Bytes{85, 85, 85, 85, 85, 85, 170, 170, 170, 170, 170, 170}));
  EXPECT_EQ(Read(file, PictureSize{3, 1}).rgb, Bytes(9, 128));
  EXPECT_FALSE(ReadPicture(file, "x", {}, PictureSize{4, 1}).ok());
  EXPECT_FALSE(ReadPicture(file, "x", {}, PictureSize{0, 1}).ok());
}

TEST(PictureTest, EveryFormatIsScaled) {
  const Bytes rgb = Gradient(97, 61);
  const Picture expected = Read(EncodeRgbPng(97, 61, rgb), PictureSize{20, 13});
  const Bytes rgba = WithAlpha(rgb, 255);
  Bytes smooth = rgb;
  for (size_t i = 2; i < smooth.size(); i += 3) smooth[i] = 90;
  const auto near = [&](const std::string& file, const Bytes& wanted, int tolerance) {
    const Picture scaled = Read(file, PictureSize{20, 13});
    ASSERT_EQ(scaled.rgb.size(), wanted.size());
    for (size_t i = 0; i < wanted.size(); ++i) {
      ASSERT_NEAR(scaled.rgb[i], wanted[i], tolerance) << i;
    }
  };
  near(EncodeRgbPng(97, 61, rgb, true), expected.rgb, 0);
  near(EncodeWebp(97, 61, rgba, true), expected.rgb, 3);
  const Picture plain = Read(EncodeRgbPng(97, 61, smooth), PictureSize{20, 13});
  for (const bool progressive : {false, true}) {
    near(
        EncodeJpeg({.width = 97, .height = 61, .progressive = progressive, .quality = 100}, smooth),
        plain.rgb, 12);
  }
}

TEST(PictureTest, FitKeepsTheShape) {
  EXPECT_EQ(FitPicture({400, 300}, 1000000, 4096), (PictureSize{400, 300}));
  EXPECT_EQ(FitPicture({4000, 3000}, 120000, 4096), (PictureSize{400, 300}));
  EXPECT_EQ(FitPicture({60000, 10}, 1000000, 600), (PictureSize{600, 1}));
}

// --- refused files -------------------------------------------------------------------------------

TEST(PictureTest, OtherFormatsAreRefusedByName) {
  const std::string list = "PNG, JPEG, WebP, GIF, BMP";
  const std::string pic = "\x53\x80\xF6\x34" + std::string(84, '\0') + "PICT";
  const std::string tga("\0\0\2\0\0\0\0\0\0\0\0\0\x80\0\x80\0\x18\x20", 18);
  for (const std::string& file :
       {std::string(), std::string("P6 8000 8000 255\n"), pic, tga, std::string(100, '\0'),
        std::string("RIFF\0\0\0\0WAVE", 12), std::string("hello")}) {
    ExpectRefusal(file, "not a readable picture (" + list + ")");
  }
  const std::vector<std::pair<std::string, std::string>> known = {
      {std::string("\0\0\0\x18", 4) + "ftypheic", "HEIC"},
      {std::string("\0\0\0\x18", 4) + "ftypavif", "AVIF"},
      {std::string("II*\0", 4), "TIFF"},
      {"8BPS", "PSD"},
      {"<?xml version='1.0'?><svg/>", "SVG"},
      {"%PDF-1.7", "PDF"},
      {"#?RADIANCE\n", "HDR"}};
  for (const auto& [file, name] : known) {
    ExpectRefusal(file, "is " + name);
    ExpectRefusal(file, list);
  }
}

std::vector<std::string> OneOfEachFormat() { return PicturesOfEachFormat(64, 48); }

TEST(PictureTest, CutFilesAreRefusedWhereverTheyEnd) {
  for (const std::string& file : OneOfEachFormat()) {
    const Picture whole = Read(file);
    for (size_t i = 0; i < 200; ++i) {
      const std::string cut = file.substr(0, file.size() * i / 200);
      const Result<Picture> picture = ReadPicture(cut, "cut");
      if (!picture.ok()) {
        EXPECT_EQ(picture.status().code(), StatusCode::kBadFile);
        continue;
      }
      // Bytes after the pixels may be lost. Progressive files have the whole picture before their
      // last scans, which only refine it.
      EXPECT_EQ(picture->size, whole.size);
      if (!file.starts_with("\xFF\xD8") || file.find("\xFF\xC2") == std::string::npos) {
        EXPECT_EQ(picture->rgb, whole.rgb) << PictureFormats() << " " << i;
      }
    }
  }
}

// Decodes seeded mutations of each format twice, in memory that malloc filled with different bytes.
// A picture with bytes from outside the file would differ.
TEST(PictureTest, NothingButTheFileIsInAPicture) {
  const auto fill = [](char value) {
    std::vector<std::string> blocks;
    for (size_t size = 64; size < (size_t{1} << 17); size *= 2) {
      for (int i = 0; i < 8; ++i) blocks.emplace_back(size, value);
    }
  };
  uint64_t state = 1;
  const auto random = [&state](uint64_t n) {
    state = state * 6364136223846793005 + 1442695040888963407;
    return (state >> 33) % n;
  };
  size_t n_read = 0;
  for (const std::string& file : OneOfEachFormat()) {
    for (int i = 0; i < 300; ++i) {
      std::string changed = file;
      for (uint64_t n = 1 + random(4); n > 0; --n) {
        const uint64_t at =
            random(3) == 0 ? random(std::min<size_t>(file.size(), 64)) : random(file.size());
        changed[at] = static_cast<char>(random(256));
      }
      if (random(4) == 0) changed.resize(random(changed.size()));
      PictureLimits limits;
      limits.max_pixels = 1000000;
      fill('\x55');
      const Result<Picture> first = ReadPicture(changed, "x", limits);
      fill('\xAA');
      const Result<Picture> second = ReadPicture(changed, "x", limits);
      ASSERT_EQ(first.ok(), second.ok());
      if (!first.ok()) continue;
      ++n_read;
      ASSERT_EQ(first->rgb.size(), 3 * first->size.n_pixels());
      ASSERT_EQ(first->rgb, second->rgb);
    }
  }
  EXPECT_GT(n_read, 100u);
}

std::string PngWithSize(uint32_t width, uint32_t height) {
  std::string file = EncodePng({.width = 1, .height = 1}, {1, 2, 3});
  file.replace(16, 8, Big(width, 4) + Big(height, 4));
  return file;
}

// A progressive JPEG of one grey component with minimal scans. The first has a bit for each block;
// later ones say that the rest of all blocks is zero.
std::string JpegOfScans(uint64_t width, uint64_t height, int n_scans) {
  const auto segment = [](char marker, const std::string& body) {
    return std::string("\xFF") + marker + Big(body.size() + 2, 2) + body;
  };
  const auto table = [&](char id, char symbol) {
    return segment('\xC4', std::string(1, id) + std::string(1, '\1') + std::string(15, '\0') +
                               std::string(1, symbol));
  };
  const uint64_t n_blocks = (width + 7) / 8 * ((height + 7) / 8);
  std::string file = std::string("\xFF\xD8") +
                     segment('\xDB', std::string(1, '\0') + std::string(64, '\1')) +
                     segment('\xC2', std::string(1, '\x8') + Big(height, 2) + Big(width, 2) +
                                         std::string("\1\1\x11\0", 4)) +
                     table('\0', '\0') + table('\x10', '\xE0');
  file += segment('\xDA', std::string("\1\1\0\0\0\0", 6)) + std::string((n_blocks + 7) / 8, '\0');
  // A run of 16384 blocks takes a bit for the symbol and 14 bits for the number of further blocks.
  const uint64_t n_runs = (n_blocks + 16383) / 16384;
  for (int i = 1; i < n_scans; ++i) {
    file += segment('\xDA', std::string("\1\1\0\1\x3F\0", 6)) +
            std::string((n_runs * 15 + 7) / 8, '\0');
  }
  return file + "\xFF\xD9";
}

TEST(PictureTest, ScansAreCounted) {
  Read(JpegOfScans(800, 800, 100));
  ExpectRefusal(JpegOfScans(800, 800, 101), "more than 100 scans");
  ExpectRefusal(JpegOfScans(800, 800, 5000), "more than 100 scans");
  ExpectRefusal(JpegOfScans(8000, 8000, 5000), "MiB to be decoded");
}

TEST(PictureTest, SizesAreLimitedBeforeMemoryIsTaken) {
  ExpectRefusal(PngWithSize(65536, 1), "65535 a side");
  ExpectRefusal(PngWithSize(8001, 8000), "64 million");
  ExpectRefusal(PngWithSize(1 << 30, 1 << 30), "64 million");
  ExpectRefusal(PngWithSize(0, 1), "PNG");
  ExpectRefusal(EncodeBmp({.width = 8000, .height = -8000}, "x"), "cut off");
  ExpectRefusal(EncodeBmp({.width = 26700, .height = -26700}, "x"), "cut off");
  ExpectRefusal(EncodeBmp({.width = 1, .height = INT32_MIN}, "x"), "cut off");
  ExpectRefusal(EncodeBmp({.width = INT32_MAX, .height = INT32_MAX}, "x"), "cut off");
  ExpectRefusal(EncodeBmp({.width = -1, .height = 1}, "x"), "no pixels");
  std::string gif = EncodeGif(1, 1, kGifColors, {{.width = 1, .height = 1, .indexes = {0}}});
  gif.replace(6, 4, "\xFF\xFF\xFF\xFF");
  ExpectRefusal(gif, "64 million");
  PictureLimits limits;
  const std::string png = EncodeRgbPng(64, 48, Gradient(64, 48));
  limits.max_bytes = 9000;
  ExpectRefusal(png, "to be decoded", limits);
  limits = {};
  limits.max_unpacked_bytes = 9000;
  ExpectRefusal(png, "unpacks", limits);
  limits = {};
  limits.max_file_bytes = 100;
  ExpectRefusal(png, "larger than", limits);
}

// A JPEG of one grey component in one scan: two bits a block.
std::string FlatJpeg(uint64_t width, uint64_t height) {
  std::string file = JpegOfScans(width, height, 1);
  file[file.find("\xFF\xC2") + 1] = '\xC0';
  file[file.find('\xE0')] = '\0';  // AC: the end of a block
  file[file.find(std::string("\xFF\xDA\0\x8", 4)) + 8] = '\x3F';
  const uint64_t n_blocks = (width + 7) / 8 * ((height + 7) / 8);
  file.resize(file.size() - 2);
  return file + std::string((n_blocks + 7) / 8, '\0') + "\xFF\xD9";
}

// Each file is refused, or read in little memory; `--gtest_filter=*Hostile*` reports the times.
TEST(PictureTest, HostilePicturesTakeLittle) {
  std::vector<std::string> files;
  for (const std::string& file : OneOfEachFormat()) {
    for (const size_t part : {1, 4, 7}) files.push_back(file.substr(0, file.size() * part / 8));
  }
  const std::string zeros(64, '\0');
  // Unsupported formats: TGA, PIC, PSD, HDR, PNM.
  files.push_back(std::string("\0\0\2\0\0\0\0\0\0\0\0\0\x40\x1F\x40\x1F\x20\0", 18));
  files.push_back(std::string("\0\0\xA\0\0\0\0\0\0\0\0\0\xFF\xFF\xFF\xFF\x20\0", 18));
  files.push_back("\x53\x80\xF6\x34" + std::string(84, '\0') + "PICT" + zeros);
  files.push_back("8BPS" + zeros);
  files.push_back("#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 32000 +X 32000\n");
  files.push_back("P6 8000 8000 255\n");
  // Headers with false sizes.
  for (const auto& [width, height] : {std::pair<uint32_t, uint32_t>{8000, 8000},
                                      {65535, 900},
                                      {1u << 31, 1},
                                      {1u << 30, 1u << 30}}) {
    files.push_back(PngWithSize(width, height));
    const auto w = static_cast<int>(width & INT32_MAX), h = static_cast<int>(height & INT32_MAX);
    for (const int bits : {1, 8, 24, 32}) {
      files.push_back(EncodeBmp({.width = w, .height = h, .bits = bits}, zeros));
      files.push_back(EncodeBmp({.width = w, .height = -h, .bits = bits}, zeros));
    }
  }
  std::string gif = EncodeGif(1, 1, kGifColors, {{.width = 1, .height = 1, .indexes = {0}}});
  gif.replace(6, 4, "\x40\x1F\x40\x1F");
  files.push_back(gif);  // a dot on 64 million pixels
  const size_t frame = gif.find(',');
  gif.replace(frame + 5, 4, "\x40\x1F\x40\x1F");
  files.push_back(gif);
  files.push_back(JpegOfScans(8000, 8000, 1));
  files.push_back(JpegOfScans(65500, 65500, 1).substr(0, 1000));
  files.push_back(JpegOfScans(3000, 3000, 20000));
  files.push_back(JpegOfScans(3000, 3000, 100));
  // Files with true headers.
  files.push_back(FlatJpeg(8000, 8000));
  files.push_back(EncodePng(
      {.width = 8000, .height = 8000, .color_type = SPNG_COLOR_TYPE_GRAYSCALE, .depth = 1},
      Bytes(8000000)));
  files.push_back(EncodeRgbPng(5000, 5000, Bytes(75000000)));
  files.push_back(EncodeRgbPng(3000, 3000, Bytes(27000000), true));
  EXPECT_GE(files.size(), 60u);
  uint64_t most = 0;
  for (size_t i = 0; i < files.size(); ++i) {
    const uint64_t before = ResidentBytes();
    ResetPeakResidentBytes();
    const auto info = ReadPictureInfo(files[i], "x");
    if (info.ok()) {
      const auto picture = ReadPicture(files[i], "x", {}, FitPicture(info->size, 1000000, 32768));
      EXPECT_TRUE(picture.ok() || picture.status().code() == StatusCode::kBadFile);
    }
    const uint64_t taken = PeakResidentBytes() - std::min(PeakResidentBytes(), before);
    most = std::max(most, taken);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    EXPECT_LT(taken, 100000000u) << i;
#endif
  }
  RecordProperty("most_bytes", std::to_string(most));
}

TEST(PictureTest, TimeIsLimited) {
  PictureLimits limits;
  limits.max_time = std::chrono::milliseconds(-1);
  for (const std::string& file : OneOfEachFormat()) ExpectRefusal(file, "longer than", limits);
}

TEST(PictureTest, DataBeyondThePixelsAreNotUnpacked) {
  const std::string png = EncodePng({.width = 8, .height = 8}, Bytes(192, 9));
  const std::string packed = EncodePng({.width = 1000, .height = 1000}, Bytes(3000000, 0));
  // The data of the large picture in a file with the small one's header.
  std::string file = packed;
  file.replace(16, 17, png.substr(16, 17));  // size, kind, checksum
  ExpectColors(file, 8, std::vector<Rgb>(64, kBlack));
}

}  // namespace
}  // namespace rkv
