// Pictures: any bytes give a picture within the limits, always the same, or an error that names the
// fault.
#include <zlib.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "retentivekv/picture.h"

namespace {

// Corrects the checksums of PNG chunks: mutations break them, and decoding would end there.
std::string WithPngChecksums(std::string png) {
  constexpr size_t kSignature = 8;
  constexpr size_t kChunkHeader = 8;
  for (size_t at = kSignature; at + kChunkHeader <= png.size();) {
    const uint64_t length = rkv::BigEndian(png, at, 4);
    const size_t end = at + kChunkHeader + length;
    if (end + 4 > png.size()) break;
    const auto* checked = reinterpret_cast<const Bytef*>(png.data()) + at + 4;
    const uLong sum = crc32(0, checked, static_cast<uInt>(length + 4));
    for (size_t i = 0; i < 4; ++i) png[end + i] = static_cast<char>(sum >> (24 - 8 * i));
    at = end + 4;
  }
  return png;
}

void Read(std::string_view bytes) {
  rkv::PictureLimits limits;
  limits.max_pixels = 1 << 20;  // larger pictures only take time
  const auto info = rkv::ReadPictureInfo(bytes, "fuzz", limits);
  if (!info.ok()) {
    if (info.status().message().empty()) std::abort();
    return;
  }
  const rkv::PictureSize half{std::max(1, info->size.width / 2),
                              std::max(1, info->size.height / 3)};
  for (const rkv::PictureSize& to : {info->size, half}) {
    const auto picture = rkv::ReadPicture(bytes, "fuzz", limits, to);
    if (!picture.ok()) {
      if (picture.status().message().empty()) std::abort();
      continue;
    }
    if (picture->rgb.size() != 3 * to.n_pixels()) std::abort();
    const auto again = rkv::ReadPicture(bytes, "fuzz", limits, to);
    if (!again.ok() || again->rgb != picture->rgb) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  Read(bytes);
  if (rkv::PictureFormatOf(bytes) == rkv::PictureFormat::kPng) Read(WithPngChecksums(bytes));
  return 0;
}
