// Types and helpers that the decoders of all formats share. Their errors name the fault without the
// file: "is cut off ...".
#ifndef RETENTIVEKV_PICTURE_DECODER_H_
#define RETENTIVEKV_PICTURE_DECODER_H_

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "retentivekv/picture.h"
#include "retentivekv/status.h"

namespace rkv {

// The header of a file, before the picture is turned upright.
struct FileHeader {
  PictureSize size;
  int orientation = 1;
  uint64_t buffer_bytes = 0;    // held during decoding beside the result, if more than a few rows
  uint64_t unpacked_bytes = 0;  // of a packed file's pixels before they are RGB
};

// Ends the decoding of one picture.
class Deadline {
 public:
  explicit Deadline(const PictureLimits& limits)
      : limits_(limits), end_(std::chrono::steady_clock::now() + limits.max_time) {}
  bool passed() const { return std::chrono::steady_clock::now() > end_; }
  Status Error() const;
  const PictureLimits& limits() const { return limits_; }

 private:
  const PictureLimits& limits_;
  std::chrono::steady_clock::time_point end_;
};

// For the decoders' own checks.
Status CutOff();
Status Damaged(std::string_view format, std::string_view reason);

Result<FileHeader> ReadPngHeader(std::string_view bytes);
Result<FileHeader> ReadJpegHeader(std::string_view bytes);
Result<FileHeader> ReadWebpHeader(std::string_view bytes);
Result<FileHeader> ReadGifHeader(std::string_view bytes);
Result<FileHeader> ReadBmpHeader(std::string_view bytes);

// RGB of `size`, which must not be larger than the file's.
Result<std::vector<uint8_t>> DecodePng(std::string_view bytes, const PictureSize& size,
                                       const Deadline& deadline);
Result<std::vector<uint8_t>> DecodeJpeg(std::string_view bytes, const PictureSize& size,
                                        const Deadline& deadline);
Result<std::vector<uint8_t>> DecodeWebp(std::string_view bytes, const PictureSize& size,
                                        const Deadline& deadline);
Result<std::vector<uint8_t>> DecodeGif(std::string_view bytes, const PictureSize& size,
                                       const Deadline& deadline);
Result<std::vector<uint8_t>> DecodeBmp(std::string_view bytes, const PictureSize& size,
                                       const Deadline& deadline);

// Lays one pixel of RGBA over white.
inline void OverWhite(const uint8_t* rgba, uint8_t* rgb) {
  const int alpha = rgba[3];
  for (int c = 0; c < 3; ++c) {
    rgb[c] = static_cast<uint8_t>((rgba[c] * alpha + 255 * (255 - alpha) + 127) / 255);
  }
}

}  // namespace rkv

#endif  // RETENTIVEKV_PICTURE_DECODER_H_
