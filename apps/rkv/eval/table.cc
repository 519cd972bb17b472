// Writes the tables of an evaluation as Markdown, JSON and CSV, from the same rows.
#include "eval/table.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "eval/rows.h"
#include "output.h"

namespace rkv::app {

namespace {

std::string BudgetText(const std::optional<Budget>& budget) {
  return budget.has_value() ? ToString(*budget) : "none";
}

std::string Short(const Measurement& measurement) {
  if (!measurement.refused.empty()) return "refused";
  return fmt::format("{:.3f} / {:.3f}", measurement.accuracy.value(), measurement.kl.value());
}

std::string IntervalText(const Interval& interval) {
  return fmt::format("{:.3f} to {:.3f}", interval.low, interval.high);
}

std::string SeedsText(const EvalHeader& header) {
  return fmt::format("seed{} {}", header.seeds.size() == 1 ? "" : "s",
                     fmt::join(header.seeds, ", "));
}

std::string MainTable(const SuiteResult& result, const Regime& regime) {
  std::string text = "| policy |";
  std::string rule = "| --- |";
  for (const Budget& budget : result.budgets) {
    text += fmt::format(" {} |", ToString(budget));
    rule += " --- |";
  }
  text += " no budget |\n" + rule + " --- |\n";
  for (size_t c = 0; c < result.configurations.size(); ++c) {
    const Configuration& configuration = result.configurations[c];
    text += fmt::format("| {} |", configuration.label);
    for (size_t b = 0; b < result.budgets.size(); ++b) {
      text += configuration.takes_budget ? fmt::format(" {} |", Short(regime.cells[c][b])) : " |";
    }
    text += configuration.takes_budget ? " |\n" : fmt::format(" {} |\n", Short(regime.cells[c][0]));
  }
  return text;
}

std::string DetailTable(const SuiteResult& result, const std::vector<Row>& rows) {
  std::string text = fmt::format(
      "| policy | budget | {} | 95 % | of full | minus full, 95 % | {} minus this, 95 % | headroom "
      "| "
      "KL | 95 % | missed | held KiB | kept |\n"
      "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
      result.accuracy_name, kOurs);
  for (const Row& row : rows) {
    const Measurement& m = *row.measurement;
    text += fmt::format("| {} | {} |", row.configuration->label, BudgetText(row.budget));
    if (!m.refused.empty()) {
      text += fmt::format(" refused: {} | | | | | | | | | | |\n", m.refused);
      continue;
    }
    text += fmt::format(
        " {:.3f} | {} | {:.3f} | {} | {} | {} | {:.4f} | {:.4f} to {:.4f} | {:.3f} | {:.1f} | "
        "{:.1f} % |\n",
        m.accuracy.value(), IntervalText(row.accuracy), row.relative, IntervalText(row.minus_full),
        row.ours_minus.has_value() ? IntervalText(*row.ours_minus) : "",
        row.headroom.has_value() ? fmt::format("{:.3f}", *row.headroom) : "", m.kl.value(),
        row.kl.low, row.kl.high, m.missed.value(), static_cast<double>(m.held_bytes) / 1024,
        100 * m.kept);
  }
  return text;
}

// Accuracy by question, family or seed, in the order of a table's columns.
using Breakdown = std::vector<std::pair<std::string, Tally>>;

Breakdown ByQuestion(const Measurement& measurement) {
  Breakdown breakdown;
  for (const Tally& tally : measurement.by_question) {
    breakdown.emplace_back(fmt::format("{}", breakdown.size() + 1), tally);
  }
  return breakdown;
}
Breakdown ByFamily(const Measurement& measurement) {
  return {measurement.by_family.begin(), measurement.by_family.end()};
}
Breakdown BySeed(const Measurement& measurement) {
  return {measurement.by_seed.begin(), measurement.by_seed.end()};
}

struct BreakdownKind {
  const char* title;
  const char* key;  // in JSON
  Breakdown (*of)(const Measurement&);
};
constexpr BreakdownKind kBreakdowns[] = {{"by question", "by_question", ByQuestion},
                                         {"by family", "by_family", ByFamily},
                                         {"by seed", "by_seed", BySeed}};

// Leaves out controls, which have enough rows elsewhere. Empty for a single column.
std::string BreakdownTable(const SuiteResult& result, const std::vector<Row>& rows,
                           const BreakdownKind& kind) {
  const Breakdown columns = kind.of(*rows.front().measurement);
  if (columns.size() < 2) return "";
  std::string text =
      fmt::format("\n{} {}\n\n| policy | budget |", result.accuracy_name, kind.title);
  for (const auto& [name, tally] : columns) text += fmt::format(" {} |", name);
  text += "\n| --- | --- |";
  for (size_t i = 0; i < columns.size(); ++i) text += " --- |";
  text += '\n';
  for (const Row& row : rows) {
    if (row.configuration->control || !row.measurement->refused.empty()) continue;
    text += fmt::format("| {} | {} |", row.configuration->label, BudgetText(row.budget));
    for (const auto& [name, tally] : kind.of(*row.measurement)) {
      text += fmt::format(" {:.3f} |", tally.value());
    }
    text += '\n';
  }
  return text;
}

nlohmann::ordered_json BreakdownJson(const Breakdown& breakdown) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  for (const auto& [name, tally] : breakdown) {
    json[name] = {{"accuracy", tally.value()}, {"measured", tally.n}};
  }
  return json;
}

}  // namespace

