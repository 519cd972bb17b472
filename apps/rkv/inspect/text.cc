// Writes cell maps, layers and stats as text and as JSON.
#include "inspect/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace rkv::app {

namespace {

constexpr size_t kMaxColumns = 64;  // of a map; pictures without a grid wrap there
constexpr size_t kLineWidth = 96;
constexpr std::string_view kGap = "    ";

std::string_view Plural(uint64_t n) { return n == 1 ? "" : "s"; }

// 0 to 9 for 0 to 1.
char Digit(double fraction) {
  return static_cast<char>('0' + std::clamp(static_cast<int>(fraction * 10), 0, 9));
}

struct Panel {
  std::string title;
  std::vector<std::string> rows;
};

template <typename Character>
Panel MakePanel(const CellMap& map, std::string title, const Character& character) {
  Panel panel{.title = std::move(title), .rows = {}};
  const size_t columns = std::min<size_t>(map.span.columns, kMaxColumns);
  for (size_t i = 0; i < map.cells.size(); ++i) {
    const size_t column = i % map.span.columns;
    if (column % columns == 0) panel.rows.emplace_back();
    panel.rows.back() += character(map.cells[i]);
  }
  return panel;
}

std::string SideBySide(const std::vector<Panel>& panels) {
  size_t width = 0;
  std::vector<size_t> widths;
  for (const Panel& panel : panels) {
    widths.push_back(std::max(panel.title.size(), panel.rows.empty() ? 0 : panel.rows[0].size()));
    width += widths.back() + kGap.size();
  }
  std::string text;
  if (width > kLineWidth) {
    for (const Panel& panel : panels) {
      text += fmt::format("  {}\n", panel.title);
      for (const std::string& row : panel.rows) text += fmt::format("  {}\n", row);
    }
    return text;
  }
  const auto add = [&](const auto& part) {
    std::string line = "  ";
    for (size_t i = 0; i < panels.size(); ++i) {
      line += fmt::format("{:<{}}{}", part(panels[i]), widths[i], kGap);
    }
    text += line.substr(0, line.find_last_not_of(' ') + 1) + '\n';
  };
  add([](const Panel& panel) { return panel.title; });
  for (size_t row = 0; row < panels[0].rows.size(); ++row) {
    add([row](const Panel& panel) { return panel.rows[row]; });
  }
  return text;
}

// A model may compute NaN, whose sign means nothing.
double Percent(double share) { return 100 * std::abs(share); }

double Rounded(float share, double units = 1e7) {
  return std::round(static_cast<double>(share) * units) / units;
}

}  // namespace

std::string FormatBytes(uint64_t bytes) {
  const auto value = static_cast<double>(bytes);
  if (bytes >= uint64_t{10} << 30) return fmt::format("{:.1f} GiB", value / (1 << 30));
  if (bytes >= uint64_t{10} << 20) return fmt::format("{:.1f} MiB", value / (1 << 20));
  return fmt::format("{:.1f} KiB", value / 1024);
}

std::string DescribeBytes(const CacheStats& stats) {
  std::string text;
  for (size_t i = 0; i < kElementTypes; ++i) {
    if (stats.bytes_by_type[i] == 0) continue;
    text += fmt::format("{} {}, ", ToString(static_cast<ElementType>(i)),
                        FormatBytes(stats.bytes_by_type[i]));
  }
  if (stats.state_bytes > 0) text += fmt::format("states {}, ", FormatBytes(stats.state_bytes));
  return text + fmt::format("metadata {}", FormatBytes(stats.metadata_bytes));
}

