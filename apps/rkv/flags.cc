#include "flags.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "reference_model.h"
#include "terminal.h"

namespace rkv::app {

namespace {

const std::map<std::string, std::string, std::less<>> kShortFlags = {
    {"-ctk", "--cache-type-k"}, {"-ctv", "--cache-type-v"}, {"-mm", "--mmproj"},
    {"-ngl", "--n-gpu-layers"}, {"-np", "--parallel"},      {"-sys", "--system-prompt"},
    {"-ub", "--ubatch-size"},   {"-rea", "--reasoning"},
};

template <typename T>
CLI::Option* AddFlag(CLI::App& command, const std::string& names, T& value,
                     const std::string& help) {
  const std::string long_name = names.substr(names.rfind("--"));
  return command.add_option(names, value, help)->envname(EnvironmentName(long_name));
}

}  // namespace

std::vector<std::string> CommonFlags::media() const {
  std::vector<std::string> files = images;
  files.insert(files.end(), audio.begin(), audio.end());
  return files;
}

std::string Unescape(std::string_view text) {
  constexpr std::string_view kNames = "nrt'\"\\";
  constexpr std::string_view kMeanings = "\n\r\t'\"\\";
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    const size_t known =
        text[i] == '\\' && i + 1 < text.size() ? kNames.find(text[i + 1]) : std::string_view::npos;
    result += known == std::string_view::npos ? text[i] : kMeanings[known];
    if (known != std::string_view::npos) ++i;
  }
  return result;
}

CLI::Option* AddList(CLI::App& command, const std::string& names, std::string& list,
                     const std::string& help) {
  const auto join = [&list](const std::vector<std::string>& lists) {
    list = fmt::format("{}", fmt::join(lists, ","));
  };
  return Repeatable(command.add_option_function<std::vector<std::string>>(names, join, help))
      ->type_name("LIST");
}

std::string EnvironmentName(const std::string& flag) {
  std::string name = "RKV_";
  for (const char c : flag.substr(2)) {
    name += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  }
  return name;
}

