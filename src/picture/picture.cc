// Chooses the decoder of a picture, and applies the limits before it allocates memory. Adds the
// file's name to decoders' errors.
#include "retentivekv/picture.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "picture/decoder.h"
#include "picture/exif.h"

namespace rkv {

namespace {

struct Format {
  PictureFormat format;
  Result<FileHeader> (*read_header)(std::string_view);
  Result<std::vector<uint8_t>> (*decode)(std::string_view, const PictureSize&, const Deadline&);
};

constexpr Format kFormats[] = {
    {PictureFormat::kPng, ReadPngHeader, DecodePng},
    {PictureFormat::kJpeg, ReadJpegHeader, DecodeJpeg},
    {PictureFormat::kWebp, ReadWebpHeader, DecodeWebp},
    {PictureFormat::kGif, ReadGifHeader, DecodeGif},
    {PictureFormat::kBmp, ReadBmpHeader, DecodeBmp},
};

const Format& FormatWith(PictureFormat format) {
  return *std::ranges::find(kFormats, format, &Format::format);
}

// Bytes at an offset that identify an unsupported format, to name it.
struct Mark {
  size_t offset;
  std::string_view bytes;
  std::string_view format;
};
// The order matters: every MP4 file begins like HEIC and AVIF files.
constexpr Mark kOtherFormats[] = {
    {4, "ftypheic", "HEIC"},     {4, "ftypheix", "HEIC"},   {4, "ftypmif1", "HEIC"},
    {4, "ftyphevc", "HEIC"},     {4, "ftypavif", "AVIF"},   {4, "ftypavis", "AVIF"},
    {4, "ftyp", "MP4"},          {0, {"II*\0", 4}, "TIFF"}, {0, {"MM\0*", 4}, "TIFF"},
    {0, "8BPS", "PSD"},          {0, "%PDF", "PDF"},        {0, "<svg", "SVG"},
    {0, "\xFF\x0A", "JPEG XL"},  {4, "JXL ", "JPEG XL"},    {4, "jP  ", "JPEG 2000"},
    {0, {"\0\0\1\0", 4}, "ICO"}, {0, "#?RADIANCE", "HDR"},
};

std::string_view OtherFormat(std::string_view bytes) {
  for (const Mark& mark : kOtherFormats) {
    if (bytes.size() >= mark.offset && bytes.substr(mark.offset).starts_with(mark.bytes)) {
      return mark.format;
    }
  }
  const bool svg = bytes.starts_with("<?xml") && bytes.substr(0, 1024).find("<svg") != bytes.npos;
  return svg ? "SVG" : "";
}

Status WithName(const Status& status, std::string_view name) {
  return Status(status.code(), fmt::format("'{}' {}", name, status.message()));
}

uint64_t MiB(uint64_t bytes) { return (bytes + (uint64_t{1} << 20) - 1) >> 20; }

Status CheckFile(const FileHeader& header, const PictureLimits& limits) {
  const PictureSize& size = header.size;
  if (size.width < 1 || size.height < 1) return BadFile("has no pixels");
  if (size.n_pixels() > limits.max_pixels) {
    return BadFile(
        fmt::format("has {} x {} pixels; at most {} million are accepted, so scale it down first",
                    size.width, size.height, limits.max_pixels / 1000000));
  }
  if (std::max(size.width, size.height) > limits.max_side) {
    return BadFile(fmt::format("has {} x {} pixels; at most {} a side are accepted", size.width,
                               size.height, limits.max_side));
  }
  if (header.unpacked_bytes > limits.max_unpacked_bytes) {
    return BadFile(
        fmt::format("unpacks to {} MiB, but at most {} are accepted; scale it down, or save it "
                    "with 8 bits a channel",
                    MiB(header.unpacked_bytes), limits.max_unpacked_bytes >> 20));
  }
  return OkStatus();
}

Status CheckBytes(const FileHeader& header, const PictureSize& size, const PictureLimits& limits) {
  // Turning needs a second copy.
  const uint64_t result = 3 * size.n_pixels() * (header.orientation == 1 ? 1 : 2);
  const uint64_t bytes = header.buffer_bytes + result;
  if (bytes <= limits.max_bytes) return OkStatus();
  return BadFile(
      fmt::format("needs {} MiB to be decoded, but at most {} are accepted; scale it down, or save "
                  "it as a JPEG or PNG file that is neither progressive nor interlaced",
                  MiB(bytes), limits.max_bytes >> 20));
}

// The format and the header of a file within the limits.
Result<std::pair<PictureFormat, FileHeader>> Open(std::string_view bytes,
                                                  const PictureLimits& limits) {
  const std::optional<PictureFormat> format = PictureFormatOf(bytes);
  if (!format.has_value()) {
    const std::string_view other = OtherFormat(bytes);
    return BadFile(other.empty()
                       ? fmt::format("is not a readable picture ({})", PictureFormats())
                       : fmt::format("is {}, which is not supported; pass a picture as {}", other,
                                     PictureFormats()));
  }
  if (bytes.size() > limits.max_file_bytes) {
    return BadFile(fmt::format("is larger than {} MiB", limits.max_file_bytes >> 20));
  }
  RKV_ASSIGN_OR_RETURN(const FileHeader header, FormatWith(*format).read_header(bytes));
  RKV_RETURN_IF_ERROR(CheckFile(header, limits));
  return std::pair(*format, header);
}

Result<Picture> Decode(std::string_view bytes, const PictureLimits& limits,
                       std::optional<PictureSize> scaled_to) {
  RKV_ASSIGN_OR_RETURN(const auto opened, Open(bytes, limits));
  const auto& [format, header] = opened;
  const PictureSize upright = scaled_to.value_or(Turned(header.size, header.orientation));
  const PictureSize size = Turned(upright, header.orientation);
  if (size.width < 1 || size.height < 1 || size.width > header.size.width ||
      size.height > header.size.height) {
    return InvalidArgument(
        fmt::format("cannot be scaled down to {} x {} pixels", upright.width, upright.height));
  }
  RKV_RETURN_IF_ERROR(CheckBytes(header, size, limits));
  const Deadline deadline(limits);
  RKV_ASSIGN_OR_RETURN(std::vector<uint8_t> rgb, FormatWith(format).decode(bytes, size, deadline));
  return Picture{.size = upright, .rgb = TurnUpright(std::move(rgb), size, header.orientation)};
}

}  // namespace

Status Deadline::Error() const {
  return BadFile(fmt::format("takes longer than {} s to decode", limits_.max_time.count() / 1000));
}

Status CutOff() { return BadFile("is cut off: the file ends before its picture does"); }

Status Damaged(std::string_view format, std::string_view reason) {
  return BadFile(fmt::format("is a damaged {} file: {}", format, reason));
}

std::string_view PictureFormats() { return "PNG, JPEG, WebP, GIF, BMP"; }

std::optional<PictureFormat> PictureFormatOf(std::string_view bytes) {
  if (bytes.starts_with("\x89PNG\r\n\x1a\n")) return PictureFormat::kPng;
  if (bytes.starts_with("\xFF\xD8\xFF")) return PictureFormat::kJpeg;
  if (bytes.starts_with("RIFF") && bytes.size() >= 12 && bytes.substr(8).starts_with("WEBP")) {
    return PictureFormat::kWebp;
  }
  if (bytes.starts_with("GIF87a") || bytes.starts_with("GIF89a")) return PictureFormat::kGif;
  if (bytes.starts_with("BM")) return PictureFormat::kBmp;
  return std::nullopt;
}

Result<PictureInfo> ReadPictureInfo(std::string_view bytes, std::string_view name,
                                    const PictureLimits& limits) {
  const auto opened = Open(bytes, limits);
  if (!opened.ok()) return WithName(opened.status(), name);
  const auto& [format, header] = *opened;
  return PictureInfo{.format = format,
                     .size = Turned(header.size, header.orientation),
                     .orientation = header.orientation};
}

Result<Picture> ReadPicture(std::string_view bytes, std::string_view name,
                            const PictureLimits& limits, std::optional<PictureSize> scaled_to) {
  Result<Picture> picture = Decode(bytes, limits, scaled_to);
  if (!picture.ok()) return WithName(picture.status(), name);
  return picture;
}

PictureSize FitPicture(const PictureSize& size, uint64_t most, int max_side) {
  const double by_pixels =
      std::sqrt(static_cast<double>(most) / static_cast<double>(size.n_pixels()));
  const double by_side = static_cast<double>(max_side) / std::max(size.width, size.height);
  const double scale = std::min(by_pixels, by_side);
  if (scale >= 1) return size;
  const auto scaled = [scale](int side) {
    return std::max(1, static_cast<int>(std::floor(scale * side)));
  };
  return {.width = scaled(size.width), .height = scaled(size.height)};
}

}  // namespace rkv
