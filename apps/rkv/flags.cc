#include "flags.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "choices.h"
#include "input.h"
#include "reference_model.h"
#include "refused_flags.h"
#include "terminal.h"

namespace rkv::app {

namespace {

const std::map<std::string, std::string, std::less<>> kShortFlags = {
    {"-Cr", "--cpu-range"},      {"-ctk", "--cache-type-k"},
    {"-ctv", "--cache-type-v"},  {"-lm", "--load-mode"},
    {"-mm", "--mmproj"},         {"-ngl", "--n-gpu-layers"},
    {"-np", "--parallel"},       {"-rea", "--reasoning"},
    {"-sys", "--system-prompt"}, {"-sysf", "--system-prompt-file"},
    {"-tb", "--threads-batch"},  {"-to", "--timeout"},
    {"-ub", "--ubatch-size"},
};

constexpr int kMaxCpus = 512;  // that llama.cpp's masks have

template <typename T>
CLI::Option* AddFlag(CLI::App& command, const std::string& names, T& value,
                     const std::string& help) {
  const std::string long_name = names.substr(names.rfind("--"));
  return command.add_option(names, value, help)->envname(EnvironmentName(long_name));
}

// A flag whose text is read by `parse`, which returns a Status.
template <typename Parse>
CLI::Option* AddParsed(CLI::App& command, const std::string& names, const Parse& parse,
                       const std::string& help) {
  const std::string long_name = names.substr(names.rfind("--"));
  const auto read = [parse, long_name](const std::string& text) {
    const Status status = parse(text);
    if (!status.ok()) throw CLI::ValidationError(long_name, status.message());
  };
  return command.add_option_function<std::string>(names, read, help)
      ->envname(EnvironmentName(long_name));
}

// The same for one that may be repeated, and with several values between commas.
template <typename Parse>
CLI::Option* AddParsedList(CLI::App& command, const std::string& names, const Parse& parse,
                           const std::string& help) {
  const std::string name = names.substr(names.rfind("--"));
  const auto read = [parse, name](const std::vector<std::string>& texts) {
    for (const std::string& text : texts) {
      const Status status = parse(text);
      if (!status.ok()) throw CLI::ValidationError(name, status.message());
    }
  };
  return Repeatable(command.add_option_function<std::vector<std::string>>(names, read, help)
                        ->envname(EnvironmentName(name))
                        ->delimiter(','));
}

// A switch whose name says what it turns off or on.
CLI::Option* AddSwitch(CLI::App& command, const std::string& name,
                       const std::function<void()>& turn, const std::string& help) {
  return command.add_flag_callback(name, turn, help)->envname(EnvironmentName(name));
}

template <typename T>
bool ParseWhole(std::string_view text, T& number, int base = 10) {
  const char* const end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, number, base);
  return error == std::errc() && at == end;
}

Status ParseCpuRange(const std::string& text, std::vector<int>& cpus) {
  const size_t dash = text.find('-');
  int first = 0;
  int last = kMaxCpus - 1;
  const bool good =
      dash != std::string::npos && text.size() > 1 &&
      (dash == 0 || ParseWhole(std::string_view(text).substr(0, dash), first)) &&
      (dash + 1 == text.size() || ParseWhole(std::string_view(text).substr(dash + 1), last)) &&
      first >= 0 && first <= last && last < kMaxCpus;
  if (!good) {
    return InvalidArgument(fmt::format("'{}' is not a range of CPUs such as 0-7", text));
  }
  for (int cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
  return OkStatus();
}

Status ParseCpuMask(const std::string& text, std::vector<int>& cpus) {
  std::string_view digits = text;
  if (digits.starts_with("0x")) digits.remove_prefix(2);
  for (size_t i = 0; i < digits.size(); ++i) {
    int bits = 0;
    if (digits.size() > kMaxCpus / 4 || !ParseWhole(digits.substr(i, 1), bits, 16)) bits = -1;
    for (int bit = 0; bits >= 0 && bit < 4; ++bit) {
      if ((bits >> bit & 1) == 0) continue;
      cpus.push_back(static_cast<int>(4 * (digits.size() - 1 - i)) + bit);
    }
    if (bits < 0) cpus.clear();
    if (bits < 0) break;
  }
  if (!cpus.empty()) return OkStatus();
  return InvalidArgument(
      fmt::format("'{}' is not a mask of CPUs in hexadecimal, such as 0xff for 0 to 7", text));
}

// "FILE" with scale 1, or, if `scaled`, "FILE:SCALE".
Status ParseAdapter(const std::string& text, bool scaled, std::vector<Adapter>& adapters) {
  Adapter adapter{.path = text};
  if (scaled) {
    const size_t colon = text.rfind(':');
    const char* const end = text.data() + text.size();
    const char* const begin = colon == std::string::npos ? end : text.data() + colon + 1;
    const auto [at, error] = std::from_chars(begin, end, adapter.scale);
    if (error != std::errc() || at != end || !std::isfinite(adapter.scale)) {
      return InvalidArgument(fmt::format("'{}' is not FILE:SCALE", text));
    }
    adapter.path = text.substr(0, colon);
  }
  if (adapter.path.empty()) return InvalidArgument("there is no file name");
  adapters.push_back(std::move(adapter));
  return OkStatus();
}

// "15043+1" or "15043-inf".
Status ParseLogitBias(const std::string& text, SamplingOptions& sampling) {
  const size_t sign = text.find_first_of("+-", 1);
  int32_t token = 0;
  float bias = 0;
  bool good = sign != std::string::npos &&
              ParseWhole(std::string_view(text).substr(0, sign), token) && token >= 0;
  if (good) {
    const char* const end = text.data() + text.size();
    const auto [at, error] = std::from_chars(text.data() + sign + 1, end, bias);
    good = error == std::errc() && at == end && !std::isnan(bias) && bias >= 0;
    if (text[sign] == '-') bias = -bias;
  }
  if (!good || bias == std::numeric_limits<float>::infinity()) {
    return InvalidArgument(fmt::format(
        "'{}' is not a token and what is added to its logit, such as 15043+1 or 15043-inf", text));
  }
  sampling.logit_bias.emplace_back(token, bias);
  return OkStatus();
}

template <typename T>
Status ParseChoice(const std::string& text, const std::map<std::string, T>& choices, T& choice) {
  const auto found = choices.find(text);
  if (found != choices.end()) {
    choice = found->second;
    return OkStatus();
  }
  std::string names;
  for (const auto& [name, value] : choices) names += (names.empty() ? "" : ", ") + name;
  return InvalidArgument(fmt::format("'{}' is none of: {}", text, names));
}

void AddRopeFlags(CLI::App& command, RopeOptions& rope) {
  AddFlag(command, "--rope-scaling", rope.scaling,
          "how RoPE reaches further: none, linear or yarn; default: the model's")
      ->check(CLI::IsMember({"none", "linear", "yarn"}))
      ->type_name("TYPE");
  const auto scale = [&rope](const std::string& text) {
    float factor = 0;
    const char* const end = text.data() + text.size();
    const auto [at, error] = std::from_chars(text.data(), end, factor);
    if (error != std::errc() || at != end || !(factor > 0) || !std::isfinite(factor)) {
      return InvalidArgument(fmt::format("'{}' is not a number above 0", text));
    }
    rope.freq_scale = 1 / factor;
    return OkStatus();
  };
  AddParsed(command, "--rope-scale", scale, "positions reach so many times as far")->type_name("N");
  AddFlag(command, "--rope-freq-base", rope.freq_base, "RoPE base frequency")->check(kPositive);
  AddFlag(command, "--rope-freq-scale", rope.freq_scale,
          "RoPE frequency factor: 1/N reaches N times as far")
      ->check(kPositive);
  AddFlag(command, "--yarn-orig-ctx", rope.yarn_orig_ctx,
          "YaRN: context that the model was trained for; 0: as it says")
      ->check(kNonNegative)
      ->type_name("N");
  AddFlag(command, "--yarn-ext-factor", rope.yarn_ext_factor,
          "YaRN: extrapolation mix factor; 0: interpolation");
  AddFlag(command, "--yarn-attn-factor", rope.yarn_attn_factor, "YaRN: magnitude of attention");
  AddFlag(command, "--yarn-beta-slow", rope.yarn_beta_slow, "YaRN: high correction dimension");
  AddFlag(command, "--yarn-beta-fast", rope.yarn_beta_fast, "YaRN: low correction dimension");
}

void AddThreadFlags(CLI::App& command, EngineOptions& engine) {
  const CLI::Validator threads(
      [](std::string& text) {
        int n = 0;
        return ParseWhole(std::string_view(text), n) && n >= -1
                   ? std::string()
                   : "'" + text + "' is not a number of threads; 0 and -1 mean all cores";
      },
      "");
  const auto set = [](int& n) {
    return [&n](const std::string& text) {
      ParseWhole(std::string_view(text), n);
      n = std::max(n, 0);
      return OkStatus();
    };
  };
  AddParsed(command, "-t,--threads", set(engine.n_threads), "threads; 0 or -1: all cores")
      ->check(threads)
      ->type_name("N");
  AddParsed(command, "--threads-batch", set(engine.n_threads_batch),
            "threads that read prompts, -tb; default: as -t")
      ->check(threads)
      ->type_name("N");
  ThreadOptions& options = engine.threads;
  AddParsed(
      command, "-C,--cpu-mask",
      [&options](const std::string& text) { return ParseCpuMask(text, options.cpus); },
      "CPUs to run on, in hexadecimal")
      ->type_name("MASK");
  AddParsed(
      command, "--cpu-range",
      [&options](const std::string& text) { return ParseCpuRange(text, options.cpus); },
      "CPUs to run on, -Cr, such as 0-7")
      ->type_name("LO-HI");
  AddFlag(command, "--cpu-strict", options.strict, "1: each thread stays on a CPU of its own (0)")
      ->type_name("0|1");
  AddFlag(command, "--prio", options.priority,
          "priority: -1 (low), 0 (normal), 1 (medium), 2 (high), 3 (real time)")
      ->check(CLI::Range(-1, 3))
      ->type_name("N");
  AddFlag(command, "--poll", options.poll,
          "how long threads look for work before they sleep: 0 to 100 (50)")
      ->check(CLI::Range(0, 100))
      ->type_name("N");
  static const std::map<std::string, Numa> kNuma = {
      {"distribute", Numa::kDistribute}, {"isolate", Numa::kIsolate}, {"numactl", Numa::kNumactl}};
  AddParsed(
      command, "--numa",
      [&engine](const std::string& text) { return ParseChoice(text, kNuma, engine.numa); },
      "on machines of several nodes: distribute, isolate or numactl")
      ->type_name("TYPE");
}

void AddWeightFlags(CLI::App& command, EngineOptions& engine) {
  static const std::map<std::string, LoadMode> kModes = {
      {"auto", LoadMode::kAuto},    {"none", LoadMode::kNone},
      {"mmap", LoadMode::kMmap},    {"mlock", LoadMode::kMlock},
      {"dio", LoadMode::kDirectIo}, {"mmap+mlock", LoadMode::kMmapMlock}};
  AddParsed(
      command, "--load-mode",
      [&engine](const std::string& text) { return ParseChoice(text, kModes, engine.load_mode); },
      "how weights are loaded, -lm: auto, none, mmap, mlock, mmap+mlock or dio")
      ->type_name("MODE");
  AddSwitch(
      command, "--mlock", [&engine] { engine.load_mode = LoadMode::kMlock; },
      "as --load-mode mlock: weights stay in memory");
  AddSwitch(
      command, "--no-mmap", [&engine] { engine.load_mode = LoadMode::kNone; },
      "as --load-mode none: weights are read and not mapped");
  const auto adapters = [&command](const char* name, bool scaled, std::vector<Adapter>& list,
                                   const char* help) {
    AddParsedList(
        command, name,
        [&list, scaled](const std::string& text) { return ParseAdapter(text, scaled, list); }, help)
        ->type_name(scaled ? "FILE:SCALE" : "FILE");
  };
  adapters("--lora", false, engine.loras,
           "LoRA adapter (GGUF); several: repeat, or separate by commas");
  adapters("--lora-scaled", true, engine.loras, "the same with a scale");
  adapters("--control-vector", false, engine.control_vectors, "control vector (GGUF), as --lora");
  adapters("--control-vector-scaled", true, engine.control_vectors, "the same with a scale");
  command
      .add_option_function<std::pair<int, int>>(
          "--control-vector-layer-range",
          [&engine](const std::pair<int, int>& range) {
            engine.control_vector_first_layer = range.first;
            engine.control_vector_last_layer = range.second;
          },
          "first and last layer that control vectors act on; default: all")
      ->envname("RKV_CONTROL_VECTOR_LAYER_RANGE")
      ->type_name("N N");
  Repeatable(AddFlag(command, "--override-kv", engine.overrides,
                     "value of the model's metadata, KEY=TYPE:VALUE; several: repeat, or separate "
                     "by commas")
                 ->delimiter(','))
      ->type_name("KV");
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

CLI::App* FindCommand(const CLI::App& program, std::string_view name) {
  for (const CLI::App* command : program.get_subcommands({})) {
    if (command->get_name() == name) return const_cast<CLI::App*>(command);
  }
  return nullptr;
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
  AddThreadFlags(command, engine);
  AddWeightFlags(command, engine);
  AddRopeFlags(command, engine.rope);
  // As llama.cpp reads it: -1 is auto, and anything below is all.
  const CLI::Validator layers(
      [](std::string& text) {
        int n = 0;
        if (text == "auto") text = "-1";
        if (text == "all") text = "-2";
        if (!ParseWhole(std::string_view(text), n)) {
          return "'" + text + "' is not a number of layers, auto or all";
        }
        text = std::to_string(n == -1 ? 0 : n < 0 ? -1 : n);
        return std::string();
      },
      "");
  AddFlag(command, "--gpu-layers,--n-gpu-layers", engine.n_gpu_layers,
          "layers on the GPU, -ngl: a number, auto or all; only 0 (auto) can be served yet; with "
          "--rpc, layers there (all)")
      ->transform(layers)
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
  // As llama.cpp's programs have it; templates are always run here.
  command.add_flag("--jinja", flags.jinja, "run the model's chat template, as always")
      ->envname("RKV_JINJA");
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

namespace {

// llama.cpp's samplers beside temperature, top-k, top-p and min-p.
void AddMoreSamplers(CLI::App& command, SamplingOptions& sampling) {
  constexpr double kMax = std::numeric_limits<float>::max();
  // What is endless, or no number, the engine refuses.
  const auto number = [&command](const char* names, auto& value, double min, double max,
                                 const char* help) {
    static const CLI::Validator kAny = NumberThat(CLI::Number, "a number", "");
    AddFlag(command, names, value, help)
        ->check(max < kMax    ? Between(min, max)
                : min == 0    ? kNonNegative
                : min > -kMax ? kPositive
                              : kAny);
  };
  number("--typical-p,--typical", sampling.typical_p, 0, 1, "locally typical mass (1: off)");
  number("--top-n-sigma,--top-nsigma", sampling.top_n_sigma, -kMax, kMax,
         "tokens within so many standard deviations of the best logit (-1: off)");
  number("--xtc-probability", sampling.xtc_probability, 0, 1,
         "how often the likeliest tokens are left out (0: never)");
  number("--xtc-threshold", sampling.xtc_threshold, 0, 1, "probability of those (0.1)");
  number("--dynatemp-range", sampling.dynatemp_range, 0, kMax,
         "temperature moves with entropy by so much (0)");
  number("--dynatemp-exp", sampling.dynatemp_exponent, 0, kMax, "exponent of that (1)");
  number("--repeat-last-n", sampling.repeat_last_n, 0, 1 << 20,
         "tokens that penalties look back (64); 0: none");
  number("--repeat-penalty", sampling.repeat_penalty, 1e-6, 1e6,
         "divides logits of tokens that are there already (1: off)");
  number("--presence-penalty", sampling.presence_penalty, -kMax, kMax,
         "is taken off logits of tokens that are there already (0)");
  number("--frequency-penalty", sampling.frequency_penalty, -kMax, kMax,
         "the same for each time that they are (0)");
  number("--dry-multiplier", sampling.dry_multiplier, 0, kMax,
         "DRY penalty of repeated sequences (0: off)");
  number("--dry-base", sampling.dry_base, 1, 1e6, "how it grows with each token (1.75)");
  number("--dry-allowed-length", sampling.dry_allowed_length, 0, 1 << 20,
         "longest sequence without penalty (2)");
  number("--dry-penalty-last-n", sampling.dry_penalty_last_n, 0, 1 << 20,
         "tokens that it looks back (64); 0: none");
  const auto breakers = [&sampling](const std::vector<std::string>& texts) {
    sampling.dry_sequence_breakers.clear();
    for (const std::string& text : texts) {
      if (text == "none") {
        sampling.dry_sequence_breakers.clear();
      } else {
        sampling.dry_sequence_breakers.push_back(Unescape(text));
      }
    }
  };
  Repeatable(
      command
          .add_option_function<std::vector<std::string>>(
              "--dry-sequence-breaker", breakers,
              "text that a sequence ends at (newline : \" *); several: repeat; none: no text")
          ->envname("RKV_DRY_SEQUENCE_BREAKER"))
      ->type_name("TEXT");
  number("--mirostat", sampling.mirostat, 0, 2,
         "1 or 2: Mirostat in place of all samplers but temperature (0)");
  number("--mirostat-ent", sampling.mirostat_tau, 0, kMax, "its target entropy (5)");
  number("--mirostat-lr", sampling.mirostat_eta, 0, kMax, "its learning rate (0.1)");
  number("--adaptive-target", sampling.adaptive_target, -1, 1,
         "probability that the sampler adaptive_p goes for (-1: off)");
  number("--adaptive-decay", sampling.adaptive_decay, 0, 0.99, "how slowly it adapts (0.9)");
  const auto set = [&sampling](const Result<std::vector<std::string>>& names) {
    if (names.ok()) sampling.samplers = *names;
    return names.status();
  };
  std::vector<std::string> order = SamplerNames();
  order.resize(9);
  AddParsed(
      command, "--samplers", [set](const auto& text) { return set(ParseSamplers(text)); },
      fmt::format("samplers in their order ({})", fmt::join(order, ";")))
      ->type_name("NAMES");
  AddParsed(
      command, "--sampling-seq,--sampler-seq",
      [set](const auto& text) { return set(ParseSamplerLetters(text)); },
      "the same by letters (edskypmxt)")
      ->type_name("LETTERS");
  AddParsedList(
      command, "-l,--logit-bias",
      [&sampling](const auto& text) { return ParseLogitBias(text, sampling); },
      "what is added to a token's logit, as 15043+1 or 15043-inf; several: repeat")
      ->type_name("BIAS");
}

}  // namespace

void AddSamplingFlags(CLI::App& command, CommonFlags& flags) {
  SamplingOptions& sampling = flags.sampling;
  const auto tokens = [](std::string& text) {
    if (text == "-2") text = "-1";  // until the context is full, which always ends an answer
    return text == "-1" || CLI::PositiveNumber(text).empty()
               ? std::string()
               : "must be a positive number of tokens, or -1 for no limit";
  };
  AddFlag(command, "-n,--predict,--n-predict", flags.n_predict,
          "longest answer in tokens; -1: no limit")
      ->transform(CLI::Validator(tokens, ""))
      ->type_name("N");
  const auto seed = [&sampling](const std::string& text) {
    int64_t number = 0;
    if (!ParseWhole(std::string_view(text), number) ||
        number < std::numeric_limits<int32_t>::min() ||
        number > std::numeric_limits<uint32_t>::max()) {
      return InvalidArgument(
          fmt::format("'{}' is not a seed from 0 to 4294967295, or -1 for a new one", text));
    }
    sampling.seed = static_cast<uint32_t>(number);
    return OkStatus();
  };
  AddParsed(command, "-s,--seed", seed, "random seed; -1 (default): a new one each time")
      ->type_name("N");
  command.add_flag("--ignore-eos", sampling.ignore_eos, "never end an answer before -n tokens")
      ->envname("RKV_IGNORE_EOS");
  AddFlag(command, "--temperature,--temp", sampling.temperature,
          "temperature (0.8); 0: always the likeliest token")
      ->check(Between(0, 100));
  AddFlag(command, "--top-k", sampling.top_k, "sample among the k likeliest tokens (40); 0: off");
  AddFlag(command, "--top-p", sampling.top_p, "sample among the tokens with this mass (0.95)")
      ->check(Between(0, 1));
  AddFlag(command, "--min-p", sampling.min_p,
          "drop tokens below this share of the likeliest (0.05)")
      ->check(Between(0, 1));
  AddMoreSamplers(command, sampling);
  const CLI::Validator grammar(
      [](std::string& text) { return std::string(text.empty() ? "the grammar is empty" : ""); },
      "");
  AddFlag(command, "--grammar", sampling.grammar, "grammar (GBNF) that answers keep to")
      ->check(grammar)
      ->type_name("GBNF");
  AddFlag(command, "--grammar-file", flags.grammar_file, "file with such a grammar")
      ->type_name("FILE");
}

void AddLogFlags(CLI::App& command, CommonFlags& flags) {
  AddFlag(command, "--log-file", flags.log_file, "write logs there instead of to stderr")
      ->type_name("FILE");
  command.add_flag("-v,--verbose", flags.verbose, "log what llama.cpp says")
      ->envname("RKV_VERBOSE");
}

void AddStopFlag(CLI::App& command, CommonFlags& flags) {
  Repeatable(AddFlag(command, "-r,--reverse-prompt", flags.stops,
                     "text that ends an answer before it; several: repeat"))
      ->type_name("TEXT");
}

void AddCacheFlags(CLI::App& command, CommonFlags& flags) {
  AddFlag(command, "--policy", flags.policy,
          "what stays, NAME[:option=value,...], see below; default: retentive with a budget, else "
          "full")
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
  AddFlag(command, "--system-prompt-file", flags.system_prompt_file,
          "file with the system prompt, -sysf")
      ->type_name("FILE");
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

std::string LongShortFlag(std::string_view long_name) {
  for (const auto& [short_name, name] : kShortFlags) {
    if (name == long_name) return short_name;
  }
  return {};
}

namespace {

// One argument as CLI11 is to read it. Adds to `problems` if it is a flag that the command does not
// have.
std::string ReadFlag(const CLI::App& program, const CLI::App& command, const std::string& argument,
                     std::vector<std::string>& problems) {
  const auto is_letter = [](char c) { return std::isalpha(static_cast<unsigned char>(c)) != 0; };
  const std::string written = argument.substr(0, argument.find('='));
  std::string name = written;
  if (const auto known = kShortFlags.find(name); known != kShortFlags.end()) {
    // The same letters may be of a flag that only other commands have.
    if (command.get_option_no_throw(known->second) != nullptr) name = known->second;
  }
  const bool is_long = name.starts_with("--");
  // -t4 is -t 4, and -1 a number; a word is the name of a flag.
  if (!is_long && (name.size() == 2 || !is_letter(name[2]))) return argument;
  if (!is_long && !is_letter(name[1])) return argument;
  if (is_long && command.get_option_no_throw(name) != nullptr) {
    return name + argument.substr(written.size());
  }
  if (const std::string_view instead = InsteadOfLlamaFlag(written); !instead.empty()) {
    problems.push_back(fmt::format("'{}' is a flag of llama.cpp that rkv {} does not have: {}",
                                   written, command.get_name(), instead));
    return argument;
  }
  if (&command != &program && program.get_option_no_throw(name) != nullptr) {
    problems.push_back(fmt::format("'{}' comes without a command: rkv {}", written, name));
    return argument;
  }
  for (const CLI::App* other : program.get_subcommands({})) {
    if (!is_long || other->get_option_no_throw(name) == nullptr) continue;
    problems.push_back(fmt::format("'{}' is a flag of rkv {}, and rkv {} does not have it", written,
                                   other->get_name(), command.get_name()));
    return argument;
  }
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& long_name : option->get_lnames()) names.push_back("--" + long_name);
  }
  const std::string nearest = NearestName(is_long ? name : "-" + name, names);
  problems.push_back(nearest.empty()
                         ? fmt::format("unknown flag '{}'", written)
                         : fmt::format("unknown flag '{}'; did you mean {}?", written, nearest));
  return argument;
}

}  // namespace

Result<std::vector<std::string>> ReadArguments(const CLI::App& program, int argc, char** argv) {
  std::vector<std::string> arguments;
  std::vector<std::string> problems;
  const CLI::App* command = &program;
  bool is_value = false;    // of the flag before it
  bool only_words = false;  // after --
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--" && !is_value) only_words = true;
    const bool is_flag = !is_value && !only_words && argument.size() > 1 && argument[0] == '-';
    is_value = false;
    if (!is_flag) {
      const CLI::App* named = command == &program ? FindCommand(program, argument) : nullptr;
      if (named != nullptr) command = named;
      arguments.push_back(argument);
      continue;
    }
    arguments.push_back(ReadFlag(program, *command, argument, problems));
    const CLI::Option* option = command->get_option_no_throw(arguments.back());
    is_value = option != nullptr && option->get_items_expected_min() > 0;
  }
  if (!problems.empty()) {
    return InvalidArgument(fmt::format(
        "{}{}", fmt::join(problems, "\nerror: "),
        command == &program ? ""
                            : fmt::format("\nrkv {} --help lists the flags", command->get_name())));
  }
  std::reverse(arguments.begin(), arguments.end());
  return arguments;
}

Result<CacheOptions> ParseCacheOptions(const CommonFlags& flags) {
  CacheOptions options;
  if (!flags.policy.empty()) {
    RKV_ASSIGN_OR_RETURN(options.policy, ParsePolicySpec(flags.policy));
  }
  if (!flags.budget.empty()) {
    RKV_ASSIGN_OR_RETURN(options.budget, ParseBudget(flags.budget));
  }
  options.policy = ChosenPolicy(options);
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
  const PolicyDescription* policy = FindPolicy(options.policy.name);
  if (policy != nullptr && policy->evicts && options.budget.unlimited()) {
    Tell("note: there is no --budget, so policy {} compresses nothing\n", policy->name);
  }
  return options;
}

Status ReadFlagFiles(CommonFlags& flags) {
  if (!flags.grammar_file.empty()) {
    RKV_ASSIGN_OR_RETURN(flags.sampling.grammar, ReadTextFile("grammar", flags.grammar_file));
    if (flags.sampling.grammar.empty()) {
      return InvalidArgument(fmt::format("the grammar file '{}' is empty", flags.grammar_file));
    }
  }
  if (flags.system_prompt_file.empty()) return OkStatus();
  RKV_ASSIGN_OR_RETURN(flags.system_prompt,
                       ReadTextFile("system prompt", flags.system_prompt_file));
  return OkStatus();
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
    RKV_ASSIGN_OR_RETURN(engine.chat_template,
                         ReadTextFile("chat template", flags.chat_template_file));
    if (engine.chat_template.find('{') == std::string::npos) {
      return BadFile(
          fmt::format("the chat template file '{}' is no Jinja", flags.chat_template_file));
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

// Of the process, as llama.cpp's programs do.
void SetPriority(int priority) {
  if (priority == 0) return;
  const int nice = priority < 0 ? 5 : priority == 1 ? -5 : priority == 2 ? -10 : -20;
  if (::setpriority(PRIO_PROCESS, 0, nice) != 0) {
    Tell("note: the system does not let this user raise the priority, so --prio does little\n");
  }
}

}  // namespace

Result<std::unique_ptr<Engine>> LoadEngine(CommonFlags& flags) {
  RKV_RETURN_IF_ERROR(ReadTemplateFlags(flags));
  if (flags.n_batch > 0) flags.engine.n_ubatch = std::min(flags.engine.n_ubatch, flags.n_batch);
  RKV_RETURN_IF_ERROR(ReadFlagFiles(flags));
  SetPriority(flags.engine.threads.priority);
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
  auto engine = Engine::Load(flags.engine, [&progress](std::string_view what, double fraction) {
    progress.Show(what, fraction);
  });
  progress.Clear();
  if (!engine.ok()) return engine;
  if (flags.engine.n_gpu_layers != 0 && flags.engine.rpc_servers.empty() && !HasGpu()) {
    Tell("note: there is no GPU that this llama.cpp can use, so -ngl does nothing\n");
  }
  const int n_train = (*engine)->n_ctx_train();
  const bool stretched = flags.engine.rope != RopeOptions();
  if (n_train > 0 && (*engine)->n_ctx() > n_train && !stretched) {
    Tell(
        "note: the model was trained for {} positions; beyond them its answers get worse, unless "
        "--rope-scaling stretches them\n",
        n_train);
  }
  return engine;
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