void NameEnvironment(CLI::App& command) {
  for (CLI::Option* option : command.get_options()) {
    const bool positional = option->get_positional() || option->check_lname("help");
    if (!positional) option->envname(EnvironmentName("--" + option->get_lnames().front()));
  }
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

void AddModelFlags(CLI::App& command, CommonFlags& flags) {
  EngineOptions& engine = flags.engine;
  AddFlag(command, "-m,--model", engine.model, "model file (GGUF); default: the bundled model")
      ->type_name("FILE");
  AddFlag(command, "--mmproj", engine.mmproj, "vision or audio projector of the model (GGUF), -mm")
      ->type_name("FILE");
  AddFlag(command, "-c,--ctx-size", engine.n_ctx,
          "longest conversation; 0: as the model was trained")
      ->check(kNonNegative)
      ->type_name("N");
  AddFlag(command, "-b,--batch-size", flags.n_batch, "most tokens per step, if less than -ub")
      ->check(kPositive)
      ->type_name("N");
  AddFlag(command, "--ubatch-size", engine.n_ubatch,
          "tokens per step of reading a prompt, -ub (512)")
      ->check(kPositive)
      ->type_name("N");
  AddFlag(command, "-t,--threads", engine.n_threads, "threads; 0: all cores")
      ->check(kNonNegative)
      ->type_name("N");
  AddFlag(command, "--n-gpu-layers", engine.n_gpu_layers,
          "layers on the GPU, -ngl; only 0 can be served yet; with --rpc, layers there (all)")
      ->type_name("N");
  Repeatable(AddFlag(command, "--rpc", engine.rpc_servers,
                     "llama.cpp's RPC servers to split the layers over, as host:port,host:port")
                 ->delimiter(','))
      ->type_name("SERVERS");
  AddFlag(command, "--image-min-tokens", engine.image_min_tokens, "least visual tokens per picture")
      ->type_name("N");
  AddFlag(command, "--image-max-tokens", engine.image_max_tokens,
          "most visual tokens per picture, which is scaled down to them; 0: the model's own limit; "
          "default: 1280 where the model takes any resolution")
      ->type_name("N");
  AddTemplateFlags(command, flags);
}

void AddTemplateFlags(CLI::App& command, CommonFlags& flags) {
  AddFlag(command, "--chat-template", flags.engine.chat_template,
          "Jinja, a llama.cpp template name, or none; default: the model's own")
      ->type_name("TEMPLATE");
  AddFlag(command, "--chat-template-file", flags.chat_template_file,
          "a file of Jinja in place of the model's chat template")
      ->type_name("FILE");
  AddFlag(command, "--chat-template-kwargs", flags.chat_template_kwargs,
          "variables of the chat template as a JSON object, e.g. {\"enable_thinking\":false}")
      ->type_name("JSON");
  AddFlag(command, "--reasoning", flags.reasoning,
          "on, off, or auto (as the template does): thinking before an answer, -rea")
      ->check(CLI::IsMember({"on", "off", "auto"}))
      ->type_name("MODE");
  AddFlag(command, "--reasoning-format", flags.reasoning_format,
          "none: thoughts stand in the answer; deepseek or auto: they are told from it")
      ->check(CLI::IsMember({"none", "deepseek", "auto"}))
      ->type_name("FORMAT");
}

void AddSamplingFlags(CLI::App& command, CommonFlags& flags) {
  SamplingOptions& sampling = flags.sampling;
  const auto tokens = [](const std::string& text) {
    return text == "-1" || CLI::PositiveNumber(text).empty()
               ? std::string()
               : "must be a positive number of tokens, or -1 for no limit";
  };
  AddFlag(command, "-n,--predict,--n-predict", flags.n_predict,
          "longest answer in tokens; -1: no limit")
      ->check(CLI::Validator(tokens, ""))
      ->type_name("N");
  AddFlag(command, "-s,--seed", sampling.seed, "random seed; default: a new one each time")
      ->type_name("N");
  command.add_flag("--ignore-eos", sampling.ignore_eos, "never end an answer before -n tokens")
      ->envname("RKV_IGNORE_EOS");
  AddFlag(command, "--temp", sampling.temperature,
          "temperature (0.8); 0: always the likeliest token")
      ->check(Between(0, 100));
  AddFlag(command, "--top-k", sampling.top_k, "sample among the k likeliest tokens (40); 0: off");
  AddFlag(command, "--top-p", sampling.top_p, "sample among the tokens with this mass (0.95)")
      ->check(Between(0, 1));
  AddFlag(command, "--min-p", sampling.min_p,
          "drop tokens below this share of the likeliest (0.05)")
      ->check(Between(0, 1));
}

void AddLogFlags(CLI::App& command, CommonFlags& flags) {
  AddFlag(command, "--log-file", flags.log_file, "write logs there instead of to stderr")
      ->type_name("FILE");
  command.add_flag("-v,--verbose", flags.verbose, "log what llama.cpp says")
      ->envname("RKV_VERBOSE");
}

void AddCacheFlags(CLI::App& command, CommonFlags& flags) {
  AddFlag(command, "--policy", flags.policy, "cache policy, NAME[:option=value,...]; see below")
      ->type_name("POLICY");
  AddFlag(command, "--budget", flags.budget,
          "what the cache may hold: 20% (kept), 512t (tokens) or 64MiB; default: no limit")
      ->type_name("BUDGET");
  AddFlag(command, "--absorb", flags.absorb,
          "what remembers tokens that leave, NAME[:option=value,...]; see below")
      ->type_name("MEMORY");
  AddFlag(command, "--ladder", flags.ladder,
          "precisions that tokens fade through: auto, none, or a list such as f16,q4_0,q2")
      ->type_name("LADDER");
  AddFlag(command, "--split", flags.split,
          "the budget over layers and heads: uniform, pooled (to where it helps most), or auto "
          "(pooled where most tokens are of pictures)")
      ->type_name("SPLIT");
  AddFlag(
      command, "--compress", flags.compression,
      "streaming: the budget holds at every moment (default); prompt: once a prompt has been read")
      ->type_name("WHEN");
  AddFlag(command, "--cache-type-k", flags.type_k,
          "one type for all keys, -ctk: f16, q8_0, q4_0, ...")
      ->type_name("TYPE");
  AddFlag(command, "--cache-type-v", flags.type_v, "one type for all values, -ctv")
      ->type_name("TYPE");
}

void AddCommonFlags(CLI::App& command, CommonFlags& flags) {
  AddModelFlags(command, flags);
  AddSamplingFlags(command, flags);
  AddCacheFlags(command, flags);
  AddFlag(command, "--system-prompt", flags.system_prompt, "system prompt, -sys")
      ->type_name("TEXT");
  AddFlag(command, "--kv-report", flags.kv_report, "write what the cache holds as JSON")
      ->type_name("FILE");
  Repeatable(
      AddFlag(command, "--image", flags.images, "picture; several: repeat, or separate by commas")
          ->delimiter(','))
      ->type_name("FILE");
  Repeatable(AddFlag(command, "--audio", flags.audio, "audio clip (WAV, MP3, FLAC), as --image")
                 ->delimiter(','))
      ->type_name("FILE");
  AddLogFlags(command, flags);
  command.footer(PolicyHelp());
}

std::vector<std::string> ExpandShortFlags(int argc, char** argv) {
  std::vector<std::string> arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    const auto found = kShortFlags.find(argument.substr(0, argument.find('=')));
    arguments.push_back(found == kShortFlags.end()
                            ? std::string(argument)
                            : found->second + std::string(argument.substr(found->first.size())));
  }
  std::reverse(arguments.begin(), arguments.end());  // The order in which CLI11 wants them.
  return arguments;
}

