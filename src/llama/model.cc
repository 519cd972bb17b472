// Loads a model with its adapters, vision and context. Faults that would make llama.cpp abort are
// refused first.
#include "llama/model.h"

#include <fmt/format.h>
#include <ggml-backend.h>
#include <gguf.h>
#include <llama.h>
#include <mtmd.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <thread>
#include <type_traits>

#include "base/bytes.h"
#include "base/huge_pages.h"
#include "llama/abort_guard.h"
#include "llama/adapters.h"
#include "llama/gguf_check.h"
#include "llama/log.h"
#include "llama/model_name.h"
#include "llama/model_parameters.h"

namespace rkv {

namespace {

constexpr int kSampledBlocks = 64;
constexpr size_t kBlockBytes = 4096;

// Allocations of weights are larger, and those of vocabulary tables are smaller.
constexpr size_t kMinWeightBytes = size_t{16} << 20;

// llama.cpp's errors about files are vague, so the common faults are checked first.
Status CheckGgufFile(const std::string& path, std::string_view what) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    return BadFile(fmt::format("{} '{}' does not exist", what, path));
  }
  if (std::filesystem::is_directory(path, error)) {
    return BadFile(fmt::format("{} '{}' is a directory; pass the GGUF file in it", what, path));
  }
  if (!std::filesystem::is_regular_file(path, error)) {
    return BadFile(fmt::format("{} '{}' is a device or a pipe, not a file", what, path));
  }
  std::ifstream file(path, std::ios::binary);
  char magic[4] = {};
  if (!file.read(magic, sizeof(magic)) || std::string_view(magic, 4) != "GGUF") {
    return BadFile(fmt::format("{} '{}' is not a readable GGUF file", what, path));
  }
  return OkStatus();
}

// Different weights differ almost everywhere, so samples tell them apart without reading gigabytes.
uint64_t FileFingerprint(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const auto size = static_cast<uint64_t>(file.tellg());
  uint64_t hash = size;
  std::string block(kBlockBytes, '\0');
  for (int i = 0; i < kSampledBlocks; ++i) {
    file.clear();
    file.seekg(static_cast<std::streamoff>(size / kSampledBlocks * static_cast<uint64_t>(i)));
    file.read(block.data(), static_cast<std::streamsize>(block.size()));
    hash = Hash64(std::string_view(block.data(), static_cast<size_t>(file.gcount())), hash);
  }
  return hash;
}

void InitBackends() {
  static const bool once = [] {
    CaptureLlamaLogs();
    ggml_backend_load_all();
    llama_backend_init();
    return true;
  }();
  (void)once;
}

// llama.cpp ends the program if the server does not answer, so this is checked first.
Status CheckListens(const std::string& server) {
  const size_t colon = server.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == server.size()) {
    return InvalidArgument(fmt::format("RPC server '{}' must be host:port", server));
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (::getaddrinfo(server.substr(0, colon).c_str(), server.substr(colon + 1).c_str(), &hints,
                    &found) != 0) {
    return Internal(fmt::format("the host of RPC server '{}' is not known", server));
  }
  bool connected = false;
  for (const addrinfo* a = found; a != nullptr && !connected; a = a->ai_next) {
    const int fd = ::socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
    connected = fd >= 0 && ::connect(fd, a->ai_addr, a->ai_addrlen) == 0;
    if (fd >= 0) ::close(fd);
  }
  ::freeaddrinfo(found);
  return connected ? OkStatus() : Internal(fmt::format("no RPC server answers at '{}'", server));
}

// The devices of RPC servers, and the null that ends llama.cpp's list.
Result<std::vector<ggml_backend_dev_t>> RpcDevices(const std::vector<std::string>& servers) {
  const ggml_backend_reg_t rpc = ggml_backend_reg_by_name("RPC");
  using AddServer = ggml_backend_reg_t (*)(const char* endpoint);
  const auto add_server = rpc == nullptr
                              ? nullptr
                              : reinterpret_cast<AddServer>(ggml_backend_reg_get_proc_address(
                                    rpc, "ggml_backend_rpc_add_server"));
  if (add_server == nullptr) {
    return Unsupported("this llama.cpp was built without RPC; build it with -DGGML_RPC=ON");
  }
  std::vector<ggml_backend_dev_t> devices;
  for (const std::string& server : servers) {
    RKV_RETURN_IF_ERROR(CheckListens(server));
    const LlamaErrorLog log;
    const ggml_backend_reg_t reg = add_server(server.c_str());
    if (reg == nullptr) {
      return Internal(fmt::format("RPC server '{}' has no devices{}", server, log.Reason()));
    }
    for (size_t i = 0; i < ggml_backend_reg_dev_count(reg); ++i) {
      devices.push_back(ggml_backend_reg_dev_get(reg, i));
    }
  }
  devices.push_back(nullptr);
  return devices;
}

}  // namespace

