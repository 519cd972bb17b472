// Draws the curves of an evaluation as SVG: a row of panels for each regime.
#include "eval/curves.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include "eval/rows.h"
#include "output.h"
#include "svg.h"

namespace rkv::app {

namespace {

// `full` is grey, ours is black.
constexpr const char* kDashes[] = {"", "6 3", "2 3"};  // for reused colours
constexpr const char* kOursColor = "#000000";
constexpr const char* kFullColor = "#777777";

constexpr double kPanelWidth = 380;
constexpr double kPanelHeight = 260;
constexpr double kLeft = 60;     // of a panel, for its labels
constexpr double kTop = 70;      // of the drawing, for its title
constexpr double kBetween = 80;  // vertical distance of panels
constexpr double kLegend = 240;
constexpr double kMinKl = 1e-4;  // smaller values are drawn here
constexpr double kSpread = 1.2;  // pixels between bars that would overlap

struct Point {
  double kept = 0;  // per cent
  double value = 0;
  Interval bar;
};

struct Curve {
  std::string label;
  std::string color;
  std::string dash;
  size_t marker = 0;
  double width = 1.6;
  double shift = 0;  // pixels
  std::vector<Point> points;
};

// A disc, square, triangle or diamond.
std::string Marker(size_t kind, double x, double y, const std::string& color) {
  constexpr double kRadius = 3.4;
  const double r = kRadius;
  if (kind % 4 == 0) {
    return fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\" fill=\"{}\"/>\n", x, y, r,
                       color);
  }
  std::vector<std::pair<double, double>> corners = {{-r, -r}, {r, -r}, {r, r}, {-r, r}};
  if (kind % 4 == 2) corners = {{0, -1.3 * r}, {1.2 * r, r}, {-1.2 * r, r}};
  if (kind % 4 == 3) corners = {{0, -1.4 * r}, {1.4 * r, 0}, {0, 1.4 * r}, {-1.4 * r, 0}};
  std::string points;
  for (const auto& [dx, dy] : corners) points += fmt::format("{:.1f},{:.1f} ", x + dx, y + dy);
  return fmt::format("<polygon points=\"{}\" fill=\"{}\"/>\n", points, color);
}

// The curves of a regime: policies that evict, then single points of quantised full caches.
std::vector<Curve> CurvesOf(const std::vector<Row>& rows, bool kl) {
  std::vector<Curve> curves;
  std::map<std::string, size_t> by_label;
  size_t n_others = 0;
  for (const Row& row : rows) {
    const Configuration& configuration = *row.configuration;
    const bool quantized = !row.budget.has_value() && configuration.options.type_k.has_value();
    if (!row.measurement->refused.empty()) continue;
    if (quantized ? false : !row.budget.has_value() || configuration.control) continue;
    const auto [found, added] = by_label.try_emplace(configuration.label, curves.size());
    if (added) {
      Curve& curve = curves.emplace_back();
      curve.label = configuration.label;
      if (quantized) {
        curve.color = kFullColor;
        curve.marker = curves.size();
      } else if (configuration.label == kOurs) {
        curve.color = kOursColor;
        curve.width = 3;
      } else {
        curve.color = kSvgColors[n_others % kSvgColors.size()];
        curve.dash = kDashes[std::min(n_others / kSvgColors.size(), std::size(kDashes) - 1)];
        curve.marker = ++n_others;
      }
    }
    const Measurement& m = *row.measurement;
    curves[found->second].points.push_back({.kept = 100 * m.kept,
                                            .value = kl ? m.kl.value() : m.accuracy.value(),
                                            .bar = kl ? row.kl : row.accuracy});
  }
  for (size_t i = 0; i < curves.size(); ++i) {
    curves[i].shift =
        kSpread * (static_cast<double>(i) - static_cast<double>(curves.size() - 1) / 2);
    std::ranges::sort(curves[i].points, {}, &Point::kept);
  }
  // Draws ours above the others.
  std::ranges::stable_partition(curves, [](const Curve& curve) { return curve.label != kOurs; });
  return curves;
}

std::string Draw(const Curve& curve, const SvgAxis& x, const SvgAxis& y) {
  std::string text = "<g>\n<title>" + XmlText(curve.label) + "</title>\n";
  const std::string stroke =
      fmt::format("fill=\"none\" stroke=\"{}\" stroke-width=\"{}\"", curve.color, curve.width);
  std::string line;
  for (const Point& point : curve.points) {
    const double at = x.At(point.kept) + curve.shift;
    line += fmt::format("{:.1f},{:.1f} ", at, y.At(point.value));
    text += SvgLine(at, y.At(point.bar.low), at, y.At(point.bar.high),
                    fmt::format("stroke=\"{}\" stroke-width=\"1.2\"", curve.color));
  }
  text += fmt::format("<polyline points=\"{}\" {} stroke-dasharray=\"{}\"/>\n", line, stroke,
                      curve.dash);
  for (const Point& point : curve.points) {
    text += Marker(curve.marker, x.At(point.kept) + curve.shift, y.At(point.value), curve.color);
  }
  return text + "</g>\n";
}

std::vector<double> Decades(double low, double high) {
  std::vector<double> ticks;
  for (double tick = low; tick <= high * 1.001; tick *= 10) ticks.push_back(tick);
  return ticks;
}

// From a tick below the smallest held share to one above the largest.
std::pair<double, double> KeptRange(const std::vector<double>& ticks,
                                    const std::vector<Curve>& curves) {
  double low = 100;
  double high = 100;
  for (const Curve& curve : curves) {
    for (const Point& point : curve.points) {
      low = std::min(low, point.kept);
      high = std::max(high, point.kept);
    }
  }
  for (size_t i = ticks.size(); i-- > 1;) {
    if (ticks[i - 1] < 0.9 * low) return {ticks[i - 1], 1.15 * high};
  }
  return {ticks.front(), 1.15 * high};
}

std::string Legend(double x, double y, const std::vector<Curve>& curves) {
  std::string text;
  const auto entry = [&](const Curve& curve) {
    const bool line = curve.points.size() != 1;
    if (line) {
      text += SvgLine(x, y - 4, x + 34, y - 4,
                      fmt::format("stroke=\"{}\" stroke-width=\"{}\" stroke-dasharray=\"{}\"",
                                  curve.color, curve.width, curve.dash));
    }
    if (!curve.points.empty()) text += Marker(curve.marker, x + 17, y - 4, curve.color);
    text += SvgText(x + 42, y, curve.label);
    y += 19;
  };
  entry({.label = "full", .color = kFullColor, .dash = "8 4", .points = {}});
  for (auto curve = curves.rbegin(); curve != curves.rend(); ++curve) {
    if (curve->label == kOurs) entry(*curve);
  }
  for (const Curve& curve : curves) {
    if (curve.label != kOurs) entry(curve);
  }
  return text;
}

}  // namespace

