// Decodes pictures from untrusted bytes: to RGB, upright, over white, within limits.
#ifndef RETENTIVEKV_PICTURE_H_
#define RETENTIVEKV_PICTURE_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "retentivekv/status.h"

namespace rkv {

enum class PictureFormat { kPng, kJpeg, kWebp, kGif, kBmp };

struct PictureSize {
  int width = 0;
  int height = 0;

  uint64_t n_pixels() const { return static_cast<uint64_t>(width) * static_cast<uint64_t>(height); }
  bool operator==(const PictureSize&) const = default;
};

// Limits for reading one picture. A file that needs more is refused before it gets more.
struct PictureLimits {
  size_t max_file_bytes = size_t{256} << 20;
  uint64_t max_pixels = 64 * 1000 * 1000;  // by the file's header
  int max_side = 65535;                    // pixels
  // Held at once, beside the file: the result, and the buffers of a progressive or interlaced file.
  uint64_t max_bytes = uint64_t{80} << 20;
  uint64_t max_unpacked_bytes = uint64_t{256} << 20;  // of a PNG file, inflated
  int max_scans = 100;  // of a JPEG file; each walks over all of the picture
  std::chrono::milliseconds max_time{10000};
};

struct PictureInfo {
  PictureFormat format = PictureFormat::kPng;
  PictureSize size;     // of the upright picture
  int orientation = 1;  // EXIF's number of the turn that makes the file's rows upright
};

// Row by row from the top, three bytes a pixel.
struct Picture {
  PictureSize size;
  std::vector<uint8_t> rgb;
};

// "PNG, JPEG, WebP, GIF, BMP"
std::string_view PictureFormats();

// The format by the first bytes; nothing if it is none of these formats.
std::optional<PictureFormat> PictureFormatOf(std::string_view bytes);

// Reads the header only, without decoding. Fails as ReadPicture().
Result<PictureInfo> ReadPictureInfo(std::string_view bytes, std::string_view name,
                                    const PictureLimits& limits = {});

// The picture, or the first one of an animation, scaled down to `scaled_to` if given. EXIF's
// orientation is applied, and transparency laid over white. kBadFile for a file that is cut off or
// damaged: no pixel is ever made up. `name` appears in messages.
// REQUIRES: `scaled_to`, which is upright, is not larger than the picture, and not empty.
Result<Picture> ReadPicture(std::string_view bytes, std::string_view name,
                            const PictureLimits& limits = {},
                            std::optional<PictureSize> scaled_to = {});

// The largest size with the picture's shape that fits into `most` pixels and `max_side`.
PictureSize FitPicture(const PictureSize& size, uint64_t most, int max_side);

}  // namespace rkv

#endif  // RETENTIVEKV_PICTURE_H_
