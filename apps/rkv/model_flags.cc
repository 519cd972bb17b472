// Flags of the model: its files, weights, threads, positions and chat template, and loading it.
#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "add_flag.h"
#include "flags.h"
#include "input.h"
#include "reference_model.h"
#include "terminal.h"

namespace rkv::app {

namespace {

constexpr int kMaxCpus = 512;  // size of llama.cpp's masks

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

template <typename T>
Status ParseChoice(const std::string& text, const std::map<std::string, T>& choices, T& choice) {
  const auto found = choices.find(text);
  if (found != choices.end()) {
    choice = found->second;
    return OkStatus();
  }
  std::string names;
  for (const auto& [name, value] : choices) names += (names.empty() ? "" : ", ") + name;
  return InvalidArgument(fmt::format("'{}' is not one of: {}", text, names));
}

void AddRopeFlags(CLI::App& command, RopeOptions& rope) {
  AddFlag(command, "--rope-scaling", rope.scaling,
          "RoPE scaling: none, linear or yarn; default: the model's")
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
  AddParsed(command, "--rope-scale", scale, "RoPE scaling factor: expands the context N times")
      ->type_name("N");
  AddFlag(command, "--rope-freq-base", rope.freq_base, "RoPE base frequency")->check(kPositive);
  AddFlag(command, "--rope-freq-scale", rope.freq_scale,
          "RoPE frequency factor: 1/N expands the context N times")
      ->check(kPositive);
  AddFlag(command, "--yarn-orig-ctx", rope.yarn_orig_ctx,
          "YaRN: context size of training; 0: as in the model's metadata")
      ->check(kNonNegative)
      ->type_name("N");
  AddFlag(command, "--yarn-ext-factor", rope.yarn_ext_factor,
          "YaRN: extrapolation mix factor; 0: interpolation");
  AddFlag(command, "--yarn-attn-factor", rope.yarn_attn_factor, "YaRN: attention magnitude");
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
  AddParsed(command, "-t,--threads", set(engine.n_threads), "number of threads; 0 or -1: all cores")
      ->check(threads)
      ->type_name("N");
  AddParsed(command, "--threads-batch", set(engine.n_threads_batch),
            "number of threads for reading prompts, -tb; default: as -t")
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
  AddFlag(command, "--cpu-strict", options.strict, "1: pin each thread to a CPU of its own (0)")
      ->type_name("0|1");
  AddFlag(command, "--prio", options.priority,
          "priority: -1 (low), 0 (normal), 1 (medium), 2 (high), 3 (real time)")
      ->check(CLI::Range(-1, 3))
      ->type_name("N");
  AddFlag(command, "--poll", options.poll,
          "polling level of threads that wait for work: 0 (no polling) to 100 (50)")
      ->check(CLI::Range(0, 100))
      ->type_name("N");
  static const std::map<std::string, Numa> kNuma = {
      {"distribute", Numa::kDistribute}, {"isolate", Numa::kIsolate}, {"numactl", Numa::kNumactl}};
  AddParsed(
      command, "--numa",
      [&engine](const std::string& text) { return ParseChoice(text, kNuma, engine.numa); },
      "NUMA strategy: distribute, isolate or numactl")
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
      "how to load the weights, -lm: auto, none, mmap, mlock, mmap+mlock or dio")
      ->type_name("MODE");
  AddSwitch(
      command, "--mlock", [&engine] { engine.load_mode = LoadMode::kMlock; },
      "as --load-mode mlock: lock the weights in memory");
  AddSwitch(
      command, "--no-mmap", [&engine] { engine.load_mode = LoadMode::kNone; },
      "as --load-mode none: read the weights, do not map them");
  const auto adapters = [&command](const char* name, bool scaled, std::vector<Adapter>& list,
                                   const char* help) {
    AddParsedList(
        command, name,
        [&list, scaled](const std::string& text) { return ParseAdapter(text, scaled, list); }, help)
        ->type_name(scaled ? "FILE:SCALE" : "FILE");
  };
  adapters("--lora", false, engine.loras,
           "LoRA adapter (GGUF); several: repeat, or separate by commas");
  adapters("--lora-scaled", true, engine.loras,
           "LoRA adapter with a scale; several: repeat, or separate by commas");
  adapters("--control-vector", false, engine.control_vectors,
           "control vector (GGUF); several: repeat, or separate by commas");
  adapters("--control-vector-scaled", true, engine.control_vectors,
           "control vector with a scale; several: repeat, or separate by commas");
  command
      .add_option_function<std::pair<int, int>>(
          "--control-vector-layer-range",
          [&engine](const std::pair<int, int>& range) {
            engine.control_vector_first_layer = range.first;
            engine.control_vector_last_layer = range.second;
          },
          "first and last layer for control vectors; default: all")
      ->envname("RKV_CONTROL_VECTOR_LAYER_RANGE")
      ->type_name("N N");
  Repeatable(AddFlag(command, "--override-kv", engine.overrides,
                     "override a value of the model's metadata, KEY=TYPE:VALUE; several: repeat, "
                     "or separate by commas")
                 ->delimiter(','))
      ->type_name("KV");
}

}  // namespace