Result<MemoryOptions> ParseMemoryOptions(const CommonFlags& flags) {
  MemoryOptions options;
  RKV_ASSIGN_OR_RETURN(options.policy, ParsePolicySpec(flags.policy));
  if (!flags.budget.empty()) {
    RKV_ASSIGN_OR_RETURN(options.budget, ParseBudget(flags.budget));
  }
  if (!flags.absorb.empty()) {
    RKV_ASSIGN_OR_RETURN(options.absorb, ParseAbsorbSpec(flags.absorb));
  }
  if (!flags.ladder.empty()) {
    RKV_ASSIGN_OR_RETURN(options.ladder, ParseLadder(flags.ladder));
  }
  if (!flags.split.empty()) {
    RKV_ASSIGN_OR_RETURN(options.split, ParseSplit(flags.split));
  }
  if (!flags.compression.empty()) {
    RKV_ASSIGN_OR_RETURN(options.compression, ParseCompression(flags.compression));
  }
  if (!flags.type_k.empty()) {
    RKV_ASSIGN_OR_RETURN(options.type_k, ParseElementType(flags.type_k));
  }
  if (!flags.type_v.empty()) {
    RKV_ASSIGN_OR_RETURN(options.type_v, ParseElementType(flags.type_v));
  }
  return options;
}

Result<size_t> ParseBytes(std::string_view flag, std::string_view text) {
  const Result<Budget> size = ParseBudget(text);
  if (!size.ok() || size->unit != Budget::Unit::kBytes) {
    return InvalidArgument(
        fmt::format("{} '{}' must be a size such as 512MiB or 2GiB", flag, text));
  }
  return static_cast<size_t>(size->amount);
}