std::string MarkdownTable(const EvalHeader& header, const SuiteResult& result) {
  std::string text = fmt::format("# rkv eval {}\n\n", header.suite);
  text += fmt::format("- model: {}\n- {}\n", header.model, header.version);
  text +=
      fmt::format("- {}, {} conversations{}, {:.0f} s\n", SeedsText(header), header.n_conversations,
                  header.seeds.size() == 1 ? "" : " each", header.seconds);
  for (const std::string& note : header.notes) text += fmt::format("- {}\n", note);
  text += fmt::format(
      "- cells: {} / KL(full || policy) of the next token in nats\n"
      "- intervals: paired bootstrap over {}, 95 %\n- command: `{}`\n",
      result.accuracy_name, result.unit_name, header.command);
  if (!header.curves.empty()) {
    text += fmt::format("\n![{} and KL against the bytes held]({})\n", result.accuracy_name,
                        header.curves);
  }
  for (const Regime& regime : result.regimes) {
    text += fmt::format("\n## {}\n\n{}.\n\n", regime.name, regime.description);
    text += MainTable(result, regime) + "\n";
    const std::vector<Row> rows = RowsOf(result, regime, header.seeds.front());
    text += DetailTable(result, rows);
    for (const BreakdownKind& kind : kBreakdowns) text += BreakdownTable(result, rows, kind);
  }
  return text;
}

std::string JsonTable(const EvalHeader& header, const SuiteResult& result) {
  nlohmann::ordered_json json = {{"suite", header.suite},
                                 {"command", header.command},
                                 {"model", header.model},
                                 {"version", header.version},
                                 {"seeds", header.seeds},
                                 {"conversations", header.n_conversations},
                                 {"seconds", header.seconds},
                                 {"notes", header.notes},
                                 {"accuracy_is", result.accuracy_name}};
  for (const Regime& regime : result.regimes) {
    nlohmann::ordered_json rows = nlohmann::ordered_json::array();
    for (const Row& row : RowsOf(result, regime, header.seeds.front())) {
      const Measurement& m = *row.measurement;
      nlohmann::ordered_json entry = {{"label", row.configuration->label}};
      for (const OptionText& option : OptionTexts(row.configuration->options)) {
        if (option.name != "budget") entry[std::string(option.name)] = option.text;
      }
      entry["budget"] = BudgetText(row.budget);
      if (m.refused.empty()) {
        double n = 0;
        for (const double x : m.accuracy.denominators) n += x;
        entry.update({{"accuracy", m.accuracy.value()},
                      {"accuracy_95", {row.accuracy.low, row.accuracy.high}},
                      {"accuracy_of_full", row.relative},
                      {"accuracy_minus_full_95", {row.minus_full.low, row.minus_full.high}},
                      {"kl", m.kl.value()},
                      {"kl_95", {row.kl.low, row.kl.high}},
                      {"missed", m.missed.value()},
                      {"held_bytes", m.held_bytes},
                      {"kept", m.kept},
                      {"measured", n},
                      {"seconds", m.seconds}});
        if (row.headroom.has_value()) entry["headroom"] = *row.headroom;
        if (row.ours_minus.has_value()) {
          entry["retentive_minus_this_95"] = {row.ours_minus->low, row.ours_minus->high};
        }
        for (const BreakdownKind& kind : kBreakdowns) {
          const Breakdown breakdown = kind.of(m);
          if (!breakdown.empty()) entry[kind.key] = BreakdownJson(breakdown);
        }
      } else {
        entry["refused"] = m.refused;
      }
      rows.push_back(std::move(entry));
    }
    json["regimes"][regime.name] = {{"description", regime.description}, {"rows", rows}};
  }
  return json.dump(2) + "\n";
}

std::string CsvTable(const EvalHeader& header, const SuiteResult& result) {
  std::string text =
      "suite,regime,label,policy,budget,accuracy,accuracy_low,accuracy_high,accuracy_of_full,"
      "headroom,retentive_minus_this_low,retentive_minus_this_high,kl,kl_low,kl_high,missed,"
      "held_bytes,kept,seconds,refused\n";
  const auto number = [](const std::optional<double>& x) {
    return x.has_value() ? fmt::format("{:.6f}", *x) : "";
  };
  for (const Regime& regime : result.regimes) {
    for (const Row& row : RowsOf(result, regime, header.seeds.front())) {
      const Measurement& m = *row.measurement;
      text += fmt::format(
          "{},{},{},{},{},", header.suite, regime.name, CsvText(row.configuration->label),
          CsvText(ToString(row.configuration->options.policy)), BudgetText(row.budget));
      if (!m.refused.empty()) {
        text += fmt::format(",,,,,,,,,,,,,,{}\n", CsvText(m.refused));
        continue;
      }
      const auto& ours = row.ours_minus;
      for (const std::optional<double>& x : std::initializer_list<std::optional<double>>{
               m.accuracy.value(), row.accuracy.low, row.accuracy.high, row.relative, row.headroom,
               ours.has_value() ? std::optional(ours->low) : std::nullopt,
               ours.has_value() ? std::optional(ours->high) : std::nullopt, m.kl.value(),
               row.kl.low, row.kl.high, m.missed.value()}) {
        text += number(x) + ",";
      }
      text += fmt::format("{},{:.6f},{:.3f},\n", m.held_bytes, m.kept, m.seconds);
    }
  }
  return text;
}

}  // namespace rkv::app
