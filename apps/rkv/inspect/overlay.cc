// Draws a cell map over its picture. The overlay is a list of shapes, drawn both as pixels and as
// SVG.
#include "inspect/overlay.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "output.h"
#include "retentivekv/picture.h"

#define STB_IMAGE_WRITE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STBI_WRITE_NO_STDIO
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#include <stb_easy_font.h>
#include <stb_image_write.h>
#pragma GCC diagnostic pop

namespace rkv::app {

namespace {

constexpr int kMinWidth = 512;                     // pixels; smaller pictures are enlarged
constexpr int kMaxHeight = 4096;                   // maximum of enlarged pictures
constexpr PictureSize kMaxPicture = {2048, 2048};  // larger ones are scaled down
constexpr double kTint = 0.55;                     // opacity
constexpr double kMinRead = 0.05;  // share of the maximum; cells below it have no outline
constexpr int kLineHeight = 12;    // of stb_easy_font, as its other lengths
constexpr Rgb kInk = {30, 30, 30};
constexpr Rgb kReadColor = {225, 25, 25};
constexpr Rgb kRootColor = {255, 140, 0};

// Replaces characters that the font lacks by '?'.
std::string Printable(std::string_view text) {
  std::string result;
  for (const char c : text) {
    if ((static_cast<uint8_t>(c) & 0xC0) == 0x80) continue;  // the rest of a UTF-8 character
    result += c >= 32 && c < 127 ? c : '?';
  }
  return result;
}

double TextWidth(std::string text, double height) {
  return stb_easy_font_width(text.data()) * height / kLineHeight;
}

// Breaks a text into lines no wider than `width`, as far as its words allow.
std::vector<std::string> Wrap(const std::string& text, double height, double width) {
  std::vector<std::string> lines(1);
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(' ', begin), text.size());
    const std::string word = text.substr(begin, end - begin);
    std::string& line = lines.back();
    if (!line.empty() && TextWidth(line + ' ' + word, height) > width) {
      lines.push_back(word);
    } else {
      line += (line.empty() ? "" : " ") + word;
    }
    begin = end + 1;
  }
  return lines;
}

struct Box {
  double x = 0, y = 0, width = 0, height = 0;
  double middle_x() const { return x + width / 2; }
  double middle_y() const { return y + height / 2; }
};

Shape Fill(const Box& box, const Rgb& color) {
  return {.kind = Shape::Kind::kFill,
          .x = box.x,
          .y = box.y,
          .width = box.width,
          .height = box.height,
          .color = color,
          .opacity = kTint};
}

Shape Frame(const Box& box, double thickness) {
  return {.kind = Shape::Kind::kFrame,
          .x = box.x,
          .y = box.y,
          .width = box.width,
          .height = box.height,
          .color = kReadColor,
          .thickness = thickness};
}

Shape Dot(double x, double y, double radius) {
  return {.kind = Shape::Kind::kDot, .x = x, .y = y, .width = radius, .color = kRootColor};
}

Shape Line(double x, double y, double to_x, double to_y, double thickness) {
  return {.kind = Shape::Kind::kLine,
          .x = x,
          .y = y,
          .width = to_x - x,
          .height = to_y - y,
          .color = kRootColor,
          .thickness = thickness};
}

Shape Text(double x, double y, double height, std::string text) {
  return {.kind = Shape::Kind::kText,
          .x = x,
          .y = y,
          .color = kInk,
          .thickness = height,
          .text = std::move(text)};
}

// "row 1, column 3: q8_0 in 75 %, absorbed in 25 % of heads; 2.10 % of the softmax"
std::string CellText(const CellMap& map, size_t i) {
  const Cell& cell = map.cells[i];
  std::string text =
      fmt::format("row {}, column {}:", i / map.span.columns + 1, i % map.span.columns + 1);
  const auto add = [&](std::string_view what, double share) {
    if (share <= 0) return;
    text += map.n_heads == 1 ? fmt::format(" {}", what)
                             : fmt::format(" {} in {:.0f} % of heads;", what, 100 * share);
  };
  for (size_t rung = 0; rung < map.rungs.size(); ++rung) add(map.rungs[rung], cell.rungs[rung]);
  add("absorbed", cell.absorbed);
  add("forgotten", cell.forgotten);
  return text + fmt::format(" {:.2f} % of the softmax", 100 * cell.softmax);
}

