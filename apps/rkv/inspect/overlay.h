// Lays the state of a picture's cells over the picture, as PNG and SVG.
#ifndef RETENTIVEKV_APPS_RKV_INSPECT_OVERLAY_H_
#define RETENTIVEKV_APPS_RKV_INSPECT_OVERLAY_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "inspect/cell_map.h"
#include "retentivekv/status.h"

namespace rkv::app {

using Rgb = std::array<uint8_t, 3>;

// RGB, row by row.
struct Raster {
  int width = 0;
  int height = 0;
  std::vector<uint8_t> pixels;

  const uint8_t* at(int x, int y) const {
    return &pixels[3 *
                   (static_cast<size_t>(y) * static_cast<size_t>(width) + static_cast<size_t>(x))];
  }
};

// Reads the picture, turns it upright, and scales it down if it is very large. Fails as
// rkv::ReadPicture(), with `name`.
Result<Raster> DecodePicture(std::string_view bytes, const std::string& name);
std::string EncodePng(const Raster& raster);

struct Shape {
  enum class Kind { kFill, kFrame, kLine, kDot, kText };
  Kind kind = Kind::kFill;
  double x = 0, y = 0;           // upper left corner; of lines, one end; of dots, the centre
  double width = 0, height = 0;  // of lines, to the other end; of dots, `width` is the radius
  Rgb color = {};
  double opacity = 1;
  double thickness = 0;   // of frames (inwards) and lines; the height of text
  std::string text = {};  // of texts; for other shapes a tooltip
};

// The shapes over the picture, which is drawn grey, and the legend below it.
struct Overlay {
  int width = 0;  // of the whole drawing
  int height = 0;
  int picture_width = 0;  // of the picture, enlarged
  int picture_height = 0;
  std::vector<Shape> shapes;
};

// Colour of a precision (Cell::precision()): a ramp that is also readable in grey.
Rgb PrecisionColor(double precision);

// `title` stands above the legend. `has_shares`: the cells have softmax shares of an answer.
Overlay MakeOverlay(const CellMap& map, int picture_width, int picture_height,
                    std::string_view title, bool has_shares);

Raster DrawOverlay(const Overlay& overlay, const Raster& picture);
// `picture_file`: the encoded bytes of `picture`.
std::string SvgOverlay(const Overlay& overlay, const Raster& picture,
                       std::string_view picture_file);

std::string Base64(std::string_view bytes);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_INSPECT_OVERLAY_H_
