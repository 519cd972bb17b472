// rkv bench: speed and memory against stock llama.cpp, in the same run.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <thread>

#include "bench/measure.h"
#include "bench/plan.h"
#include "bench/plot.h"
#include "bench/results.h"
#include "bench/serve_load.h"
#include "commands.h"
#include "eval/configurations.h"
#include "flags.h"
#include "input.h"
#include "lab/model_maker.h"
#include "output.h"
#include "reference_model.h"
#include "retentivekv/version.h"
#include "serve/page.h"
#include "terminal.h"

namespace rkv::app {

namespace {

const std::vector<std::string> kFormats = {"md", "csv", "json"};

// Tokens of text beside the two bundled pictures: short conversations leave little to save.
constexpr const char* kServeDepth = "1024";

struct BenchFlags {
  CommonFlags common;  // logs
  std::vector<std::string> models;
  std::string prompts = "512";
  std::string generations;  // empty: 128, or 32 with --serve
  std::string depths;       // empty: 0, or kServeDepth with --serve and the bundled model
  std::string threads;
  std::string batch = "2048";
  std::string ubatch = "512";
  std::string types_k, types_v;
  std::vector<std::string> policies;
  std::string budgets = "20%";
  std::vector<std::string> ladders;
  std::string compression = "streaming";
  int n_conversations = 1;
  int repetitions = 0;  // 0: 5, or 3 with --serve
  bool random_depth = false;
  uint64_t seed = 1;
  std::string format = "md";
  std::string out;
  std::string plot;
  std::string make;
  bool serve = false;
  std::string mmproj;
  std::vector<std::string> images;
  std::string memory;
  int n_parallel = 64;
  std::string park;
};

std::vector<std::string> ShapeNames() {
  std::vector<std::string> names;
  for (const ReleasedShape& shape : ReleasedShapes()) names.emplace_back(shape.name);
  return names;
}

Status Make(const BenchFlags& flags) {
  const auto& shapes = ReleasedShapes();
  const auto shape = std::ranges::find_if(
      shapes, [&](const ReleasedShape& known) { return known.name == flags.make; });
  if (shape == shapes.end()) {
    return InvalidArgument(fmt::format("unknown model '{}' for --make; choose one of: {}",
                                       flags.make, fmt::join(ShapeNames(), ", ")));
  }
  ModelSpec spec = shape->spec;
  spec.seed = flags.seed;
  const std::string path =
      flags.out.empty() ? fmt::format("{}-{}.gguf", shape->name, spec.type) : flags.out;
  RKV_RETURN_IF_ERROR(MakeModel(spec, path));
  Tell("wrote {}\n", path);
  return OkStatus();
}

// The plan without the models.
Result<BenchPlan> ParsePlan(const BenchFlags& flags) {
  BenchPlan plan;
  const std::string threads =
      flags.threads.empty() ? std::to_string(std::max(1u, std::thread::hardware_concurrency()))
                            : flags.threads;
  RKV_ASSIGN_OR_RETURN(plan.n_threads, ParseNumbers("-t", threads, 1));
  RKV_ASSIGN_OR_RETURN(plan.n_batch, ParseNumbers("-b", flags.batch, 1));
  RKV_ASSIGN_OR_RETURN(plan.n_ubatch, ParseNumbers("-ub", flags.ubatch, 1));
  const bool serves_bundled = flags.serve && flags.models.empty();
  RKV_ASSIGN_OR_RETURN(
      plan.depths,
      ParseNumbers("-d", flags.depths.empty() ? (serves_bundled ? kServeDepth : "0") : flags.depths,
                   0));
  RKV_ASSIGN_OR_RETURN(plan.prompts, ParseNumbers("-p", flags.prompts, 0));
  RKV_ASSIGN_OR_RETURN(
      plan.generations,
      ParseNumbers(
          "-n", flags.generations.empty() ? (flags.serve ? "32" : "128") : flags.generations, 0));
  std::erase(plan.prompts, 0);  // As in llama-bench: 0 tokens are no test.
  std::erase(plan.generations, 0);
  if (plan.prompts.empty() && plan.generations.empty()) {
    return InvalidArgument("nothing to measure: both -p and -n are 0");
  }
  BenchCacheChoices choices;
  const bool one_type = flags.serve && flags.types_k.empty() && flags.types_v.empty();
  RKV_ASSIGN_OR_RETURN(choices.types,
                       ParseTypePairs(one_type ? "f16" : flags.types_k, flags.types_v));
  const std::vector<std::string> policies =
      flags.policies.empty() ? std::vector<std::string>{"full", "retentive"} : flags.policies;
  RKV_ASSIGN_OR_RETURN(choices.policies, ParsePolicyList(policies));
  RKV_ASSIGN_OR_RETURN(choices.budgets, ParseBudgetList(flags.budgets));
  for (const std::string& text : flags.ladders) {
    RKV_ASSIGN_OR_RETURN(const Ladder ladder, ParseLadder(text));
    choices.ladders.push_back(ladder);
  }
  RKV_ASSIGN_OR_RETURN(choices.compression, ParseCompression(flags.compression));
  RKV_ASSIGN_OR_RETURN(plan.caches, MakeBenchCaches(choices));
  plan.n_conversations = flags.n_conversations;
  plan.repetitions = flags.repetitions > 0 ? flags.repetitions : flags.serve ? 3 : 5;
  plan.random_depth = flags.random_depth;
  plan.seed = flags.seed;
  return plan;
}

// `reference`: the files of the bundled model.
Result<std::vector<BenchRow>> MeasureServing(const BenchFlags& flags, BenchPlan& plan,
                                             const EngineOptions& reference,
                                             const BenchProgress& progress) {
  std::erase_if(plan.caches, [](const BenchCache& cache) { return cache.stock; });
  if (plan.generations.empty()) return InvalidArgument("nothing to measure: -n is 0");
  ServeLoadPlan serve;
  serve.mmproj = flags.mmproj;
  serve.n_parallel = flags.n_parallel;
  serve.park = flags.park;
  for (const std::string& path : flags.images) {
    RKV_ASSIGN_OR_RETURN(std::string bytes, ReadPicture(path));
    serve.pictures.push_back({.name = path, .bytes = std::move(bytes)});
  }
  if (flags.models.empty()) {
    if (serve.mmproj.empty()) serve.mmproj = reference.mmproj;
    if (serve.pictures.empty()) {
      for (const char* name : {"samples/form.png", "samples/table.png"}) {
        serve.pictures.push_back({.name = name, .bytes = std::string(PageFiles().at(name))});
      }
    }
  } else if (serve.pictures.empty() && plan.depths == std::vector{0}) {
    return InvalidArgument(
        "the conversations are empty: pass tokens (-d 512) or pictures (--image)");
  }
  if (!flags.memory.empty()) {
    RKV_ASSIGN_OR_RETURN(serve.memory_bytes, ParseBytes("--memory", flags.memory));
  }
  const Interrupts::Answering answering;
  serve.cancel = answering.cancel();
  serve.bench = plan;
  return MeasureServeLoad(serve, progress);
}

std::string CpuName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown CPU";
}

Status Bench(BenchFlags& flags, const std::string& command) {
  RKV_RETURN_IF_ERROR(StartLogging(flags.common));
  if (!flags.make.empty()) return Make(flags);
  if (std::ranges::find(kFormats, flags.format) == kFormats.end()) {
    return InvalidArgument(fmt::format("unknown output format '{}'; choose one of: {}",
                                       flags.format, fmt::join(kFormats, ", ")));
  }
  RKV_ASSIGN_OR_RETURN(BenchPlan plan, ParsePlan(flags));
  EngineOptions reference;
  plan.models = flags.models;
  if (plan.models.empty()) {
    RKV_RETURN_IF_ERROR(UseReferenceModel(reference));
    plan.models = {reference.model};
  }
  const Interrupts interrupts;
  ProgressLine line;
  const BenchProgress progress = [&](std::string_view what, double fraction) {
    line.Show(what, fraction);
  };
  RKV_ASSIGN_OR_RETURN(const std::vector<BenchRow> rows,
                       flags.serve ? MeasureServing(flags, plan, reference, progress)
                                   : MeasureBench(plan, progress));
  line.Clear();
  const BenchHeader header{.command = command,
                           .version = fmt::format("rkv {} on llama.cpp {}, {} kernels", kVersion,
                                                  LlamaVersion(), CpuTarget()),
                           .cpu = CpuName(),
                           .repetitions = plan.repetitions,
                           .random_depth = flags.random_depth,
                           .compression = plan.caches.back().options.compression,
                           .seed = flags.seed};
  if (!flags.plot.empty()) RKV_RETURN_IF_ERROR(WriteOutput(flags.plot, BenchPlot(rows)));
  const std::string text = flags.format == "md"    ? BenchMarkdown(header, rows)
                           : flags.format == "csv" ? BenchCsv(header, rows)
                                                   : BenchJson(header, rows);
  if (!flags.out.empty()) return WriteOutput(flags.out, text);
  std::cout << ForStdout(text) << std::flush;
  return std::cout ? OkStatus() : Internal("cannot write the results to the output");
}

}  // namespace

