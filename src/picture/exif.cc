#include "picture/exif.h"

#include <algorithm>
#include <cstddef>

#include "base/bytes.h"

namespace rkv {

int ExifOrientation(std::string_view exif) {
  constexpr std::string_view kMark("Exif\0\0", 6);
  constexpr uint64_t kOrientationTag = 0x0112;
  constexpr uint64_t kShort = 3;
  constexpr size_t kEntryBytes = 12;
  if (exif.starts_with(kMark)) exif.remove_prefix(kMark.size());
  // A TIFF header: the order of bytes, 42, and where the first directory is.
  const bool little = exif.starts_with("II");
  if (!little && !exif.starts_with("MM")) return 1;
  const auto number = [&](size_t at, size_t n) {
    return little ? LittleEndian(exif, at, n) : BigEndian(exif, at, n);
  };
  const uint64_t directory = number(4, 4);
  if (number(2, 2) != 42 || directory + 2 > exif.size()) return 1;
  const uint64_t n_entries = number(directory, 2);
  for (uint64_t i = 0; i < n_entries; ++i) {
    const size_t at = directory + 2 + i * kEntryBytes;
    if (at + kEntryBytes > exif.size()) return 1;
    if (number(at, 2) != kOrientationTag || number(at + 2, 2) != kShort) continue;
    const uint64_t orientation = number(at + 8, 2);
    return orientation >= 1 && orientation <= 8 ? static_cast<int>(orientation) : 1;
  }
  return 1;
}

std::vector<uint8_t> TurnUpright(std::vector<uint8_t> rgb, const PictureSize& size,
                                 int orientation) {
  if (orientation <= 1 || orientation > 8) return rgb;
  const PictureSize upright = Turned(size, orientation);
  std::vector<uint8_t> turned(rgb.size());
  // The sides from which the file counts columns and rows.
  const bool from_right = orientation == 2 || orientation == 3 || orientation >= 7;
  const bool from_below =
      orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  size_t to = 0;
  for (int y = 0; y < upright.height; ++y) {
    for (int x = 0; x < upright.width; ++x, to += 3) {
      int column = LiesOnItsSide(orientation) ? y : x;
      int row = LiesOnItsSide(orientation) ? x : y;
      if (from_right) column = size.width - 1 - column;
      if (from_below) row = size.height - 1 - row;
      const size_t from = 3 * (static_cast<size_t>(row) * static_cast<size_t>(size.width) +
                               static_cast<size_t>(column));
      std::copy_n(&rgb[from], 3, &turned[to]);
    }
  }
  return turned;
}

}  // namespace rkv