Status CheckServable(const llama_model* model, int n_ctx) {
  const int n_swa = llama_model_n_swa(model);
  if (llama_model_is_recurrent(model)) {
    return Unsupported("the model is recurrent: it has a state instead of a KV cache");
  }
  if (llama_model_is_hybrid(model)) {
    return Unsupported("the model is a hybrid of attention and recurrent layers");
  }
  char arch[64] = {};
  llama_model_meta_val_str(model, "general.architecture", arch, sizeof(arch));
  if (std::string_view(arch) == "minimax-m3") {
    return Unsupported("the model chooses blocks of its cache by an index of its own (MSA)");
  }
  // Checked before a context is made: with AMX, llama.cpp aborts when it makes one for such a model
  // with quantised weights.
  // model with quantised weights.
  char length[16] = {};
  const std::string mla_key = fmt::format("{}.attention.key_length_mla", arch);
  if (llama_model_meta_val_str(model, mla_key.c_str(), length, sizeof(length)) > 0) {
    return Unsupported("the model keeps keys and values in one latent (MLA)");
  }
  if (llama_model_is_diffusion(model)) return Unsupported("the model is a diffusion model");
  if (llama_model_has_encoder(model)) return Unsupported("the model has a text encoder");
  if (!llama_model_has_decoder(model)) return Unsupported("the model does not generate text");
  if (n_swa > 0 && n_ctx > n_swa) {
    return Unsupported(
        fmt::format("the model has sliding-window attention over {} tokens; it can only be served "
                    "if the context fits into the window: -c {} or less",
                    n_swa, n_swa));
  }
  return OkStatus();
}

namespace {

// The number under `key` in a GGUF file, or 0.
size_t BlockCount(const std::string& path, const char* key) {
  const LlamaPtr<gguf_context> file(
      gguf_init_from_file(path.c_str(), {.no_alloc = true, .ctx = nullptr}));
  if (file == nullptr) return 0;
  const int64_t found = gguf_find_key(file.get(), key);
  if (found < 0 || gguf_get_kv_type(file.get(), found) != GGUF_TYPE_UINT32) return 0;
  return gguf_get_val_u32(file.get(), found);
}

// Counts attention nodes, since each layer of an encoder has one. Cuts the graph there only for a
// StepWatch.
bool OnEncoderNode(ggml_tensor* node, bool ask, void* encoder_state) {
  auto& state = *static_cast<EncoderState*>(encoder_state);
  if (ask) {
    return state.watch != nullptr &&
           (node->op == GGML_OP_FLASH_ATTN_EXT || node->op == GGML_OP_SOFT_MAX);
  }
  ++state.n_done;
  if (state.watch->on_progress && state.n_layers > 0) {
    state.watch->on_progress(
        std::min(1.0, static_cast<double>(state.n_done) / static_cast<double>(state.n_layers)));
  }
  state.stopped |= state.watch->stop && state.watch->stop();
  return !state.stopped;
}

}  // namespace

Result<std::unique_ptr<Model>> Model::Load(const EngineOptions& options,
                                           const LoadProgress& progress, bool huge_pages) {
  InitBackends();
  InitNuma(options.numa);
  RKV_RETURN_IF_ERROR(CheckGgufFile(options.model, "model"));
  RKV_RETURN_IF_ERROR(CheckModelFile(options.model));
  for (const Adapter& lora : options.loras) {
    RKV_RETURN_IF_ERROR(CheckGgufFile(lora.path, "LoRA adapter"));
  }
  for (const Adapter& vector : options.control_vectors) {
    RKV_RETURN_IF_ERROR(CheckGgufFile(vector.path, "control vector"));
  }
  if (!options.mmproj.empty()) {
    RKV_RETURN_IF_ERROR(CheckGgufFile(options.mmproj, "mmproj"));
  }
  std::unique_ptr<Model> model(new Model(options));
  RKV_RETURN_IF_ERROR(model->LoadWeights(progress, huge_pages));
  RKV_RETURN_IF_ERROR(model->MakeContext());
  RKV_RETURN_IF_ERROR(model->AddAdapters());
  if (!options.mmproj.empty()) RKV_RETURN_IF_ERROR(model->LoadVision());
  model->fingerprint_ = FileFingerprint(options.model);
  // The same weights give other keys and values under other options.
  std::string changes = DescribeChanges(options);
  for (const auto* adapters : {&options.loras, &options.control_vectors}) {
    for (const Adapter& adapter : *adapters) {
      changes += fmt::format("{} {:a}\n", FileFingerprint(adapter.path), adapter.scale);
    }
  }
  if (!changes.empty()) model->fingerprint_ = Hash64(changes, model->fingerprint_);
  return model;
}