// Items that flow from left to right below the picture.
class Legend {
 public:
  Legend(Overlay& overlay, double text_height)
      : overlay_(overlay),
        height_(text_height),
        x_(text_height / 2),
        y_(overlay.picture_height + text_height / 2) {}

  void AddLine(const std::string& text) { AddText(text, height_ / 2, 0); }

  // A sample, which `draw` draws into a box, and its explanation.
  template <typename Draw>
  void Add(const std::string& text, const Draw& draw) {
    const double sample = height_ * 1.4;
    const double width = sample + height_ * 0.4 + TextWidth(text, height_);
    if (x_ > height_ / 2 && x_ + width > overlay_.width) NewLine();
    draw(Box{x_, y_ - height_ * 0.1, sample, height_ * 0.9});
    AddText(text, x_ + sample + height_ * 0.4, x_ + width + height_);
  }

  void NewLine() {
    if (x_ <= height_ / 2) return;
    x_ = height_ / 2;
    y_ += height_ * 1.35;
  }

  void Finish() {
    NewLine();
    overlay_.height = static_cast<int>(y_ + height_ / 2);
  }

 private:
  // `next`: the place for the next item; 0: on a new line.
  void AddText(const std::string& text, double x, double next) {
    for (const std::string& line : Wrap(text, height_, overlay_.width - x)) {
      overlay_.shapes.push_back(Text(x, y_, height_, line));
      x_ = overlay_.width;
      last_y_ = y_;
      NewLine();
    }
    if (next == 0 || y_ - last_y_ > height_ * 1.5) return;
    y_ = last_y_;
    x_ = next;
  }

  Overlay& overlay_;
  double height_;
  double x_;
  double y_;
  double last_y_ = 0;
};

void AddCells(const CellMap& map, bool has_shares, double text_height, Overlay& overlay) {
  const uint32_t columns = map.span.columns;
  const auto box = [&](uint64_t i) {
    const double width = static_cast<double>(overlay.picture_width) / columns;
    const double height = static_cast<double>(overlay.picture_height) / map.span.rows;
    return Box{static_cast<double>(i % columns) * width, static_cast<double>(i / columns) * height,
               width, height};
  };
  const Box first = box(0);
  const double size = std::min(first.width, first.height);
  for (size_t i = 0; i < map.cells.size(); ++i) {
    Box inner = box(i);
    const double gap = size >= 8 ? 1 : 0;
    inner.width -= gap;
    inner.height -= gap;
    overlay.shapes.push_back(Fill(inner, PrecisionColor(map.cells[i].precision())));
    overlay.shapes.back().text = CellText(map, i);
  }
  for (size_t i = 0; has_shares && i < map.cells.size(); ++i) {
    const double read = map.read(map.cells[i]);
    if (read >= kMinRead) overlay.shapes.push_back(Frame(box(i), 1 + read * size / 6));
  }
  for (size_t i = 0; i < map.cells.size(); ++i) {
    const Cell& cell = map.cells[i];
    if (cell.root < 0 || cell.usual() != map.rungs.size()) continue;
    const Box from = box(i);
    const auto root = static_cast<uint64_t>(cell.root);
    const bool inside =
        root >= map.span.first_token && root < map.span.first_token + map.span.n_tokens();
    if (inside && root != map.span.first_token + i) {
      const Box to = box(root - map.span.first_token);
      overlay.shapes.push_back(Line(from.middle_x(), from.middle_y(), to.middle_x(), to.middle_y(),
                                    std::max(1.0, size / 30)));
      overlay.shapes.push_back(Dot(to.middle_x(), to.middle_y(), size / 6));
    } else if (!inside) {
      const std::string label = fmt::format("t{}", root);
      const double height = std::min(text_height, size / 3);
      if (height >= 6) {
        overlay.shapes.push_back(Text(from.x + size / 16, from.y + size / 16, height, label));
        overlay.shapes.back().color = kRootColor;
      }
    }
    overlay.shapes.push_back(Dot(from.middle_x(), from.middle_y(), size / 12));
  }
}

