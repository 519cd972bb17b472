// rkv eval: what each policy keeps, measured against the full cache.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>

#include "commands.h"
#include "eval/configurations.h"
#include "eval/deferred.h"
#include "eval/table.h"
#include "eval/text_kl.h"
#include "flags.h"
#include "reference_model.h"
#include "retentivekv/version.h"
#include "terminal.h"

namespace rkv::app {

namespace {

using Clock = std::chrono::steady_clock;

constexpr const char* kDeferred = "deferred";
constexpr const char* kTextKl = "text-kl";
const std::vector<std::string> kSuites = {kDeferred, kTextKl};
const std::vector<std::string> kFormats = {"md", "json", "csv"};
constexpr const char* kBudgets = "50%,20%,10%,5%,2.5%";
constexpr const char* kQuickBudgets = "50%,20%";
constexpr int kConversations = 48;
constexpr int kQuickConversations = 6;
constexpr int kWindows = 3;  // of text-kl
constexpr int kContext = 2048;
constexpr int kQuickContext = 512;
constexpr int kQuickForced = 64;
// Policies of --quick, those of them that there are.
const std::vector<std::string> kQuickPolicies = {"streaming", "h2o", "retentive"};
constexpr int kMostAtOnce = 24;  // conversations decoded together

struct EvalFlags {
  CommonFlags common;
  std::string suite;
  std::vector<std::string> policies;
  std::string absorb;
  std::string ladder;
  std::string split;
  std::string compression = "prompt";
  std::string budgets;
  bool controls = false;
  bool quick = false;
  int n_conversations = 0;  // 0: as many as the suite wants
  uint64_t seed = 1;
  int n_pictures = 2;
  int n_context = 0;  // 0: as the suite wants
  std::string text;
  std::string then;
  std::vector<std::string> formats = {"md"};
  std::string out;
};

Status CheckFlags(const EvalFlags& flags) {
  if (std::ranges::find(kSuites, flags.suite) == kSuites.end()) {
    return InvalidArgument(
        fmt::format("unknown suite '{}'; suites are: {}", flags.suite, fmt::join(kSuites, ", ")));
  }
  for (const std::string& format : flags.formats) {
    if (std::ranges::find(kFormats, format) == kFormats.end()) {
      return InvalidArgument(fmt::format("unknown output format '{}'; formats are: {}", format,
                                         fmt::join(kFormats, ", ")));
    }
  }
  if (flags.suite == kTextKl && flags.common.engine.model.empty()) {
    return InvalidArgument("suite text-kl needs a model that writes prose: pass one with -m");
  }
  return OkStatus();
}

Result<ConfigurationChoices> ParseChoices(const EvalFlags& flags) {
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
  if (!flags.absorb.empty()) {
    RKV_ASSIGN_OR_RETURN(choices.absorb, ParseAbsorbSpec(flags.absorb));
  }
  if (!flags.ladder.empty()) {
    RKV_ASSIGN_OR_RETURN(choices.ladder, ParseLadder(flags.ladder));
  }
  RKV_ASSIGN_OR_RETURN(choices.compression, ParseCompression(flags.compression));
  if (!flags.split.empty()) {
    RKV_ASSIGN_OR_RETURN(choices.split, ParseSplit(flags.split));
  }
  choices.controls = flags.controls;
  return choices;
}

// "3 min left", once there is something to judge by.
std::string TimeLeft(Clock::time_point start, double fraction) {
  const double elapsed = std::chrono::duration<double>(Clock::now() - start).count();
  if (fraction <= 0 || elapsed < 1) return "";
  const double left = elapsed * (1 - fraction) / fraction;
  return left < 90 ? fmt::format(", {:.0f} s left", left)
                   : fmt::format(", {:.0f} min left", left / 60);
}

Status WriteOutputs(const EvalFlags& flags, const EvalHeader& header, const SuiteResult& result) {
  for (const std::string& format : flags.formats) {
    const std::string text = format == "md"     ? MarkdownTable(header, result)
                             : format == "json" ? JsonTable(header, result)
                                                : CsvTable(header, result);
    if (flags.out.empty() && format == flags.formats.front()) {
      std::cout << text << std::flush;
      if (!std::cout) return Internal("cannot write the results to the output");
      continue;
    }
    const std::filesystem::path folder = flags.out.empty() ? "." : flags.out;
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    const std::filesystem::path path = folder / fmt::format("eval-{}.{}", flags.suite, format);
    std::ofstream file(path);
    file << text;
    file.close();
    if (!file) return BadFile(fmt::format("cannot write '{}'", path.string()));
    if (flags.out.empty()) fmt::print(stderr, "wrote {}\n", path.string());
  }
  return OkStatus();
}

Result<std::string> ReadText(const std::string& path, const char* bundled) {
  std::string name = path;
  if (name.empty()) {
    RKV_ASSIGN_OR_RETURN(name, FindReferenceFile(bundled));
  }
  std::ifstream file(name, std::ios::binary);
  std::string text(std::istreambuf_iterator<char>(file), {});
  if (!file || text.empty()) return BadFile(fmt::format("cannot read the text '{}'", name));
  return text;
}

// How many conversations or windows.
int Count(const EvalFlags& flags, int usual, int quick) {
  if (flags.n_conversations > 0) return flags.n_conversations;
  return flags.quick ? quick : usual;
}

// What is the same for every suite.
struct EvalPlan {
  std::vector<Configuration> configurations;
  std::vector<Budget> budgets;
};

Result<SuiteResult> EvalDeferred(EvalFlags& flags, const EvalPlan& plan, EvalHeader& header,
                                 const EvalProgress& progress) {
  DeferredOptions options{.seed = flags.seed};
  options.n_conversations = Count(flags, kConversations, kQuickConversations);
  options.n_pictures = flags.n_pictures;
  flags.common.engine.max_conversations = std::min(options.n_conversations, kMostAtOnce);
  flags.common.engine.media_cache_bytes = size_t{256} << 20;
  // Steps of the bundled model are so short that threads cost more in waiting for each other, on a
  // machine that has other work, than they gain.
  if (flags.common.engine.model.empty() && flags.common.engine.n_threads == 0) {
    flags.common.engine.n_threads = 1;
  }
  RKV_ASSIGN_OR_RETURN(const auto engine, LoadEngine(flags.common));
  header.model = engine->model_description();
  header.n_conversations = options.n_conversations;
  return RunDeferred(*engine, options, plan.configurations, plan.budgets, progress);
}

Result<SuiteResult> EvalTextKl(EvalFlags& flags, const EvalPlan& plan, EvalHeader& header,
                               const EvalProgress& progress) {
  TextKlOptions options;
  RKV_ASSIGN_OR_RETURN(options.text, ReadText(flags.text, "prose/alice.txt"));
  RKV_ASSIGN_OR_RETURN(options.then, ReadText(flags.then, "prose/opticks.txt"));
  options.n_windows = Count(flags, kWindows, 1);
  options.n_context = flags.n_context > 0 ? flags.n_context
                      : flags.quick       ? kQuickContext
                                          : kContext;
  if (flags.quick) options.n_forced = kQuickForced;
  flags.common.engine.max_conversations = 2;
  flags.common.engine.chat_template = "none";
  RKV_ASSIGN_OR_RETURN(const auto engine, LoadEngine(flags.common));
  header.model = engine->model_description();
  header.n_conversations = options.n_windows;
  return RunTextKl(*engine, options, plan.configurations, plan.budgets, progress);
}

Status Eval(EvalFlags& flags, const std::string& command) {
  const auto start = Clock::now();
  RKV_RETURN_IF_ERROR(CheckFlags(flags));
  const bool deferred = flags.suite == kDeferred;
  RKV_RETURN_IF_ERROR(StartLogging(flags.common));
  RKV_ASSIGN_OR_RETURN(ConfigurationChoices choices, ParseChoices(flags));
  EvalHeader header;
  header.suite = flags.suite;
  header.command = command;
  header.seed = flags.seed;
  if (deferred) {
    choices.defaults = {{"sinks", 1}, {"window", 1}};
    header.notes.push_back(
        "policies that evict have sinks=1,window=1 unless they are given others, since these "
        "budgets are a few tokens");
  }
  EvalPlan plan;
  RKV_ASSIGN_OR_RETURN(plan.configurations, MakeConfigurations(choices));
  std::string budgets = flags.budgets;
  if (budgets.empty()) budgets = flags.quick ? kQuickBudgets : kBudgets;
  RKV_ASSIGN_OR_RETURN(plan.budgets, ParseBudgetList(budgets));

  const Interrupts interrupts;
  ProgressLine line;
  std::optional<Clock::time_point> measuring;
  const EvalProgress progress = [&](std::string_view what, double fraction) {
    if (!measuring.has_value()) measuring = Clock::now();
    line.Show(fmt::format("{}{}", what, TimeLeft(*measuring, fraction)), fraction);
  };
  RKV_ASSIGN_OR_RETURN(const SuiteResult result,
                       (deferred ? EvalDeferred : EvalTextKl)(flags, plan, header, progress));
  line.Clear();
  header.model = fmt::format("{} ({})", header.model,
                             std::filesystem::path(flags.common.engine.model).filename().string());
  header.version = fmt::format("rkv {} on llama.cpp {}", kVersion, LlamaVersion());
  header.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return WriteOutputs(flags, header, result);
}

std::string CommandLine(const CLI::App& program, const CLI::App& command) {
  std::string text = fmt::format("{} {}", program.get_name(), command.get_name());
  // Not in the order given: what the environment sets is part of it.
  for (const CLI::Option* option : command.get_options()) {
    const bool flag = option->get_expected_max() == 0;
    for (const std::string& value : option->results()) {
      const bool quote = value.find_first_of(" ;'\"*?") != std::string::npos;
      if (!option->get_positional()) text += fmt::format(" {}", option->get_name());
      if (!flag) text += quote ? fmt::format(" '{}'", value) : fmt::format(" {}", value);
    }
  }
  return text;
}

}  // namespace

void AddEvalCommand(CLI::App& program, int& exit_code) {
  CLI::App* command =
      program.add_subcommand("eval", "measure what each cache policy keeps, at equal bytes");
  auto flags = std::make_shared<EvalFlags>();
  command->add_option("suite", flags->suite, fmt::format("{}", fmt::join(kSuites, ", ")))
      ->required()
      ->type_name("SUITE");
  command
      ->add_option("--policies", flags->policies,
                   "policies, as h2o,snapkv:window=4,sinks=2,tova; repeatable; default: all")
      ->expected(1)
      ->take_all()
      ->type_name("LIST");
  command->add_option("--budgets", flags->budgets, fmt::format("budgets ({})", kBudgets))
      ->type_name("LIST");
  command->add_option("--absorb", flags->absorb, "what remembers tokens that leave, for all")
      ->type_name("SPEC");
  command->add_option("--ladder", flags->ladder, "precisions of tokens, for all")
      ->type_name("TYPES");
  command
      ->add_option("--split", flags->split,
                   "how the budget is divided, for all: uniform, pooled, auto")
      ->type_name("HOW");
  command
      ->add_option("--compress", flags->compression,
                   "when, for all: prompt (once it has been read, default) or streaming")
      ->type_name("WHEN");
  command->add_flag("--controls", flags->controls,
                    "add quantised full caches and parts left out of the method");
  command
      ->add_option(
          "--conversations", flags->n_conversations,
          fmt::format("conversations ({}), or windows of text ({})", kConversations, kWindows))
      ->check(CLI::PositiveNumber)
      ->type_name("N");
  command->add_option("-s,--seed", flags->seed, "the same seed gives the same conversations (1)")
      ->type_name("N");
  command->add_option("--pictures", flags->n_pictures, "deferred: pictures of a conversation (2)")
      ->check(CLI::Range(1, 3))
      ->type_name("N");
  command
      ->add_option("--context", flags->n_context,
                   fmt::format("text-kl: tokens read first ({})", kContext))
      ->check(CLI::PositiveNumber)
      ->type_name("N");
  command->add_option("--text", flags->text, "text-kl: what is read; default: bundled")
      ->type_name("FILE");
  command->add_option("--then", flags->then, "text-kl: the change of subject; default: bundled")
      ->type_name("FILE");
  command->add_flag("--quick", flags->quick, "few conversations, policies and budgets");
  command->add_option("-o,--output", flags->formats, "md, json, csv; several: separate by commas")
      ->delimiter(',')
      ->expected(1)
      ->take_all()
      ->type_name("FORMAT");
  command
      ->add_option(
          "--out", flags->out,
          "write eval-SUITE.FORMAT there; default: the first format to stdout, others here")
      ->type_name("DIR");
  AddModelFlags(*command, flags->common);
  AddLogFlags(*command, flags->common);
  for (CLI::Option* option : command->get_options()) {
    const bool positional = option->get_positional() || option->check_lname("help");
    if (!positional) option->envname(EnvironmentName("--" + option->get_lnames().front()));
  }
  command->footer(PolicyHelp());
  command->callback([flags, command, &program, &exit_code] {
    const Status status = Eval(*flags, CommandLine(program, *command));
    exit_code = status.ok() ? 0 : Fail(status);
  });
}

}  // namespace rkv::app
