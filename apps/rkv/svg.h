// Pieces of SVG that several diagrams use.
#ifndef RETENTIVEKV_APPS_RKV_SVG_H_
#define RETENTIVEKV_APPS_RKV_SVG_H_

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <string_view>
#include <vector>

#include "output.h"

namespace rkv::app {

// Okabe and Ito's colours, which are distinct for any colour vision. Without their yellow, which is
// pale on white.
inline constexpr std::array kSvgColors = {"#0072B2", "#D55E00", "#009E73",
                                          "#CC79A7", "#E69F00", "#56B4E9"};

// Opens a white drawing of that size in pixels; "</svg>\n" closes it.
inline std::string SvgOpen(double width, double height) {
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" "
      "viewBox=\"0 0 {0:.0f} {1:.0f}\" font-family=\"DejaVu Sans, Arial, sans-serif\" "
      "font-size=\"12\" fill=\"#222222\">\n<rect width=\"100%\" height=\"100%\" "
      "fill=\"#ffffff\"/>\n",
      width, height);
}

// `attributes` in the element's own syntax, e.g. "text-anchor=\"end\"".
inline std::string SvgText(double x, double y, std::string_view text,
                           std::string_view attributes = "") {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" {}>{}</text>\n", x, y, attributes,
                     XmlText(text));
}

inline std::string SvgLine(double x1, double y1, double x2, double y2,
                           std::string_view attributes) {
  return fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" {}/>\n", x1, y1,
                     x2, y2, attributes);
}

// Maps numbers from `low` to `high` to pixels between two ends.
struct SvgAxis {
  double low = 0;
  double high = 1;
  bool logarithmic = false;
  double first = 0;
  double last = 1;
  std::vector<double> ticks = {};  // only those between low and high are drawn
  std::string_view unit = {};

  // The pixel of a number; outside the axis, that of the nearest end.
  double At(double number) const {
    const auto scale = [this](double y) { return logarithmic ? std::log10(y) : y; };
    const double share =
        (scale(std::clamp(number, low, high)) - scale(low)) / (scale(high) - scale(low));
    return first + share * (last - first);
  }
};

// Draws the axes with lines, ticks and names: `title` above, `name` below.
inline std::string SvgAxes(const SvgAxis& x, const SvgAxis& y, std::string_view title,
                           std::string_view name) {
  constexpr const char* kGrid = "stroke=\"#e2e2e2\" stroke-width=\"1\"";
  const auto outside = [](const SvgAxis& axis, double tick) {
    return tick < axis.low || tick > axis.high;
  };
  std::string text = SvgText(x.first, y.last - 10, title, "font-weight=\"bold\"");
  for (const double tick : x.ticks) {
    if (outside(x, tick)) continue;
    text += SvgLine(x.At(tick), y.first, x.At(tick), y.last, kGrid);
    text += SvgText(x.At(tick), y.first + 16, fmt::format("{:g}{}", tick, x.unit),
                    "text-anchor=\"middle\"");
  }
  for (const double tick : y.ticks) {
    if (outside(y, tick)) continue;
    text += SvgLine(x.first, y.At(tick), x.last, y.At(tick), kGrid);
    text += SvgText(x.first - 6, y.At(tick) + 4, fmt::format("{:g}{}", tick, y.unit),
                    "text-anchor=\"end\"");
  }
  text += SvgLine(x.first, y.first, x.last, y.first, "stroke=\"#333333\"");
  text += SvgLine(x.first, y.first, x.first, y.last, "stroke=\"#333333\"");
  return text + SvgText((x.first + x.last) / 2, y.first + 34, name, "text-anchor=\"middle\"");
}

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_SVG_H_