Status Model::LoadWeights(const LoadProgress& progress, bool huge_pages) {
  llama_model_params params = llama_model_default_params();
  params.n_gpu_layers = options_.n_gpu_layers;
  params.load_mode = ToLlama(options_.load_mode);
  RKV_ASSIGN_OR_RETURN(const auto overrides, ParseOverrides(options_.overrides));
  if (!options_.overrides.empty()) params.kv_overrides = overrides.data();
  std::vector<ggml_backend_dev_t> devices;
  // llama.cpp runs an operation on the device of the weights next to it. Attention lies between the
  // local write to the cache and these weights.
  const llama_model_tensor_buft_override here[] = {
      {R"(blk\.\d+\.attn_(output|sub_norm)\.)", ggml_backend_cpu_buffer_type()},
      {nullptr, nullptr}};
  if (!options_.rpc_servers.empty()) {
    RKV_ASSIGN_OR_RETURN(devices, RpcDevices(options_.rpc_servers));
    params.devices = devices.data();
    params.tensor_buft_overrides = here;
    if (params.n_gpu_layers == 0) params.n_gpu_layers = -1;
  }
  // At llama.cpp's first progress report, the memory for copied weights is allocated and still
  // unwritten.
  struct Loading {
    const LoadProgress& progress;
    std::vector<AddressRange> before;
    size_t huge_page_bytes = 0;
  } loading{.progress = progress, .before = {}};
  if (huge_pages) loading.before = AnonymousMemory();
  params.progress_callback = [](float fraction, void* user_data) {
    auto& state = *static_cast<Loading*>(user_data);
    state.huge_page_bytes += UseHugePagesSince(state.before, kMinWeightBytes);
    state.before.clear();
    if (state.progress) state.progress(static_cast<double>(fraction));
    return true;
  };
  params.progress_callback_user_data = &loading;
  const LlamaErrorLog log;
  model_.reset(
      LoadOrNull([&] { return llama_model_load_from_file(options_.model.c_str(), params); }));
  if (model_ == nullptr) {
    return BadFile(fmt::format("cannot load model '{}'{}", options_.model, log.Reason()));
  }
  huge_page_bytes_ = loading.huge_page_bytes;
  tokenizer_.emplace(vocab());
  n_ctx_ = options_.n_ctx > 0 ? options_.n_ctx : n_ctx_train();
  const Status servable = CheckServable(model_.get(), n_ctx_);
  if (!servable.ok()) {
    return Unsupported(
        fmt::format("cannot serve model '{}': {}", options_.model, servable.message()));
  }
  return OkStatus();
}

Status Model::MakeContext() {
  llama_context_params params = llama_context_default_params();
  const auto cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  params.n_threads = options_.n_threads > 0 ? options_.n_threads : cores;
  params.n_threads_batch =
      options_.n_threads_batch > 0 ? options_.n_threads_batch : params.n_threads;
  // A ubatch cannot be longer than a conversation, and llama.cpp allocates memory for it.
  options_.n_ubatch = std::min(options_.n_ubatch, n_ctx_);
  params.n_ubatch = static_cast<uint32_t>(options_.n_ubatch);
  params.n_seq_max = static_cast<uint32_t>(options_.max_conversations);
  params.no_perf = true;
  RKV_RETURN_IF_ERROR(SetRope(options_.rope, params));
  bridge_.Prepare(params);
  const LlamaErrorLog log;
  context_.reset(LoadOrNull([&] { return llama_init_from_model(model_.get(), params); }));
  if (context_ == nullptr) {
    return Internal(fmt::format("cannot make a context for '{}'{}", options_.model, log.Reason()));
  }
  RKV_RETURN_IF_ERROR(thread_pools_.Attach(options_.threads, context_.get()));
  Result<CacheShape> shape = bridge_.Probe(context_.get());
  if (!shape.ok()) {
    return Status(shape.status().code(), fmt::format("cannot serve model '{}': {}", options_.model,
                                                     shape.status().message()));
  }
  shape_ = *std::move(shape);
  n_ctx_ = std::min(n_ctx_, bridge_.end_position());
  return OkStatus();
}

