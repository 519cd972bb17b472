// Decodes the first picture of a WebP file with libwebp, over a white canvas.
#include <fmt/format.h>
#include <webp/decode.h>
#include <webp/demux.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "picture/decoder.h"
#include "picture/exif.h"
#include "picture/row_scaler.h"

namespace rkv {

namespace {

struct DemuxDeleter {
  void operator()(WebPDemuxer* demuxer) const { WebPDemuxDelete(demuxer); }
};

// The first picture of the file, and its place on the canvas.
struct Frame {
  PictureSize canvas;
  PictureSize size;
  int x = 0;
  int y = 0;
  std::string_view data;  // of one still picture
  WebPBitstreamFeatures features{};
  int orientation = 1;

  bool fills_canvas() const { return size == canvas; }
};

std::string_view View(const WebPData& data) {
  return {reinterpret_cast<const char*>(data.bytes), data.size};
}

const uint8_t* Bytes(std::string_view text) {
  return reinterpret_cast<const uint8_t*>(text.data());
}

Result<Frame> FirstFrame(std::string_view bytes) {
  const WebPData file{.bytes = Bytes(bytes), .size = bytes.size()};
  WebPDemuxState state{};
  const std::unique_ptr<WebPDemuxer, DemuxDeleter> demuxer(WebPDemuxPartial(&file, &state));
  if (demuxer == nullptr) {
    return state == WEBP_DEMUX_PARSE_ERROR ? Damaged("WebP", "its chunks are inconsistent")
                                           : CutOff();
  }
  if (state != WEBP_DEMUX_DONE) return CutOff();
  const auto side = [&](WebPFormatFeature feature) {
    return static_cast<int>(std::min<uint32_t>(WebPDemuxGetI(demuxer.get(), feature), INT32_MAX));
  };
  Frame frame;
  frame.canvas = {side(WEBP_FF_CANVAS_WIDTH), side(WEBP_FF_CANVAS_HEIGHT)};
  WebPIterator iterator{};
  if (WebPDemuxGetFrame(demuxer.get(), 1, &iterator) == 0) return CutOff();
  frame.size = {iterator.width, iterator.height};
  frame.x = iterator.x_offset;
  frame.y = iterator.y_offset;
  frame.data = View(iterator.fragment);
  const bool complete = iterator.complete != 0;
  WebPDemuxReleaseIterator(&iterator);
  if (!complete) return CutOff();
  if (WebPGetFeatures(Bytes(frame.data), frame.data.size(), &frame.features) != VP8_STATUS_OK) {
    return Damaged("WebP", "its picture has no header");
  }
  const bool inside = frame.size.width >= 1 && frame.size.height >= 1 && frame.x >= 0 &&
                      frame.y >= 0 && frame.x <= frame.canvas.width - frame.size.width &&
                      frame.y <= frame.canvas.height - frame.size.height;
  if (!inside || frame.features.width != frame.size.width ||
      frame.features.height != frame.size.height) {
    return Damaged("WebP", "its picture does not fit onto its canvas");
  }
  WebPChunkIterator chunk{};
  if (WebPDemuxGetChunk(demuxer.get(), "EXIF", 1, &chunk) != 0) {
    frame.orientation = ExifOrientation(View(chunk.chunk));
    WebPDemuxReleaseChunkIterator(&chunk);
  }
  return frame;
}

// RGBA of the frame at a size.
Result<std::vector<uint8_t>> DecodeFrame(const Frame& frame, const PictureSize& size) {
  std::vector<uint8_t> rgba(4 * size.n_pixels());
  WebPDecoderConfig config{};
  if (WebPInitDecoderConfig(&config) == 0) return Internal("cannot start libwebp");
  config.options.use_scaling = size != frame.size;
  config.options.scaled_width = size.width;
  config.options.scaled_height = size.height;
  config.output.colorspace = MODE_RGBA;
  config.output.is_external_memory = 1;
  config.output.u.RGBA = {.rgba = rgba.data(), .stride = 4 * size.width, .size = rgba.size()};
  const VP8StatusCode code = WebPDecode(Bytes(frame.data), frame.data.size(), &config);
  WebPFreeDecBuffer(&config.output);
  switch (code) {
    case VP8_STATUS_OK:
      return rgba;
    case VP8_STATUS_SUSPENDED:
    case VP8_STATUS_NOT_ENOUGH_DATA:
      return CutOff();
    case VP8_STATUS_OUT_OF_MEMORY:
      return BadFile("needs more memory than is available");
    default:
      return Damaged("WebP", fmt::format("libwebp's error {}", static_cast<int>(code)));
  }
}

}  // namespace

Result<FileHeader> ReadWebpHeader(std::string_view bytes) {
  RKV_ASSIGN_OR_RETURN(const Frame frame, FirstFrame(bytes));
  constexpr int kLossy = 1;
  // A lossy picture is decoded row by row, its transparency at once. Others are held whole.
  const bool whole = frame.features.format != kLossy || !frame.fills_canvas();
  const uint64_t bytes_per_pixel = whole ? 4 : frame.features.has_alpha != 0 ? 1 : 0;
  return FileHeader{.size = frame.canvas,
                    .orientation = frame.orientation,
                    .buffer_bytes = bytes_per_pixel * frame.size.n_pixels()};
}

Result<std::vector<uint8_t>> DecodeWebp(std::string_view bytes, const PictureSize& size,
                                        const Deadline& deadline) {
  RKV_ASSIGN_OR_RETURN(const Frame frame, FirstFrame(bytes));
  const PictureSize decoded = frame.fills_canvas() ? size : frame.size;
  RKV_ASSIGN_OR_RETURN(const std::vector<uint8_t> rgba, DecodeFrame(frame, decoded));
  if (deadline.passed()) return deadline.Error();
  const PictureSize canvas = frame.fills_canvas() ? size : frame.canvas;
  RowScaler scaler(canvas, size);
  std::vector<uint8_t> row(3 * static_cast<size_t>(canvas.width), 255);
  for (int y = 0; y < canvas.height; ++y) {
    std::ranges::fill(row, 255);
    const int frame_row = y - frame.y;
    if (frame_row >= 0 && frame_row < decoded.height) {
      const auto width = static_cast<size_t>(decoded.width);
      const uint8_t* from = &rgba[4 * width * static_cast<size_t>(frame_row)];
      uint8_t* to = &row[3 * static_cast<size_t>(frame.x)];
      for (size_t x = 0; x < width; ++x) OverWhite(from + 4 * x, to + 3 * x);
    }
    scaler.AddRow(row.data());
  }
  return scaler.Take();
}

}  // namespace rkv
