// rkv make-model: small models with random weights.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <memory>

#include "commands.h"
#include "flags.h"
#include "lab/model_maker.h"

namespace rkv::app {

namespace {

struct MakeModelFlags {
  ModelSpec spec;
  std::string output;
  std::string mmproj;
};

Status Make(const MakeModelFlags& flags) {
  RKV_RETURN_IF_ERROR(MakeModel(flags.spec, flags.output));
  return flags.mmproj.empty() ? OkStatus() : MakeMmproj(flags.spec, flags.mmproj);
}

}  // namespace

void AddMakeModelCommand(CLI::App& program, int& exit_code) {
  CLI::App* command = program.add_subcommand(
      "make-model", "write a small model with random weights, for tests and measurements");
  auto flags = std::make_shared<MakeModelFlags>();
  ModelSpec& spec = flags->spec;
  command->add_option("arch", spec.arch, fmt::format("{}", fmt::join(MakeModelArchs(), ", ")))
      ->required()
      ->type_name("ARCH");
  command->add_option("-o,--output", flags->output, "model file to write")
      ->required()
      ->type_name("FILE");
  command->add_option("--mmproj", flags->mmproj, "vision projector file to write")
      ->type_name("FILE");
  command->add_option("--layers", spec.n_layer, "transformer blocks (2)");
  command->add_option("--heads", spec.n_head, "query heads (4)");
  command->add_option("--kv-heads", spec.n_head_kv, "KV heads (2)");
  command->add_option("--head-dim", spec.head_dim, "elements per head (64)");
  command->add_option("--embd", spec.n_embd, "embedding size; 0: chosen to fit");
  command->add_option("--ff", spec.n_ff, "feed-forward size (512)");
  command->add_option("--ctx-train", spec.n_ctx_train,
                      "context size in the model's metadata (32768)");
  command->add_option("--type", spec.type, "type of the weights: f32, f16, q8_0, q4_0 (f16)");
  command->add_option("-s,--seed", spec.seed, "random seed (1)");
  command->callback([flags, &exit_code] {
    const Status status = Make(*flags);
    exit_code = status.ok() ? 0 : Fail(status);
  });
}

}  // namespace rkv::app
