// Draws the curves of `rkv bench --plot`: speed and memory against context.
#include "bench/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "svg.h"

namespace rkv::app {

namespace {

struct Curve {
  std::string label;
  bool stock = false;
  std::vector<std::pair<double, double>> speed;   // t/s by depth
  std::vector<std::pair<double, double>> memory;  // MiB by depth
};

constexpr double kWidth = 420;  // of one diagram
constexpr double kHeight = 300;
constexpr double kLeft = 64;
constexpr double kTop = 44;
constexpr double kGap = 84;         // between diagrams
constexpr double kLegendLine = 20;  // height

std::vector<Curve> CurvesOf(std::span<const BenchRow> rows) {
  const auto decodes = [](const BenchRow& row) { return !row.test.prefill; };
  const bool decoding = std::ranges::any_of(rows, decodes);
  const BenchRow* first = nullptr;
  std::vector<Curve> curves;
  for (const BenchRow& row : rows) {
    if (row.test.prefill == decoding) continue;
    if (first == nullptr) first = &row;
    if (row.model.file != first->model.file || row.n_threads != first->n_threads ||
        row.n_batch != first->n_batch || row.n_ubatch != first->n_ubatch ||
        row.test.n != first->test.n) {
      continue;
    }
    auto curve = std::ranges::find(curves, row.cache.label(), &Curve::label);
    if (curve == curves.end()) {
      curves.push_back(
          {.label = row.cache.label(), .stock = row.cache.stock, .speed = {}, .memory = {}});
      curve = curves.end() - 1;
    }
    const auto depth = static_cast<double>(row.test.depth);
    curve->speed.emplace_back(depth, row.median_ts());
    curve->memory.emplace_back(depth, static_cast<double>(row.held_bytes) / 1024 / 1024);
  }
  for (Curve& curve : curves) {
    std::ranges::sort(curve.speed);
    std::ranges::sort(curve.memory);
  }
  return curves;
}

// From 0 to `max_value`, with four to ten marks at 1, 2 or 5 times a power of ten.
SvgAxis AxisTo(double max_value, double first, double last) {
  SvgAxis axis{.high = max_value > 0 ? max_value : 1, .first = first, .last = last};
  double step = std::pow(10, std::floor(std::log10(axis.high / 4)));
  for (const double factor : {5.0, 2.0}) {
    if (factor * step * 4 > axis.high) continue;
    step *= factor;
    break;
  }
  for (double tick = 0; tick <= axis.high; tick += step) axis.ticks.push_back(tick);
  return axis;
}

std::string Stroke(const Curve& curve, size_t index) {
  return fmt::format("stroke=\"{}\" stroke-width=\"2\"{}", kSvgColors[index % kSvgColors.size()],
                     curve.stock                  ? " stroke-dasharray=\"6 4\""
                     : index >= kSvgColors.size() ? " stroke-dasharray=\"2 3\""
                                                  : "");
}

std::string Diagram(double left, const char* title, const std::vector<Curve>& curves,
                    std::vector<std::pair<double, double>> Curve::*points) {
  double max_x = 0, max_y = 0;
  for (const Curve& curve : curves) {
    for (const auto& [x, y] : curve.*points) {
      max_x = std::max(max_x, x);
      max_y = std::max(max_y, y);
    }
  }
  const SvgAxis x_axis = AxisTo(max_x, left, left + kWidth);
  const SvgAxis y_axis = AxisTo(1.05 * max_y, kTop + kHeight, kTop);
  std::string svg = SvgAxes(x_axis, y_axis, title, "tokens of context");
  for (size_t c = 0; c < curves.size(); ++c) {
    std::string path;
    for (const auto& [x, y] : curves[c].*points) {
      path += fmt::format("{:.1f},{:.1f} ", x_axis.At(x), y_axis.At(y));
      svg += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"/>\n",
                         x_axis.At(x), y_axis.At(y), kSvgColors[c % kSvgColors.size()]);
    }
    svg += fmt::format("<polyline points=\"{}\" fill=\"none\" {}/>\n", path, Stroke(curves[c], c));
  }
  return svg;
}

}  // namespace

std::string BenchPlot(std::span<const BenchRow> rows) {
  const std::vector<Curve> curves = CurvesOf(rows);
  const double legend = kTop + kHeight + 60;
  const double width = kLeft + 2 * kWidth + kGap + 24;
  const double height = legend + kLegendLine * static_cast<double>(curves.size()) + 12;
  std::string svg = SvgOpen(width, height);
  const bool decoding =
      std::ranges::any_of(rows, [](const BenchRow& r) { return !r.test.prefill; });
  svg += Diagram(kLeft, decoding ? "tokens decoded per second" : "tokens read per second", curves,
                 &Curve::speed);
  svg += Diagram(kLeft + kWidth + kGap, "MiB held by the KV cache", curves, &Curve::memory);
  for (size_t c = 0; c < curves.size(); ++c) {
    const double y = legend + kLegendLine * static_cast<double>(c);
    svg += SvgLine(kLeft, y - 4, kLeft + 32, y - 4, Stroke(curves[c], c));
    svg += SvgText(kLeft + 40, y, curves[c].label);
  }
  return svg + "</svg>\n";
}

}  // namespace rkv::app