void AddLegend(const CellMap& map, std::string_view title, bool has_shares, double text_height,
               Overlay& overlay) {
  Legend legend(overlay, text_height);
  legend.AddLine(Printable(title));
  const auto swatch = [&](double precision) {
    return [&overlay, precision](const Box& box) {
      overlay.shapes.push_back(Fill(box, PrecisionColor(precision)));
    };
  };
  const auto n = static_cast<double>(map.rungs.size());
  for (size_t i = 0; i < map.rungs.size(); ++i) {
    legend.Add(map.rungs[i], swatch(1 - static_cast<double>(i) / n));
  }
  legend.Add("not held", swatch(0));
  legend.NewLine();
  if (map.n_heads > 1) legend.AddLine("Colours between these: means over heads");
  const bool absorbed = std::ranges::any_of(
      map.cells, [&](const Cell& cell) { return cell.usual() == map.rungs.size(); });
  if (absorbed) {
    legend.Add("absorbed; the line leads to the root", [&](const Box& box) {
      const double y = box.middle_y();
      overlay.shapes.push_back(Line(box.x + box.height / 4, y, box.x + box.width - box.height / 4,
                                    y, std::max(1.0, text_height / 12)));
      overlay.shapes.push_back(Dot(box.x + box.height / 4, y, box.height / 6));
      overlay.shapes.push_back(Dot(box.x + box.width - box.height / 4, y, box.height / 3));
    });
    legend.NewLine();
  }
  if (has_shares) {
    legend.Add(fmt::format("read in the last answer; thickest: {:.2f} %", 100 * map.read_scale()),
               [&](const Box& box) { overlay.shapes.push_back(Frame(box, text_height / 6)); });
  }
  legend.Finish();
}

// --- pixels -----------------------------------------------------------------------------------

class Canvas {
 public:
  explicit Canvas(Raster& raster) : raster_(raster) {}

  void Set(int x, int y, const Rgb& color, double opacity) {
    if (x < 0 || y < 0 || x >= raster_.width || y >= raster_.height) return;
    uint8_t* pixel = const_cast<uint8_t*>(raster_.at(x, y));
    for (size_t c = 0; c < 3; ++c) {
      pixel[c] = static_cast<uint8_t>(std::lround(pixel[c] * (1 - opacity) + color[c] * opacity));
    }
  }

  void Fill(double x, double y, double width, double height, const Rgb& color, double opacity) {
    const int right = std::min(raster_.width, static_cast<int>(std::lround(x + width)));
    const int bottom = std::min(raster_.height, static_cast<int>(std::lround(y + height)));
    for (int row = std::max(0, static_cast<int>(std::lround(y))); row < bottom; ++row) {
      for (int column = std::max(0, static_cast<int>(std::lround(x))); column < right; ++column) {
        Set(column, row, color, opacity);
      }
    }
  }

  void Disc(double x, double y, double radius, const Rgb& color) {
    const double r = std::max(radius, 0.5);
    for (int row = static_cast<int>(std::floor(y - r)); row <= y + r; ++row) {
      for (int column = static_cast<int>(std::floor(x - r)); column <= x + r; ++column) {
        if (std::hypot(column + 0.5 - x, row + 0.5 - y) <= r) Set(column, row, color, 1);
      }
    }
  }

  void Text(const Shape& shape) {
    const double scale = shape.thickness / kLineHeight;
    std::string text = shape.text;
    std::vector<float> quads(size_t{300} * 16 / 4 * (text.size() + 1));
    const int n = stb_easy_font_print(0, 0, text.data(), nullptr, quads.data(),
                                      static_cast<int>(quads.size() * sizeof(float)));
    for (int i = 0; i < n; ++i) {
      const float* corner = &quads[static_cast<size_t>(i) * 16];  // four times x, y, z, colour
      Fill(shape.x + corner[0] * scale, shape.y + corner[1] * scale,
           (corner[8] - corner[0]) * scale, (corner[9] - corner[1]) * scale, shape.color, 1);
    }
  }