void AddModelFlags(CLI::App& command, CommonFlags& flags) {
  EngineOptions& engine = flags.engine;
  AddFlag(command, "-m,--model", engine.model, "model file (GGUF); default: the bundled model")
      ->type_name("FILE");
  AddFlag(command, "--mmproj", engine.mmproj, "vision or audio projector of the model (GGUF), -mm")
      ->type_name("FILE");
  AddFlag(command, "-c,--ctx-size", engine.n_ctx,
          "context size: tokens of the longest conversation; 0: as the model was trained")
      ->check(kNonNegative)
      ->type_name("N");
  AddFlag(command, "-b,--batch-size", flags.n_batch, "tokens per batch; also the maximum of -ub")
      ->check(kPositive)
      ->type_name("N");
  AddFlag(command, "--ubatch-size", engine.n_ubatch, "tokens per ubatch, -ub (512)")
      ->check(kPositive)
      ->type_name("N");
  AddThreadFlags(command, engine);
  AddWeightFlags(command, engine);
  AddRopeFlags(command, engine.rope);
  // As in llama.cpp: -1 is auto, and lower values mean all.
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
          "layers on the GPU, -ngl: a number, auto or all; only 0 (auto) is possible; with --rpc, "
          "layers on the servers (all)")
      ->transform(layers)
      ->type_name("N");
  Repeatable(AddFlag(command, "--rpc", engine.rpc_servers,
                     "RPC servers of llama.cpp to split the layers over, as host:port,host:port")
                 ->delimiter(','))
      ->type_name("SERVERS");
  AddFlag(command, "--image-min-tokens", engine.image_min_tokens,
          "minimum number of visual tokens per picture")
      ->type_name("N");
  AddFlag(command, "--image-max-tokens", engine.image_max_tokens,
          "maximum number of visual tokens per picture (larger ones are scaled down); 0: the "
          "model's limit; default: 1280 if the model takes any resolution")
      ->type_name("N");
  AddTemplateFlags(command, flags);
}

void AddTemplateFlags(CLI::App& command, CommonFlags& flags) {
  AddFlag(
      command, "--chat-template", flags.engine.chat_template,
      "chat template: Jinja, the name of a llama.cpp template, or none; default: the model's own")
      ->type_name("TEMPLATE");
  // For compatibility with llama.cpp's programs; rkv always runs templates.
  command
      .add_flag("--jinja", flags.jinja,
                "accepted for compatibility: chat templates always run in Jinja")
      ->envname("RKV_JINJA");
  AddFlag(command, "--chat-template-file", flags.chat_template_file,
          "Jinja file to use instead of the model's chat template")
      ->type_name("FILE");
  AddFlag(command, "--chat-template-kwargs", flags.chat_template_kwargs,
          "variables of the chat template as a JSON object, such as {\"enable_thinking\":false}")
      ->type_name("JSON");
  AddFlag(command, "--reasoning", flags.reasoning,
          "thinking before an answer, -rea: on, off, or auto (the chat template decides)")
      ->check(CLI::IsMember({"on", "off", "auto"}))
      ->type_name("MODE");
  AddFlag(command, "--reasoning-format", flags.reasoning_format,
          "none: leave thoughts in the answer; deepseek or auto: separate them from it")
      ->check(CLI::IsMember({"none", "deepseek", "auto"}))
      ->type_name("FORMAT");
}

namespace {

// Sets the file, the variables and the switches of the chat template in the engine's options.
Status ReadTemplateFlags(CommonFlags& flags) {
  EngineOptions& engine = flags.engine;
  if (!flags.chat_template_file.empty()) {
    if (!engine.chat_template.empty()) {
      return InvalidArgument("--chat-template and --chat-template-file contradict each other");
    }
    RKV_ASSIGN_OR_RETURN(engine.chat_template,
                         ReadTextFile("chat template", flags.chat_template_file));
    if (engine.chat_template.find('{') == std::string::npos) {
      return BadFile(fmt::format("the chat template file '{}' is not a Jinja template",
                                 flags.chat_template_file));
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

// For the whole process, as in llama.cpp's programs.
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
    // Once for each notice, even if a picture is read for many questions.
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
    Tell("note: llama.cpp found no GPU that it can use, so -ngl does nothing\n");
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

}  // namespace rkv::app
