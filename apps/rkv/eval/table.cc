#include "eval/table.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace rkv::app {

namespace {

// A measurement with what is computed from it and from that of `full`.
struct Row {
  const Configuration* configuration = nullptr;
  std::optional<Budget> budget;
  const Measurement* measurement = nullptr;
  Interval accuracy;
  Interval kl;
  double relative = 0;       // accuracy over that of `full`
  Interval below_full = {};  // interval of accuracy minus that of `full`
};

std::vector<Row> RowsOf(const EvalHeader& header, const SuiteResult& result, const Regime& regime) {
  std::vector<Row> rows;
  const Measurement& full = regime.cells.front().front();
  for (size_t c = 0; c < result.configurations.size(); ++c) {
    const Configuration& configuration = result.configurations[c];
    const auto budgets = BudgetsOf(configuration, result.budgets);
    for (size_t b = 0; b < budgets.size(); ++b) {
      const Measurement& measurement = regime.cells[c][b];
      Row row{.configuration = &configuration,
              .budget = budgets[b],
              .measurement = &measurement,
              .accuracy = {},
              .kl = {}};
      if (measurement.refused.empty()) {
        // The same seed for all: the same conversations are drawn.
        row.accuracy = BootstrapInterval(measurement.accuracy, header.seed);
        row.kl = BootstrapInterval(measurement.kl, header.seed);
        row.below_full = BootstrapDifference(measurement.accuracy, full.accuracy, header.seed);
        const double best = full.accuracy.value();
        row.relative = best == 0 ? 0 : measurement.accuracy.value() / best;
      }
      rows.push_back(row);
    }
  }
  return rows;
}

std::string BudgetText(const std::optional<Budget>& budget) {
  return budget.has_value() ? ToString(*budget) : "none";
}

std::string TypeText(const std::optional<ElementType>& type) {
  return type.has_value() ? std::string(ToString(*type)) : "";
}

std::string Short(const Measurement& measurement) {
  if (!measurement.refused.empty()) return "refused";
  return fmt::format("{:.3f} / {:.3f}", measurement.accuracy.value(), measurement.kl.value());
}

std::string IntervalText(const Interval& interval) {
  return fmt::format("{:.3f} to {:.3f}", interval.low, interval.high);
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
      "| policy | budget | {} | 95 % | of full | minus full, 95 % | KL | 95 % | held KiB | kept |\n"
      "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
      result.accuracy_name);
  for (const Row& row : rows) {
    const Measurement& m = *row.measurement;
    text += fmt::format("| {} | {} |", row.configuration->label, BudgetText(row.budget));
    if (!m.refused.empty()) {
      text += fmt::format(" refused: {} | | | | | | | |\n", m.refused);
      continue;
    }
    text += fmt::format(
        " {:.3f} | {} | {:.3f} | {} | {:.4f} | {:.4f} to {:.4f} | {:.1f} | {:.1f} % |\n",
        m.accuracy.value(), IntervalText(row.accuracy), row.relative, IntervalText(row.below_full),
        m.kl.value(), row.kl.low, row.kl.high, static_cast<double>(m.held_bytes) / 1024,
        100 * m.kept);
  }
  return text;
}

std::string QuoteCsv(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

}  // namespace

std::string MarkdownTable(const EvalHeader& header, const SuiteResult& result) {
  std::string text = fmt::format("# rkv eval {}\n\n", header.suite);
  text += fmt::format("- model: {}\n- {}\n", header.model, header.version);
  text += fmt::format("- seed {}, {} conversations, {:.0f} s\n", header.seed,
                      header.n_conversations, header.seconds);
  for (const std::string& note : header.notes) text += fmt::format("- {}\n", note);
  text += fmt::format(
      "- cells: {} / KL(full || policy) of the next token in nats\n"
      "- intervals: paired bootstrap over {}, 95 %\n- command: `{}`\n",
      result.accuracy_name, result.unit_name, header.command);
  for (const Regime& regime : result.regimes) {
    text += fmt::format("\n## {}\n\n{}.\n\n", regime.name, regime.description);
    text += MainTable(result, regime) + "\n";
    text += DetailTable(result, RowsOf(header, result, regime));
  }
  return text;
}

std::string JsonTable(const EvalHeader& header, const SuiteResult& result) {
  nlohmann::ordered_json json = {{"suite", header.suite},
                                 {"command", header.command},
                                 {"model", header.model},
                                 {"version", header.version},
                                 {"seed", header.seed},
                                 {"conversations", header.n_conversations},
                                 {"seconds", header.seconds},
                                 {"notes", header.notes},
                                 {"accuracy_is", result.accuracy_name}};
  for (const Regime& regime : result.regimes) {
    nlohmann::ordered_json rows = nlohmann::ordered_json::array();
    for (const Row& row : RowsOf(header, result, regime)) {
      const Measurement& m = *row.measurement;
      const MemoryOptions& options = row.configuration->options;
      nlohmann::ordered_json entry = {
          {"label", row.configuration->label},
          {"policy", ToString(options.policy)},
          {"absorb", options.absorb.has_value() ? ToString(*options.absorb) : ""},
          {"ladder", options.ladder.has_value() ? ToString(*options.ladder) : ""},
          {"split", options.split.has_value() ? ToString(*options.split) : ""},
          {"type_k", TypeText(options.type_k)},
          {"type_v", TypeText(options.type_v)},
          {"budget", BudgetText(row.budget)}};
      if (m.refused.empty()) {
        double n = 0;
        for (const double x : m.accuracy.denominators) n += x;
        entry.update({{"accuracy", m.accuracy.value()},
                      {"accuracy_95", {row.accuracy.low, row.accuracy.high}},
                      {"accuracy_of_full", row.relative},
                      {"accuracy_minus_full_95", {row.below_full.low, row.below_full.high}},
                      {"kl", m.kl.value()},
                      {"kl_95", {row.kl.low, row.kl.high}},
                      {"held_bytes", m.held_bytes},
                      {"kept", m.kept},
                      {"measured", n},
                      {"seconds", m.seconds}});
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
      "kl,kl_low,kl_high,held_bytes,kept,seconds,refused\n";
  for (const Regime& regime : result.regimes) {
    for (const Row& row : RowsOf(header, result, regime)) {
      const Measurement& m = *row.measurement;
      text += fmt::format(
          "{},{},{},{},{},", header.suite, regime.name, QuoteCsv(row.configuration->label),
          QuoteCsv(ToString(row.configuration->options.policy)), BudgetText(row.budget));
      if (m.refused.empty()) {
        text += fmt::format("{:.6f},{:.6f},{:.6f},{:.6f},{:.6f},{:.6f},{:.6f},{},{:.6f},{:.3f},\n",
                            m.accuracy.value(), row.accuracy.low, row.accuracy.high, row.relative,
                            m.kl.value(), row.kl.low, row.kl.high, m.held_bytes, m.kept, m.seconds);
      } else {
        text += fmt::format(",,,,,,,,,,{}\n", QuoteCsv(m.refused));
      }
    }
  }
  return text;
}

}  // namespace rkv::app