  void Draw(const Shape& shape) {
    switch (shape.kind) {
      case Shape::Kind::kFill:
        Fill(shape.x, shape.y, shape.width, shape.height, shape.color, shape.opacity);
        break;
      case Shape::Kind::kFrame: {
        const double t = shape.thickness;
        Fill(shape.x, shape.y, shape.width, t, shape.color, 1);
        Fill(shape.x, shape.y + shape.height - t, shape.width, t, shape.color, 1);
        Fill(shape.x, shape.y, t, shape.height, shape.color, 1);
        Fill(shape.x + shape.width - t, shape.y, t, shape.height, shape.color, 1);
        break;
      }
      case Shape::Kind::kLine: {
        const int steps = 1 + static_cast<int>(2 * std::hypot(shape.width, shape.height));
        for (int i = 0; i <= steps; ++i) {
          const double at = static_cast<double>(i) / steps;
          Disc(shape.x + at * shape.width, shape.y + at * shape.height, shape.thickness / 2,
               shape.color);
        }
        break;
      }
      case Shape::Kind::kDot:
        Disc(shape.x, shape.y, shape.width, shape.color);
        break;
      case Shape::Kind::kText:
        Text(shape);
        break;
    }
  }

 private:
  Raster& raster_;
};

// --- SVG --------------------------------------------------------------------------------------

std::string SvgShape(const Shape& shape) {
  const std::string color =
      fmt::format("#{:02x}{:02x}{:02x}", shape.color[0], shape.color[1], shape.color[2]);
  const auto rectangle = [&](double inset, const std::string& style) {
    return fmt::format("<rect x=\"{:.2f}\" y=\"{:.2f}\" width=\"{:.2f}\" height=\"{:.2f}\" {}",
                       shape.x + inset, shape.y + inset, std::max(0.0, shape.width - 2 * inset),
                       std::max(0.0, shape.height - 2 * inset), style);
  };
  switch (shape.kind) {
    case Shape::Kind::kFill: {
      const std::string start =
          rectangle(0, fmt::format("fill=\"{}\" fill-opacity=\"{:.2f}\"", color, shape.opacity));
      if (shape.text.empty()) return start + "/>\n";
      return start + fmt::format("><title>{}</title></rect>\n", XmlText(shape.text));
    }
    case Shape::Kind::kFrame:
      return rectangle(shape.thickness / 2,
                       fmt::format("fill=\"none\" stroke=\"{}\" stroke-width=\"{:.2f}\" "
                                   "pointer-events=\"none\"/>\n",
                                   color, shape.thickness));
    case Shape::Kind::kLine:
      return fmt::format(
          "<line x1=\"{:.2f}\" y1=\"{:.2f}\" x2=\"{:.2f}\" y2=\"{:.2f}\" stroke=\"{}\" "
          "stroke-width=\"{:.2f}\"/>\n",
          shape.x, shape.y, shape.x + shape.width, shape.y + shape.height, color, shape.thickness);
    case Shape::Kind::kDot:
      return fmt::format("<circle cx=\"{:.2f}\" cy=\"{:.2f}\" r=\"{:.2f}\" fill=\"{}\"/>\n",
                         shape.x, shape.y, shape.width, color);
    case Shape::Kind::kText:
      return fmt::format(
          "<text x=\"{:.2f}\" y=\"{:.2f}\" font-family=\"sans-serif\" font-size=\"{:.2f}\" "
          "fill=\"{}\">{}</text>\n",
          shape.x, shape.y + 0.7 * shape.thickness, 0.85 * shape.thickness, color,
          XmlText(shape.text));
  }
  return "";
}

}  // namespace

Result<Raster> DecodePicture(std::string_view bytes, const std::string& name) {
  RKV_ASSIGN_OR_RETURN(const PictureInfo info, ReadPictureInfo(bytes, name));
  const PictureSize size = FitPicture(info.size, kMaxPicture.n_pixels(), kMaxHeight);
  RKV_ASSIGN_OR_RETURN(Picture picture, rkv::ReadPicture(bytes, name, {}, size));
  return Raster{
      .width = picture.size.width, .height = picture.size.height, .pixels = std::move(picture.rgb)};
}

std::string EncodePng(const Raster& raster) {
  std::string bytes;
  stbi_write_png_to_func(
      [](void* context, void* data, int size) {
        static_cast<std::string*>(context)->append(static_cast<const char*>(data),
                                                   static_cast<size_t>(size));
      },
      &bytes, raster.width, raster.height, 3, raster.pixels.data(), 3 * raster.width);
  return bytes;
}

