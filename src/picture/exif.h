// The orientation of a picture, as cameras store it.
#ifndef RETENTIVEKV_PICTURE_EXIF_H_
#define RETENTIVEKV_PICTURE_EXIF_H_

#include <cstdint>
#include <string_view>
#include <vector>

#include "retentivekv/picture.h"

namespace rkv {

// The orientation, 1 to 8, in EXIF data with or without the "Exif" mark; 1 if the data has none.
int ExifOrientation(std::string_view exif);

// Whether a picture of this orientation is turned by a quarter.
constexpr bool LiesOnItsSide(int orientation) { return orientation >= 5; }

// The size of a picture after turning it upright. The same function gives the size before it.
constexpr PictureSize Turned(const PictureSize& size, int orientation) {
  return LiesOnItsSide(orientation) ? PictureSize{size.height, size.width} : size;
}

// The pixels of a picture of `size`, turned upright.
std::vector<uint8_t> TurnUpright(std::vector<uint8_t> rgb, const PictureSize& size,
                                 int orientation);

}  // namespace rkv

#endif  // RETENTIVEKV_PICTURE_EXIF_H_