void AddBenchCommand(CLI::App& program, int& exit_code) {
  CLI::App* command = program.add_subcommand(
      "bench", "measure speed and memory against stock llama.cpp, in the same run");
  auto flags = std::make_shared<BenchFlags>();
  const auto list = [&](const char* names, std::string& value, const std::string& help) {
    AddList(*command, names, value, help);
  };
  Repeatable(
      command
          ->add_option(
              "-m,--model", flags->models,
              "model file (GGUF); several: repeat, or separate by commas; default: the bundled "
              "model")
          ->delimiter(','))
      ->type_name("FILE");
  list("-p,--n-prompt", flags->prompts, "numbers of prompt tokens to read (512); 0: none");
  list("-n,--n-gen", flags->generations,
       "numbers of tokens to decode (128; 32 with --serve); 0: none");
  list("-d,--n-depth", flags->depths,
       "tokens in the cache before the test (0; 1024 with --serve and the bundled model)");
  list("-t,--threads", flags->threads, "threads; default: all cores");
  list("-b,--batch-size", flags->batch, "stock llama.cpp: prompt tokens per llama_decode (2048)");
  list("--ubatch-size", flags->ubatch, "tokens per ubatch, -ub (512)");
  list("--cache-type-k", flags->types_k,
       "types of keys, -ctk, for stock llama.cpp and policies that keep every token "
       "(f16,q8_0,q4_0)");
  list("--cache-type-v", flags->types_v,
       "types of values, -ctv, paired with those of -ctk; default: the same");
  Repeatable(command->add_option("--policies", flags->policies,
                                 "policies, such as full,snapkv:window=4,tova; several: repeat, or "
                                 "separate by commas (full,retentive)"))
      ->type_name("LIST");
  list("--budgets", flags->budgets, "budgets for policies that evict (20%)");
  Repeatable(
      command->add_option("--ladder", flags->ladders,
                          "ladder of precisions for policies that evict: auto, none, or a list "
                          "such as f16,q4,q42/q3; several: repeat; default: the policy's"))
      ->type_name("LADDER");
  command
      ->add_option("--compress", flags->compression,
                   "when to compress: streaming (the budget always holds, default) or prompt "
                   "(after a prompt is read)")
      ->type_name("WHEN");
  command->add_option("--batch", flags->n_conversations, "conversations decoded at once (1)")
      ->check(kPositive)
      ->type_name("N");
  command
      ->add_option("-r,--repetitions", flags->repetitions,
                   "repetitions of each test (5; 3 with --serve)")
      ->check(kPositive)
      ->type_name("N");
  command->add_flag(
      "--random-depth", flags->random_depth,
      "fill -d with random keys and values, on both sides, instead of reading tokens");
  command
      ->add_option("-s,--seed", flags->seed,
                   "random seed of tokens, and of the weights of --make (1)")
      ->type_name("N");
  command->add_option("-o,--output", flags->format, "md (default), csv or json")
      ->type_name("FORMAT");
  command->add_option("--out", flags->out, "output file; default: stdout")->type_name("FILE");
  command->add_option("--plot", flags->plot, "plot speed and memory against the depth, as SVG")
      ->type_name("FILE");
  command
      ->add_option("--make", flags->make,
                   fmt::format("write a model of this shape with random q4_0 weights, and measure "
                               "nothing ({}); default of --out: NAME-q4_0.gguf",
                               fmt::join(ShapeNames(), ", ")))
      ->type_name("NAME");
  CLI::Option* serve =
      command->add_flag("--serve", flags->serve,
                        "measure how many conversations the server holds within --memory, and its "
                        "speed, with equal clients for each cache");
  for (const char* name :
       {"--n-prompt", "--batch-size", "--batch", "--random-depth", "--plot", "--make"}) {
    serve->excludes(command->get_option(name));
  }
  const auto of_serve = [&](const char* names, auto& value, const std::string& help) {
    return command->add_option(names, value, help + ", with --serve")->needs(serve);
  };
  of_serve("--mmproj", flags->mmproj, "vision projector of the model (GGUF), -mm")
      ->type_name("FILE");
  Repeatable(
      of_serve("--image", flags->images,
               "picture at the start of each conversation; several: repeat, or separate by commas")
          ->delimiter(','))
      ->type_name("FILE");
  of_serve("--memory", flags->memory,
           "memory limit of all caches together (four full conversations)")
      ->type_name("SIZE");
  of_serve("--parallel", flags->n_parallel, "maximum number of clients, -np (64)")
      ->check(CLI::Range(2, 256))
      ->type_name("N");
  of_serve("--park", flags->park,
           "folder for conversations that do not fit into --memory (the system's temporary folder)")
      ->type_name("DIR");
  AddLogFlags(*command, flags->common);
  NameEnvironment(*command);
  command->callback([flags, command, &program, &exit_code] {
    const Status status = Bench(*flags, CommandLine(program, *command));
    exit_code = status.ok() ? 0 : Fail(status);
  });
}

}  // namespace rkv::app