Status Model::AddAdapters() {
  RKV_RETURN_IF_ERROR(AddLoras(options_.loras, model_.get(), context_.get()));
  return AddControlVectors(options_.control_vectors, options_.control_vector_first_layer,
                           options_.control_vector_last_layer, model_.get(), context_.get());
}

Status Model::LoadVision() {
  n_vision_layers_ = BlockCount(options_.mmproj, "clip.vision.block_count");
  n_audio_layers_ = BlockCount(options_.mmproj, "clip.audio.block_count");
  mtmd_context_params params = mtmd_context_params_default();
  params.cb_eval = &OnEncoderNode;
  params.cb_eval_user_data = &encoder_state_;
  params.use_gpu = options_.n_gpu_layers != 0;
  params.n_threads = llama_n_threads(context_.get());
  params.print_timings = false;
  params.warmup = false;
  params.image_min_tokens = options_.image_min_tokens;
  params.image_max_tokens = options_.image_max_tokens.value_or(-1);
  RKV_RETURN_IF_ERROR(CheckProjectorFile(options_.mmproj, params));
  const LlamaErrorLog log;
  vision_.reset(LoadOrNull(
      [&] { return mtmd_init_from_file(options_.mmproj.c_str(), model_.get(), params); }));
  if (vision_ == nullptr) {
    return BadFile(fmt::format("cannot use mmproj '{}' with model '{}'{}", options_.mmproj,
                               options_.model, log.Reason()));
  }
  return OkStatus();
}

bool HasGpuDevice() {
  InitBackends();
  return ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_GPU) != nullptr ||
         ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_IGPU) != nullptr;
}

bool UsesMrope(const llama_model* model) {
  const llama_rope_type type = llama_model_rope_type(model);
  return type == LLAMA_ROPE_TYPE_MROPE || type == LLAMA_ROPE_TYPE_IMROPE;
}

std::string LlamaCppVersion() { return llama_version(); }

static_assert(std::is_same_v<Token, llama_token> && kNoToken == LLAMA_TOKEN_NULL);
static_assert(std::is_same_v<Position, llama_pos> && std::is_same_v<SequenceId, llama_seq_id>);

const llama_vocab* Model::vocab() const { return llama_model_get_vocab(model_.get()); }
int Model::n_ctx_train() const { return llama_model_n_ctx_train(model_.get()); }
int Model::n_vocab() const { return llama_vocab_n_tokens(vocab()); }
size_t Model::n_embd_input() const {
  return static_cast<size_t>(llama_model_n_embd_inp(model_.get()));
}
bool Model::takes_pictures() const {
  return vision_ != nullptr && mtmd_support_vision(vision_.get());
}
bool Model::takes_audio() const { return vision_ != nullptr && mtmd_support_audio(vision_.get()); }

std::span<const float> Model::Logits(size_t row) const {
  return {llama_get_logits_ith(context_.get(), static_cast<int32_t>(row)),
          static_cast<size_t>(n_vocab())};
}

bool Model::EndsAnswer(Token token) const { return llama_vocab_is_eog(vocab(), token); }

std::string Model::Description() const { return DescribeModel(model_.get(), options_.model); }

Token Model::EndOfAnswer() const {
  const Token end = llama_vocab_eos(vocab());
  return end != kNoToken ? end : llama_vocab_eot(vocab());
}

std::string Model::TokenText(Token token, bool special) const {
  std::string text(64, '\0');
  int32_t n = llama_token_to_piece(vocab(), token, text.data(), static_cast<int32_t>(text.size()),
                                   0, special);
  if (n < 0) {
    text.resize(static_cast<size_t>(-n));
    n = llama_token_to_piece(vocab(), token, text.data(), static_cast<int32_t>(text.size()), 0,
                             special);
  }
  text.resize(static_cast<size_t>(std::max(n, 0)));
  return text;
}

}  // namespace rkv