std::string StatsText(const CacheStats& stats) {
  std::string text =
      fmt::format("  bytes      {} held{}; a full cache: {}\n", FormatBytes(stats.held_bytes),
                  stats.budget_bytes == 0 ? ", no budget"
                                          : " of a budget of " + FormatBytes(stats.budget_bytes),
                  FormatBytes(stats.full_bytes));
  text += fmt::format("  of these   {}\n", DescribeBytes(stats));
  const uint64_t remembered = stats.tokens_exact + stats.tokens_absorbed;
  text += fmt::format(
      "  tokens     {} seen: {} exact, {} absorbed (maximum over KV heads), {} forgotten\n",
      stats.tokens_seen, stats.tokens_exact, stats.tokens_absorbed,
      stats.tokens_seen - std::min(stats.tokens_seen, remembered));
  text += fmt::format("  states     {}, which took {:.1f} % of attention; {} reactivation{}\n",
                      stats.states, 100 * stats.state_share, stats.reactivations,
                      Plural(stats.reactivations));
  return text +
         fmt::format(
             "  time       {} compression{} in {:.1f} ms, {:.1f} ms of observing attention\n",
             stats.compressions, Plural(stats.compressions), 1000 * stats.compress_seconds,
             1000 * stats.observe_seconds);
}

char CellCharacter(const CellMap& map, size_t usual) {
  if (usual == map.rungs.size()) return '~';
  if (usual > map.rungs.size()) return '.';
  // f16: F, bf16: B, q8_0: 8, q4_0: 4, q2: 2. Rungs with two types: a, b, ...
  const std::string& rung = map.rungs[usual];
  const auto has_two = [](const std::string& name) { return name.find('/') != name.npos; };
  if (has_two(rung)) {
    const auto n = std::count_if(map.rungs.begin(), map.rungs.begin() + usual, has_two);
    return static_cast<char>('a' + n);
  }
  return rung[0] == 'q' ? rung[1] : static_cast<char>(std::toupper(rung[0]));
}

std::string MapText(const CellMap& map, bool has_shares) {
  const bool several = map.n_heads > 1;
  std::vector<Panel> panels = {
      MakePanel(map, several ? "held as (most heads)" : "held as",
                [&](const Cell& cell) { return CellCharacter(map, cell.usual()); })};
  if (several) {
    panels.push_back(MakePanel(map, "heads that hold it", [](const Cell& cell) {
      return cell.held() > 0 ? Digit(cell.held()) : '.';
    }));
  }
  if (has_shares) {
    panels.push_back(MakePanel(map, "read in the answer", [&](const Cell& cell) {
      return cell.softmax > 0 ? Digit(map.read(cell)) : '.';
    }));
  }
  std::string text = SideBySide(panels) + "  legend: ";
  for (size_t i = 0; i < map.rungs.size(); ++i) {
    text += fmt::format("{} {}, ", CellCharacter(map, i), map.rungs[i]);
  }
  text += "~ absorbed by a state, . forgotten\n";
  if (several) {
    text += "  heads that hold it: 0 under a tenth of them ... 9 nearly all or all, . none\n";
  }
  if (has_shares) {
    text +=
        fmt::format("  read in the answer: 0 to 9 tenths of {:.2f} % of the softmax, . nothing\n",
                    100 * map.read_scale());
  }
  return text;
}

