// rkv eval: compares the policies with the full cache.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <span>

#include "commands.h"
#include "eval/configurations.h"
#include "eval/curves.h"
#include "eval/data_set.h"
#include "eval/journal.h"
#include "eval/picture_suites.h"
#include "eval/rows.h"
#include "eval/suite.h"
#include "eval/table.h"
#include "eval/text_kl.h"
#include "eval/text_kv.h"
#include "flags.h"
#include "input.h"
#include "output.h"
#include "reference_model.h"
#include "retentivekv/version.h"
#include "terminal.h"

namespace rkv::app {

namespace {

using Clock = std::chrono::steady_clock;

const std::vector<std::string> kFormats = {"md", "json", "csv", "svg"};
constexpr const char* kData = "data";
constexpr const char* kBudgets = "50%,20%,10%,5%,2.5%";
constexpr int kContext = 2048;
constexpr int kQuickContext = 512;
constexpr int kPairs = 8;
constexpr int kQuickPairs = 4;
constexpr int kQuickForced = 64;
// Policies of --quick, if they exist.
const std::vector<std::string> kQuickPolicies = {"streaming", "random", "h2o", "retentive"};
constexpr auto kReportEvery = std::chrono::seconds(60);  // without a terminal for progress

struct EvalFlags {
  CommonFlags common;
  std::string suite;
  std::vector<std::string> policies;
  OptionTextMap cache;  // for every policy that evicts
  std::string budgets;
  bool controls = false;
  bool plain = false;
  bool quick = false;
  // 0: the suite's default
  int n_conversations = 0;
  int n_context = 0;
  int n_pairs = 0;
  std::vector<uint64_t> seeds = {1};
  std::vector<std::string> texts;
  std::string then;
  std::string data;
  std::string resume;
  std::vector<std::string> formats = {"md"};
  std::string out;
};

// The inputs of a suite, read before the model is loaded.
struct EvalInputs {
  std::vector<EvalText> texts;
  std::string then;
  std::vector<DataConversation> data;
};

// The differences between the suites.
struct Suite {
  const char* name;
  const char* pages;    // bundled pages for runs without --data; null: none
  bool prose;           // reads texts, with a model that writes prose
  int n_conversations;  // of each seed and text; windows of each text of text-kl; 0: all
  int n_quick;          // likewise, with --quick
  int at_once;          // conversations decoded together
  const char* quick_budgets;
  Result<SuitePlan> (*plan)(Engine& engine, const EvalFlags& flags, const EvalInputs& inputs);
};

template <std::vector<ScriptSet> (*MakeScripts)(const std::vector<DataConversation>&),
          bool generate = false>
Result<SuitePlan> PlanPictures(Engine& engine, const EvalFlags&, const EvalInputs& inputs) {
  if (!engine.takes_pictures()) {
    return InvalidArgument("the model takes no pictures: pass a vision model with -m and -mm");
  }
  return PlanConversations(engine, MakeScripts(inputs.data), {.generate = generate});
}

Result<SuitePlan> PlanTextKvSuite(Engine& engine, const EvalFlags& flags,
                                  const EvalInputs& inputs) {
  const TextKvOptions options{.texts = inputs.texts,
                              .n_context = flags.n_context,
                              .n_pairs = flags.n_pairs,
                              .n_conversations = flags.n_conversations,
                              .seeds = flags.seeds,
                              .variants = !flags.quick};
  RKV_ASSIGN_OR_RETURN(std::vector<ScriptSet> sets, TextKvScripts(engine, options));
  return PlanConversations(engine, std::move(sets), {.measure_end = false});
}

Result<SuitePlan> PlanTextKlSuite(Engine& engine, const EvalFlags& flags,
                                  const EvalInputs& inputs) {
  TextKlOptions options{.n_context = flags.n_context,
                        .n_windows = flags.n_conversations,
                        .texts = inputs.texts,
                        .then = inputs.then};
  if (flags.quick) options.n_forced = kQuickForced;
  return PlanTextKl(engine, options);
}

constexpr Suite kSuites[] = {
    {"deferred", "heldout/2-pages", false, 0, 6, 24, "50%,20%", PlanPictures<DeferredScripts>},
    {"pages", "heldout/3-pages", false, 0, 24, 24, "50%,20%", PlanPictures<PagesScripts>},
    {"turns", "heldout/2-pages", false, 0, 4, 24, "50%,20%", PlanPictures<TurnsScripts>},
    {"text-kv", nullptr, true, 5, 1, 1, "20%", PlanTextKvSuite},
    {"text-kl", nullptr, true, 2, 1, 2, "50%,20%", PlanTextKlSuite},
    {kData, nullptr, false, 0, 2, 1, "50%,20%", PlanPictures<DataScripts, true>},
};

std::string SuiteNames() {
  std::vector<std::string> names;
  for (const Suite& suite : kSuites) names.emplace_back(suite.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

Status CheckFlags(const EvalFlags& flags, const Suite& suite) {
  for (const std::string& format : flags.formats) {
    if (std::ranges::find(kFormats, format) == kFormats.end()) {
      return InvalidArgument(fmt::format("unknown output format '{}'; choose one of: {}", format,
                                         fmt::join(kFormats, ", ")));
    }
  }
  if (suite.prose && flags.common.engine.model.empty()) {
    return InvalidArgument(
        fmt::format("suite {} needs a model that writes prose: pass one with -m", suite.name));
  }
  if (suite.name == std::string_view(kData) && flags.data.empty()) {
    return InvalidArgument("suite data needs pictures and questions: pass them with --data FILE");
  }
  if (suite.prose && !flags.data.empty()) {
    return InvalidArgument(
        fmt::format("suite {} is about text: it takes --text FILE, not --data", suite.name));
  }
  if (flags.plain && !suite.prose) {
    return InvalidArgument(
        fmt::format("suite {} has pictures: it takes --controls, not --plain", suite.name));
  }
  if (flags.seeds.size() > 1 && suite.plan != PlanTextKvSuite) {
    return InvalidArgument(fmt::format("suite {} is not random: it takes one seed", suite.name));
  }
  return OkStatus();
}

// Fills in the suite's defaults for absent flags.
void FillFlags(const Suite& suite, EvalFlags& flags) {
  const auto fill = [&flags](int& value, int usual, int quick) {
    if (value == 0) value = flags.quick ? quick : usual;
  };
  fill(flags.n_conversations, suite.n_conversations, suite.n_quick);
  fill(flags.n_context, kContext, kQuickContext);
  fill(flags.n_pairs, kPairs, kQuickPairs);
  std::string& compression = flags.cache["compression"];
  if (compression.empty()) compression = ToString(kEvalCompression);
  if (flags.budgets.empty()) flags.budgets = flags.quick ? suite.quick_budgets : kBudgets;
  EngineOptions& engine = flags.common.engine;
  engine.max_conversations =
      flags.n_conversations == 0
          ? suite.at_once
          : std::clamp(flags.n_conversations, suite.prose ? suite.at_once : 1, suite.at_once);
  engine.media_cache_bytes = size_t{256} << 20;
  if (suite.prose) engine.chat_template = "none";
  // Steps of the bundled model are very short. On a busy machine, threads lose more by waiting for
  // each other than they gain.
  if (engine.model.empty() && engine.n_threads == 0) engine.n_threads = 1;
}

Result<const Suite*> ChooseSuite(EvalFlags& flags) {
  if (flags.suite.empty() && !flags.data.empty()) flags.suite = kData;
  const auto suite = std::ranges::find(kSuites, flags.suite, &Suite::name);
  if (suite == std::end(kSuites)) {
    return InvalidArgument(
        fmt::format("unknown suite '{}'; choose one of: {}", flags.suite, SuiteNames()));
  }
  RKV_RETURN_IF_ERROR(CheckFlags(flags, *suite));
  FillFlags(*suite, flags);
  return &*suite;
}

Result<ConfigurationChoices> ParseChoices(const EvalFlags& flags, const Suite& suite) {
  ConfigurationChoices choices;
  std::vector<std::string> lists = flags.policies;
  if (lists.empty() && flags.quick) {
    for (const PolicyDescription& policy : DescribePolicies()) {
      if (std::ranges::find(kQuickPolicies, policy.name) != kQuickPolicies.end()) {
        lists.push_back(policy.name);
      }
    }
  }
  if (lists.empty()) lists = {"all"};
  RKV_ASSIGN_OR_RETURN(choices.policies, ParsePolicyList(lists));
  RKV_ASSIGN_OR_RETURN(choices.cache, rkv::ParseCacheOptions(flags.cache));
  choices.controls = flags.controls;
  choices.plain = flags.plain || (suite.prose && flags.policies.empty() && !flags.quick);
  return choices;
}

// Reports progress: continuously on a terminal, else one line a minute.
class ProgressReport {
 public:
  void Show(std::string_view what, double fraction) {
    const auto now = Clock::now();
    if (!start_.has_value()) start_ = reported_ = now;
    const std::string text = fmt::format("{}{}", what, TimeLeft(now, fraction));
    line_.Show(text, fraction);
    if (line_.enabled() || now - reported_ < kReportEvery) return;
    reported_ = now;
    Tell("{} {:.0f} %\n", text, 100 * fraction);
  }
  void Clear() { line_.Clear(); }

 private:
  // "3 min left", once an estimate is possible.
  std::string TimeLeft(Clock::time_point now, double fraction) const {
    const double elapsed = std::chrono::duration<double>(now - *start_).count();
    if (fraction <= 0 || elapsed < 1) return "";
    const double left = elapsed * (1 - fraction) / fraction;
    return left < 90 ? fmt::format(", {:.0f} s left", left)
                     : fmt::format(", {:.0f} min left", left / 60);
  }

  ProgressLine line_;
  std::optional<Clock::time_point> start_;
  Clock::time_point reported_;
};

Status WriteOutputs(const EvalFlags& flags, EvalHeader& header, const SuiteResult& result) {
  const auto name = [&flags](std::string_view format) {
    return fmt::format("eval-{}.{}", flags.suite, format);
  };
  if (std::ranges::find(flags.formats, "svg") != flags.formats.end()) header.curves = name("svg");
  for (const std::string& format : flags.formats) {
    const std::string text = format == "md"     ? MarkdownTable(header, result)
                             : format == "json" ? JsonTable(header, result)
                             : format == "svg"  ? SvgCurves(header, result)
                                                : CsvTable(header, result);
    if (flags.out.empty() && format == flags.formats.front()) {
      std::cout << ForStdout(text) << std::flush;
      if (!std::cout) return Internal("cannot write the results to the output");
      continue;
    }
    const std::filesystem::path folder = flags.out.empty() ? "." : flags.out;
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    const std::string path = (folder / name(format)).string();
    RKV_RETURN_IF_ERROR(WriteOutput(path, text));
    if (flags.out.empty()) Tell("wrote {}\n", path);
  }
  return OkStatus();
}

Result<std::string> ReadText(const std::string& path, const char* bundled) {
  std::string name = path;
  if (name.empty()) {
    RKV_ASSIGN_OR_RETURN(name, FindReferenceFile(bundled));
  }
  RKV_ASSIGN_OR_RETURN(std::string text, ReadInput(name, "text"));
  if (text.empty()) return BadFile(fmt::format("the text '{}' is empty", name));
  return text;
}

// The bundled texts, of different kinds. text-kl continues with the second.
constexpr const char* kTexts[] = {"prose/alice.txt", "prose/opticks.txt", "prose/manual.txt",
                                  "prose/code.txt", "prose/records.txt"};
constexpr size_t kThen = 1;

Status ReadTexts(const EvalFlags& flags, const Suite& suite, EvalInputs& inputs) {
  const bool continues = suite.plan == PlanTextKlSuite;
  if (continues) {
    RKV_ASSIGN_OR_RETURN(inputs.then, ReadText(flags.then, kTexts[kThen]));
  }
  std::vector<std::pair<std::string, const char*>> wanted;
  for (const std::string& path : flags.texts) wanted.emplace_back(path, nullptr);
  for (size_t i = 0; flags.texts.empty() && i < std::size(kTexts); ++i) {
    if (continues && i == kThen) continue;
    wanted.emplace_back("", kTexts[i]);
    if (flags.quick) break;
  }
  for (const auto& [path, bundled] : wanted) {
    const std::filesystem::path name = path.empty() ? bundled : path;
    RKV_ASSIGN_OR_RETURN(std::string text, ReadText(path, bundled));
    inputs.texts.push_back({.name = name.stem().string(), .text = std::move(text)});
  }
  return OkStatus();
}

Result<EvalInputs> ReadInputs(const EvalFlags& flags, const Suite& suite) {
  EvalInputs inputs;
  if (suite.prose) {
    RKV_RETURN_IF_ERROR(ReadTexts(flags, suite, inputs));
  }
  std::string data = flags.data;
  if (data.empty() && suite.pages != nullptr) {
    RKV_ASSIGN_OR_RETURN(data, FindReferenceFile(suite.pages));
  }
  if (!data.empty()) {
    RKV_ASSIGN_OR_RETURN(inputs.data, ReadDataSet(data));
    const auto n = static_cast<size_t>(flags.n_conversations);
    if (n > 0 && n < inputs.data.size()) inputs.data.resize(n);
  }
  return inputs;
}

// FNV-1a, to detect that a file has changed.
uint64_t Hash(std::string_view text, uint64_t hash = 0xcbf29ce484222325) {
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

uint64_t Hash(const EvalInputs& inputs) {
  uint64_t hash = Hash(inputs.then);
  for (const EvalText& text : inputs.texts) hash = Hash(text.text, hash);
  for (const DataConversation& conversation : inputs.data) {
    for (const std::string& image : conversation.images) hash = Hash(image, hash);
    for (const DataQuestion& question : conversation.questions) {
      hash = Hash(question.family, Hash(question.text, hash));
      for (const std::string& answer : question.answers) hash = Hash(answer, hash);
    }
  }
  return hash;
}

// All settings that affect measurements, without the configurations.
nlohmann::ordered_json Settings(const EvalFlags& flags, const EvalHeader& header,
                                const EvalInputs& inputs) {
  const EngineOptions& engine = flags.common.engine;
  return {{"suite", flags.suite},
          {"model", header.model},
          {"version", header.version},
          {"seeds", flags.seeds},
          {"conversations", header.n_conversations},
          {"context", flags.n_context},
          {"pairs", flags.n_pairs},
          {"quick", flags.quick},
          {"compress", flags.cache.at("compression")},
          {"ubatch", engine.n_ubatch},
          {"inputs", fmt::format("{:016x}", Hash(inputs))}};
}

Result<std::unique_ptr<StockReader>> LoadStock(const Engine& engine, const EvalFlags& flags) {
  constexpr int kSpare = 1024;  // for questions and texts that follow
  const EngineOptions& options = engine.options();
  return StockReader::Load(options.model,
                           static_cast<size_t>(std::min(engine.n_ctx(), flags.n_context + kSpare)),
                           options.n_threads);
}

Status Eval(EvalFlags& flags, const std::string& command) {
  RKV_ASSIGN_OR_RETURN(const Suite* suite, ChooseSuite(flags));
  RKV_RETURN_IF_ERROR(StartLogging(flags.common));
  RKV_ASSIGN_OR_RETURN(ConfigurationChoices choices, ParseChoices(flags, *suite));
  EvalHeader header;
  header.suite = flags.suite;
  header.command = command;
  header.seeds = flags.seeds;
  if (suite->pages != nullptr && flags.data.empty()) {
    choices.defaults = {{"sinks", 1}, {"window", 1}};
    header.notes.push_back(
        "policies that evict have sinks=1,window=1 unless set otherwise, since these budgets are a "
        "few tokens");
  }
  RKV_ASSIGN_OR_RETURN(const std::vector<Configuration> configurations,
                       MakeConfigurations(choices));
  RKV_ASSIGN_OR_RETURN(const std::vector<Budget> budgets, ParseBudgetList(flags.budgets));
  RKV_ASSIGN_OR_RETURN(const EvalInputs inputs, ReadInputs(flags, *suite));
  header.n_conversations =
      inputs.data.empty() ? flags.n_conversations : static_cast<int>(inputs.data.size());

  const Interrupts interrupts;
  RKV_ASSIGN_OR_RETURN(const auto engine, LoadEngine(flags.common));
  header.model = fmt::format("{} ({})", engine->model_description(),
                             std::filesystem::path(flags.common.engine.model).filename().string());
  header.version = fmt::format("rkv {} on llama.cpp {}", kVersion, LlamaVersion());
  RKV_ASSIGN_OR_RETURN(SuitePlan plan, suite->plan(*engine, flags, inputs));
  plan.load_stock = [&] { return LoadStock(*engine, flags); };
  std::optional<Journal> journal;
  if (!flags.resume.empty()) {
    RKV_ASSIGN_OR_RETURN(journal, Journal::Open(flags.resume, Settings(flags, header, inputs)));
  }
  ProgressReport report;
  RKV_ASSIGN_OR_RETURN(
      const SuiteResult result,
      RunSuite(plan, configurations, budgets, journal.has_value() ? &*journal : nullptr,
               [&](std::string_view what, double fraction) { report.Show(what, fraction); }));
  report.Clear();
  for (const Regime& regime : result.regimes) {
    for (const std::vector<Measurement>& cells : regime.cells) {
      for (const Measurement& measurement : cells) header.seconds += measurement.seconds;
    }
  }
  RKV_RETURN_IF_ERROR(WriteOutputs(flags, header, result));
  if (!flags.quick || suite->name == std::string_view(kData)) return OkStatus();
  const std::vector<std::string> missed = MissedBars(result);
  return missed.empty() ? OkStatus() : Internal(fmt::format("{}", fmt::join(missed, "; ")));
}

}  // namespace

void AddEvalCommand(CLI::App& program, int& exit_code) {
  CLI::App* command =
      program.add_subcommand("eval", "measure the quality of each cache policy, at equal bytes");
  auto flags = std::make_shared<EvalFlags>();
  command->add_option("suite", flags->suite, SuiteNames())->type_name("SUITE");
  Repeatable(command->add_option("--policies", flags->policies,
                                 "policies, such as h2o,snapkv:window=4,sinks=2,tova; several: "
                                 "repeat, or separate by commas; default: all"))
      ->type_name("LIST");
  AddList(*command, "--budgets", flags->budgets, fmt::format("budgets ({})", kBudgets));
  command
      ->add_option("--absorb", flags->cache["absorb"],
                   "absorber of evicted tokens, for all policies")
      ->type_name("ABSORBER");
  command
      ->add_option("--ladder", flags->cache["ladder"],
                   "ladder of precisions for tokens, for all policies")
      ->type_name("LADDER");
  command
      ->add_option("--split", flags->cache["split"],
                   "division of the budget, for all policies: uniform, pooled or auto")
      ->type_name("SPLIT");
  command
      ->add_option("--compress", flags->cache["compression"],
                   "when to compress, for all policies: prompt (after a prompt is read, default) "
                   "or streaming")
      ->type_name("WHEN");
  command->add_flag("--plain", flags->plain,
                    "text-kv, text-kl: also measure quantised full caches and stock llama.cpp; "
                    "default without --policies");
  command->add_flag("--controls", flags->controls,
                    "also measure quantised full caches, and methods with parts left out");
  command
      ->add_option("--conversations", flags->n_conversations,
                   "first conversations of the pictures (all), conversations per text and seed of "
                   "text-kv (5), or windows per text of text-kl (2)")
      ->check(kPositive)
      ->type_name("N");
  Repeatable(command
                 ->add_option("-s,--seed", flags->seeds,
                              "text-kv: random seed of the conversations (1); several: repeat, or "
                              "separate by commas")
                 ->delimiter(','))
      ->type_name("N");
  command
      ->add_option("--context", flags->n_context,
                   fmt::format("text-kv, text-kl: tokens of context ({})", kContext))
      ->check(kPositive)
      ->type_name("N");
  command
      ->add_option("--pairs", flags->n_pairs,
                   fmt::format("text-kv: key-value pairs in the text ({})", kPairs))
      ->check(CLI::Range(1, 100))
      ->type_name("N");
  command
      ->add_option("--data", flags->data,
                   "JSON Lines file of pictures and questions, or a folder with *.jsonl files; "
                   "default: bundled")
      ->type_name("FILE");
  Repeatable(
      command->add_option("--text", flags->texts,
                          "text-kv, text-kl: text to read; several: repeat; default: bundled"))
      ->type_name("FILE");
  command
      ->add_option("--then", flags->then,
                   "text-kl: text on another subject to continue with; default: bundled")
      ->type_name("FILE");
  command->add_flag("--quick", flags->quick,
                    "use few conversations, policies and budgets; fail if full scores below 0.9 or "
                    "retentive is no better than random");
  command
      ->add_option("--resume", flags->resume,
                   "file for finished measurements; a later run continues from it")
      ->type_name("FILE");
  Repeatable(command
                 ->add_option("-o,--output", flags->formats,
                              "output formats: md, json, csv, svg; several: separate by commas")
                 ->delimiter(','))
      ->type_name("FORMAT");
  command
      ->add_option("--out", flags->out,
                   "folder for eval-SUITE.FORMAT; default: the first format to stdout, others to "
                   "the current folder")
      ->type_name("DIR");
  AddModelFlags(*command, flags->common);
  AddLogFlags(*command, flags->common);
  NameEnvironment(*command);
  command->footer(PolicyHelp());
  command->callback([flags, command, &program, &exit_code] {
    const Status status = Eval(*flags, CommandLine(program, *command));
    exit_code = status.ok() ? 0 : Fail(status);
  });
}

}  // namespace rkv::app