std::string SvgCurves(const EvalHeader& header, const SuiteResult& result) {
  const std::vector<double> kept_ticks = {0.1, 0.2, 0.5, 1, 2.5, 5, 10, 20, 50, 100};
  const double width = 2 * (kLeft + kPanelWidth) + 40 + kLegend;
  const auto n_regimes = static_cast<double>(result.regimes.size());
  // The legend may be taller than one panel.
  const double height =
      std::max(kTop + n_regimes * (kPanelHeight + kBetween),
               kTop + 19.0 * static_cast<double>(result.configurations.size() + 1));
  std::string text = SvgOpen(width, height);
  text += SvgText(kLeft, 28, fmt::format("rkv eval {}: {}", header.suite, header.model),
                  "font-size=\"15\" font-weight=\"bold\"");
  for (size_t r = 0; r < result.regimes.size(); ++r) {
    const Regime& regime = result.regimes[r];
    const std::vector<Row> rows = RowsOf(result, regime, header.seeds.front());
    const double top = kTop + static_cast<double>(r) * (kPanelHeight + kBetween);
    for (const bool kl : {false, true}) {
      const std::vector<Curve> curves = CurvesOf(rows, kl);
      const double left = kLeft + (kl ? kPanelWidth + kLeft + 20 : 0);
      const auto [low, high] = KeptRange(kept_ticks, curves);
      const SvgAxis x{.low = low,
                      .high = high,
                      .logarithmic = true,
                      .first = left,
                      .last = left + kPanelWidth,
                      .ticks = kept_ticks,
                      .unit = " %"};
      double max_kl = 1;
      for (const Curve& curve : curves) {
        for (const Point& point : curve.points) max_kl = std::max(max_kl, point.bar.high);
      }
      const double top_kl =
          std::isfinite(max_kl) ? std::pow(10, std::ceil(std::log10(max_kl))) : 100;
      const SvgAxis y{
          .low = kl ? kMinKl : 0,
          .high = kl ? top_kl : 1.0,
          .logarithmic = kl,
          .first = top + kPanelHeight,
          .last = top,
          .ticks = kl ? Decades(kMinKl, top_kl) : std::vector<double>{0, 0.2, 0.4, 0.6, 0.8, 1}};
      text += SvgAxes(x, y,
                      fmt::format("{}: {}", regime.name,
                                  kl ? "KL(full || policy), nats" : result.accuracy_name),
                      "bytes held, of a full f16 cache");
      const double full = y.At(regime.cells.front().front().accuracy.value());
      if (!kl) {
        text += SvgLine(
            x.first, full, x.last, full,
            fmt::format("stroke=\"{}\" stroke-width=\"1.6\" stroke-dasharray=\"8 4\"", kFullColor));
      }
      for (const Curve& curve : curves) text += Draw(curve, x, y);
      if (r == 0 && kl) text += Legend(x.last + 24, top + 4, curves);
    }
  }
  return text + "</svg>\n";
}

}  // namespace rkv::app