std::string LayerTable(const Inspection& inspection, const HeadFilter& filter) {
  const bool audio = std::ranges::any_of(
      inspection.media, [](const MediaSpan& span) { return span.modality == Modality::kAudio; });
  std::string text = fmt::format("{:>7}", "layer");
  for (const Rung& rung : inspection.rungs) text += fmt::format("{:>8}", ToString(rung));
  text += fmt::format("{:>10}{:>11}{:>8} |{:>10}{:>8}", "absorbed", "forgotten", "states",
                      "pictures", "text");
  if (audio) text += fmt::format("{:>8}", "audio");
  text += fmt::format("{:>8}\n", "states");
  const auto add = [&](const std::string& name, const LayerSummary& sum) {
    text += fmt::format("{:>7}", name);
    for (const double tokens : sum.rungs) text += fmt::format("{:>8.1f}", tokens);
    text += fmt::format("{:>10.1f}{:>11.1f}{:>8.1f} |", sum.absorbed, sum.forgotten, sum.states);
    if (inspection.answer_tokens == 0) {
      text += fmt::format("{:>10}{:>8}", "-", "-");
      if (audio) text += fmt::format("{:>8}", "-");
      text += fmt::format("{:>8}\n", "-");
      return;
    }
    text +=
        fmt::format("{:>8.1f} %{:>6.1f} %", Percent(sum.picture_share), Percent(sum.text_share));
    if (audio) text += fmt::format("{:>6.1f} %", Percent(sum.audio_share));
    text += fmt::format("{:>6.1f} %\n", Percent(sum.state_share));
  };
  for (size_t layer = 0; layer < inspection.shape.layers.size(); ++layer) {
    if (filter.layer.value_or(layer) != layer) continue;
    const LayerSummary sum = Summarise(inspection, {.layer = layer, .kv_head = filter.kv_head});
    if (sum.n_heads > 0) add(std::to_string(layer), sum);
  }
  if (!filter.layer.has_value()) add("all", Summarise(inspection, filter));
  return text;
}

nlohmann::json InspectionJson(const Inspection& inspection) {
  constexpr const char* kModalities[] = {"text", "image", "audio"};
  nlohmann::json json = {
      {"tokens", inspection.stats.tokens_seen}, {"answer_tokens", inspection.answer_tokens},
      {"rungs", nlohmann::json::array()},       {"layers", nlohmann::json::array()},
      {"media", nlohmann::json::array()},       {"heads", nlohmann::json::array()},
      {"answer", nlohmann::json::array()}};
  for (const Rung& rung : inspection.rungs) json["rungs"].push_back(ToString(rung));
  for (const LayerShape& layer : inspection.shape.layers) {
    json["layers"].push_back({{"n_head", layer.n_head},
                              {"n_kv_head", layer.n_kv_head},
                              {"d_k", layer.d_k},
                              {"d_v", layer.d_v}});
  }
  for (const MediaSpan& span : inspection.media) {
    json["media"].push_back({{"first_token", span.first_token},
                             {"modality", kModalities[static_cast<size_t>(span.modality)]},
                             {"rows", span.rows},
                             {"columns", span.columns}});
  }
  for (const HeadInspection& head : inspection.heads) {
    nlohmann::json rung = nlohmann::json::array();
    nlohmann::json root = nlohmann::json::array();
    nlohmann::json share = nlohmann::json::array();
    nlohmann::json states = nlohmann::json::array();
    for (size_t i = 0; i < head.rung.size(); ++i) {
      const bool held = head.rung[i] != HeadInspection::kForgotten;
      rung.push_back(held ? nlohmann::json(head.rung[i]) : nlohmann::json());
      root.push_back(head.root[i] >= 0 ? nlohmann::json(head.root[i]) : nlohmann::json());
      share.push_back(Rounded(head.share[i]));
    }
    for (const StateInspection& state : head.states) {
      states.push_back(
          {{"root", state.root}, {"mass", Rounded(state.mass)}, {"share", Rounded(state.share)}});
    }
    json["heads"].push_back({{"layer", head.layer},
                             {"kv_head", head.kv_head},
                             {"rung", rung},
                             {"root", root},
                             {"share", share},
                             {"states", states}});
  }
  for (const AnswerTokenInspection& chosen : inspection.answer) {
    nlohmann::json read = nlohmann::json::array();
    const float* share = chosen.read.data();
    for (const MediaSpan& span : inspection.media) {
      nlohmann::json& cells = read.emplace_back(nlohmann::json::array());
      for (size_t i = 0; i < span.n_tokens(); ++i) cells.push_back(Rounded(*share++, 1e5));
    }
    json["answer"].push_back({{"token", chosen.token},
                              {"text", chosen.text},
                              {"read", read},
                              {"reactivated", chosen.reactivated}});
  }
  return json;
}

}  // namespace rkv::app