std::string PolicyHelp() {
  std::string text = "Policies:\n";
  const auto show = [&text](const PolicyDescription::Option& option) {
    text += fmt::format("    {:<24}{}\n", fmt::format("{}={}", option.name, option.default_value),
                        option.help);
  };
  for (const PolicyDescription& policy : DescribePolicies()) {
    text += fmt::format("  {:<26}{}\n", policy.name, policy.summary);
    for (const auto& option : policy.options) show(option);
  }
  text += "  every policy but full\n";
  for (const auto& option : DescribeCommonPolicyOptions()) show(option);
  text += "\nWhat remembers tokens that leave (--absorb):\n";
  for (const PolicyDescription& absorber : DescribeAbsorbers()) {
    text += fmt::format("  {:<26}{}\n", absorber.name, absorber.summary);
    for (const auto& option : absorber.options) show(option);
  }
  return text;
}

namespace {

// The file, the variables and the switches of the chat template, as the engine takes them.
Status ReadTemplateFlags(CommonFlags& flags) {
  EngineOptions& engine = flags.engine;
  if (!flags.chat_template_file.empty()) {
    if (!engine.chat_template.empty()) {
      return InvalidArgument("--chat-template and --chat-template-file contradict each other");
    }
    std::ifstream file(flags.chat_template_file, std::ios::binary);
    engine.chat_template.assign(std::istreambuf_iterator<char>(file), {});
    if (!file || engine.chat_template.find("{") == std::string::npos) {
      return BadFile(
          fmt::format("'{}' is no file of a Jinja template", flags.chat_template_file));
    }
  }
  if (!flags.chat_template_kwargs.empty()) {
    const auto kwargs = nlohmann::json::parse(flags.chat_template_kwargs, nullptr, false);
    if (!kwargs.is_object()) {
      return InvalidArgument(
          fmt::format("--chat-template-kwargs '{}' is not a JSON object such as "
                      "{{\"enable_thinking\":false}}",
                      flags.chat_template_kwargs));
    }
    for (const auto& [name, value] : kwargs.items()) {
      engine.chat_template_kwargs[name] = value.dump();
    }
  }
  engine.enable_thinking = flags.reasoning != "off";
  engine.split_reasoning = flags.reasoning_format != "none";
  return OkStatus();
}

}  // namespace

Result<std::unique_ptr<Engine>> LoadEngine(CommonFlags& flags) {
  RKV_RETURN_IF_ERROR(ReadTemplateFlags(flags));
  if (flags.n_batch > 0) flags.engine.n_ubatch = std::min(flags.engine.n_ubatch, flags.n_batch);
  if (flags.engine.model.empty()) {
    RKV_RETURN_IF_ERROR(UseReferenceModel(flags.engine));
  }
  if (!flags.engine.on_notice) {
    // Once each, also where a picture is read for many questions.
    flags.engine.on_notice =
        [told = std::set<std::string, std::less<>>()](std::string_view notice) mutable {
          if (told.emplace(notice).second) Tell("note: {}\n", notice);
        };
  }
  ProgressLine progress;
  return Engine::Load(flags.engine, [&progress](std::string_view what, double fraction) {
    progress.Show(what, fraction);
  });
}

Status StartLogging(const CommonFlags& flags) {
  // spdlog would make the folder.
  const auto folder = std::filesystem::path(flags.log_file).parent_path();
  std::error_code error;
  if (!folder.empty() && !std::filesystem::is_directory(folder, error)) {
    return BadFile(fmt::format("cannot write the log file '{}': there is no folder '{}'",
                               flags.log_file, folder.string()));
  }
  try {
    auto logger = flags.log_file.empty() ? spdlog::stderr_color_mt("rkv")
                                         : spdlog::basic_logger_mt("rkv", flags.log_file, true);
    spdlog::set_default_logger(std::move(logger));
  } catch (const spdlog::spdlog_ex& error) {
    return BadFile(fmt::format("cannot write the log file: {}", error.what()));
  }
  spdlog::set_level(flags.verbose ? spdlog::level::trace : spdlog::level::info);
  return OkStatus();
}

int Fail(const Status& status) {
  Tell("error: {}\n", status.message());
  if (status.code() == StatusCode::kCancelled) return 130;
  return status.code() == StatusCode::kInvalidArgument ? 2 : 1;
}

}  // namespace rkv::app