Rgb PrecisionColor(double precision) {
  constexpr Rgb kRamp[] = {
      {68, 1, 84}, {59, 82, 139}, {33, 145, 140}, {94, 201, 98}, {253, 231, 37}};
  const double at = std::clamp(precision, 0.0, 1.0) * (std::size(kRamp) - 1);
  const size_t below = std::min(static_cast<size_t>(at), std::size(kRamp) - 2);
  const double part = at - static_cast<double>(below);
  Rgb color;
  for (size_t c = 0; c < 3; ++c) {
    color[c] = static_cast<uint8_t>(
        std::lround(kRamp[below][c] * (1 - part) + kRamp[below + 1][c] * part));
  }
  return color;
}

Overlay MakeOverlay(const CellMap& map, int picture_width, int picture_height,
                    std::string_view title, bool has_shares) {
  int scale = (kMinWidth + picture_width - 1) / picture_width;
  scale = std::max(1, std::min(scale, kMaxHeight / picture_height));
  Overlay overlay;
  overlay.picture_width = picture_width * scale;
  overlay.picture_height = picture_height * scale;
  overlay.width = std::max(overlay.picture_width, kMinWidth);
  const double text_height = kLineHeight * std::max(2, overlay.width / 400);
  AddCells(map, has_shares, text_height, overlay);
  AddLegend(map, title, has_shares, text_height, overlay);
  return overlay;
}

Raster DrawOverlay(const Overlay& overlay, const Raster& picture) {
  Raster raster{.width = overlay.width, .height = overlay.height, .pixels = {}};
  raster.pixels.assign(3 * static_cast<size_t>(overlay.width) * static_cast<size_t>(overlay.height),
                       255);
  for (int y = 0; y < overlay.picture_height; ++y) {
    for (int x = 0; x < overlay.picture_width; ++x) {
      const uint8_t* from = picture.at(x * picture.width / overlay.picture_width,
                                       y * picture.height / overlay.picture_height);
      // The luminance of sRGB.
      const auto grey =
          static_cast<uint8_t>(std::lround(0.2126 * from[0] + 0.7152 * from[1] + 0.0722 * from[2]));
      uint8_t* to = const_cast<uint8_t*>(raster.at(x, y));
      std::fill(to, to + 3, grey);
    }
  }
  Canvas canvas(raster);
  for (const Shape& shape : overlay.shapes) canvas.Draw(shape);
  return raster;
}

std::string SvgOverlay(const Overlay& overlay, const Raster& picture,
                       std::string_view picture_file) {
  // Pictures that every SVG viewer shows upright are embedded unchanged; others as PNG.
  const auto info = ReadPictureInfo(picture_file, "");
  const bool upright = info.ok() && info->orientation == 1;
  const bool jpeg = upright && info->format == PictureFormat::kJpeg;
  const bool png = upright && info->format == PictureFormat::kPng;
  const std::string data = Base64(jpeg || png ? picture_file : EncodePng(picture));
  std::string svg = fmt::format(
      "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" "
      "viewBox=\"0 0 {0} {1}\">\n"
      "<filter id=\"grey\"><feColorMatrix type=\"saturate\" values=\"0\"/></filter>\n"
      "<rect width=\"{0}\" height=\"{1}\" fill=\"#ffffff\"/>\n"
      "<image width=\"{2}\" height=\"{3}\" preserveAspectRatio=\"none\" filter=\"url(#grey)\" "
      "style=\"image-rendering:pixelated\" "
      "href=\"data:image/{4};base64,{5}\"/>\n",
      overlay.width, overlay.height, overlay.picture_width, overlay.picture_height,
      jpeg ? "jpeg" : "png", data);
  for (const Shape& shape : overlay.shapes) svg += SvgShape(shape);
  return svg + "</svg>\n";
}

std::string Base64(std::string_view bytes) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    for (size_t j = 0; j < 3; ++j) {
      group = group << 8 | (i + j < bytes.size() ? static_cast<uint8_t>(bytes[i + j]) : 0);
    }
    for (size_t j = 0; j < 4; ++j) {
      text += i + j <= bytes.size() ? kDigits[group >> (18 - 6 * j) & 63] : '=';
    }
  }
  return text;
}

}  // namespace rkv::app
