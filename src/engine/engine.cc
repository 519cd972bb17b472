// The public Engine and AnswerBatch: they check options and arguments, then call the model,
// conversations and the answer loop.
#include "retentivekv/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "engine/answer_loop.h"
#include "engine/conversation_impl.h"
#include "llama/chat_template.h"
#include "llama/model.h"

namespace rkv {

class Engine::Impl {
 public:
  Impl(EngineOptions options, std::unique_ptr<Model> model, ChatTemplate chat_template)
      : options(std::move(options)),
        model(std::move(model)),
        chat_template(std::move(chat_template)) {}

  EngineOptions options;
  std::unique_ptr<Model> model;
  ChatTemplate chat_template;
};

namespace {

Status CheckOptions(const EngineOptions& options) {
  if (options.model.empty()) return InvalidArgument("no model was given");
  const auto check = [](const char* what, int value, int min, int max) {
    if (value >= min && value <= max) return OkStatus();
    return InvalidArgument(fmt::format("{} is {}; it must be {} to {}", what, value, min, max));
  };
  constexpr int kMaxInt = std::numeric_limits<int>::max();
  RKV_RETURN_IF_ERROR(check("the ubatch size", options.n_ubatch, 1, 65536));
  RKV_RETURN_IF_ERROR(check("the context size", options.n_ctx, 0, kMaxInt));
  RKV_RETURN_IF_ERROR(check("the number of threads", options.n_threads, 0, 512));
  RKV_RETURN_IF_ERROR(check("the number of threads for prompts", options.n_threads_batch, 0, 512));
  RKV_RETURN_IF_ERROR(check("the priority of threads", options.threads.priority, -1, 3));
  RKV_RETURN_IF_ERROR(check("the polling of threads", options.threads.poll, 0, 100));
  RKV_RETURN_IF_ERROR(check("the number of conversations", options.max_conversations, 1, 256));
  const int max_tokens = options.image_max_tokens.value_or(-1);
  // mtmd multiplies tokens by pixels in 32 bits.
  RKV_RETURN_IF_ERROR(
      check("the minimum number of tokens per picture", options.image_min_tokens, -1, 65536));
  RKV_RETURN_IF_ERROR(check("the maximum number of tokens per picture", max_tokens, -1, 65536));
  if (options.image_min_tokens == 0 || (max_tokens > 0 && options.image_min_tokens > max_tokens)) {
    return InvalidArgument("the limits of tokens per picture contradict each other");
  }
  return OkStatus();
}

}  // namespace

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Engine::~Engine() = default;

Result<std::unique_ptr<Engine>> Engine::Load(const EngineOptions& options,
                                             const ProgressFunction& progress) {
  RKV_RETURN_IF_ERROR(CheckOptions(options));
  LoadProgress load_progress;
  if (progress) load_progress = [&](double fraction) { progress("loading model", fraction); };
  RKV_ASSIGN_OR_RETURN(auto model, Model::Load(options, load_progress));
  RKV_ASSIGN_OR_RETURN(
      auto chat_template,
      ChatTemplate::Create(model->llama(), {.choice = options.chat_template,
                                            .kwargs = options.chat_template_kwargs,
                                            .enable_thinking = options.enable_thinking,
                                            .split_reasoning = options.split_reasoning}));
  return std::unique_ptr<Engine>(
      new Engine(std::make_unique<Impl>(options, std::move(model), std::move(chat_template))));
}

Result<std::unique_ptr<Conversation>> Engine::NewConversation(const CacheOptions& options,
                                                              std::string_view system_prompt) {
  RKV_ASSIGN_OR_RETURN(KvCache cache, KvCache::Create(impl_->model->shape(), options));
  auto conversation =
      std::make_unique<Conversation::Impl>(*impl_->model, impl_->chat_template, std::move(cache));
  if (!system_prompt.empty()) conversation->AddSystemPrompt(system_prompt);
  return std::unique_ptr<Conversation>(new Conversation(std::move(conversation)));
}

namespace {

Status CheckOwn(const Conversation& conversation, const Model& model) {
  if (&conversation.impl().model() == &model) return OkStatus();
  return InvalidArgument("the conversation belongs to another engine");
}

}  // namespace

Result<std::unique_ptr<Conversation>> Engine::CopyConversation(const Conversation& conversation) {
  RKV_RETURN_IF_ERROR(CheckOwn(conversation, *impl_->model));
  RKV_ASSIGN_OR_RETURN(auto copy, conversation.impl().Copy());
  return std::unique_ptr<Conversation>(new Conversation(std::move(copy)));
}

Result<std::unique_ptr<Conversation>> Engine::LoadConversation(const std::string& path) {
  RKV_ASSIGN_OR_RETURN(auto conversation,
                       Conversation::Impl::Load(*impl_->model, impl_->chat_template, path));
  return std::unique_ptr<Conversation>(new Conversation(std::move(conversation)));
}

class AnswerBatch::Impl {
 public:
  Impl(Model& model, size_t max_answers) : loop(model), max_answers(max_answers) {}

  AnswerLoop loop;
  size_t max_answers;
};

AnswerBatch::AnswerBatch(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
AnswerBatch::~AnswerBatch() { impl_->loop.Abort(); }
std::vector<AnswerRequest*> AnswerBatch::Step() { return impl_->loop.Step(); }
size_t AnswerBatch::size() const { return impl_->loop.size(); }

Status AnswerBatch::Begin(AnswerRequest& request) {
  if (request.conversation == nullptr) return InvalidArgument("there is no conversation (null)");
  RKV_RETURN_IF_ERROR(CheckOwn(*request.conversation, impl_->loop.model()));
  if (!request.conversation->impl().waiting()) {
    return InvalidArgument("there is no message to answer");
  }
  if (request.options.max_tokens == 0 || request.options.max_tokens < -1) {
    return InvalidArgument("max_tokens must be positive, or -1 for no limit");
  }
  if (impl_->loop.answers(*request.conversation)) {
    return InvalidArgument("the conversation is already being answered");
  }
  if (size() >= impl_->max_answers) {
    return ResourceExhausted(
        fmt::format("{} conversations are being answered, as many as the engine was loaded for",
                    impl_->max_answers));
  }
  return impl_->loop.Add(request);
}

std::unique_ptr<AnswerBatch> Engine::NewAnswerBatch() {
  return std::unique_ptr<AnswerBatch>(new AnswerBatch(std::make_unique<AnswerBatch::Impl>(
      *impl_->model, static_cast<size_t>(impl_->options.max_conversations))));
}

Status Engine::AnswerAll(std::span<AnswerRequest> requests) {
  if (requests.size() > static_cast<size_t>(impl_->options.max_conversations)) {
    return InvalidArgument(fmt::format("{} conversations at once, but the engine was loaded for {}",
                                       requests.size(), impl_->options.max_conversations));
  }
  const auto batch = NewAnswerBatch();
  for (AnswerRequest& request : requests) RKV_RETURN_IF_ERROR(batch->Begin(request));
  Status first_error;
  while (batch->size() > 0) {
    for (const AnswerRequest* done : batch->Step()) {
      if (first_error.ok()) first_error = done->status;
    }
  }
  return first_error;
}

Result<AnswerResult> Engine::Answer(Conversation& conversation, const AnswerOptions& options) {
  AnswerRequest request{.conversation = &conversation, .options = options};
  RKV_RETURN_IF_ERROR(AnswerAll({&request, 1}));
  return std::move(request.result);
}

Status Engine::CheckSampling(const SamplingOptions& options) const {
  return Sampler::Create(options, *impl_->model).status();
}

Result<std::vector<float>> Engine::ReadPrompt(Conversation& conversation) {
  RKV_RETURN_IF_ERROR(CheckOwn(conversation, *impl_->model));
  if (!conversation.impl().waiting()) return InvalidArgument("there is no prompt to read");
  AnswerRequest request{.conversation = &conversation, .options = {}};
  AnswerLoop loop(*impl_->model);
  RKV_RETURN_IF_ERROR(loop.Add(request));
  return loop.ReadPrompt();
}

Result<std::vector<int32_t>> Engine::Tokenize(std::string_view text) const {
  constexpr size_t kMaxTokens = size_t{1} << 20;
  return impl_->model->tokenizer().Tokenize(
      text, false, std::max(kMaxTokens, static_cast<size_t>(impl_->model->n_ctx())));
}
Result<std::string> Engine::Detokenize(std::span<const int32_t> tokens) const {
  const int n_vocab = impl_->model->n_vocab();
  std::string text;
  for (const int32_t token : tokens) {
    if (token < 0 || token >= n_vocab) {
      return InvalidArgument(
          fmt::format("token {} is not in the vocabulary of {} tokens", token, n_vocab));
    }
    text += impl_->model->TokenText(token, true);
  }
  return text;
}

const EngineOptions& Engine::options() const { return impl_->options; }
const CacheShape& Engine::shape() const { return impl_->model->shape(); }
int Engine::n_ctx() const { return impl_->model->n_ctx(); }
int Engine::n_ctx_train() const { return impl_->model->n_ctx_train(); }
std::string Engine::model_description() const { return impl_->model->Description(); }
bool Engine::takes_pictures() const { return impl_->model->takes_pictures(); }
bool Engine::takes_audio() const { return impl_->model->takes_audio(); }

std::string LlamaVersion() { return LlamaCppVersion(); }
bool HasGpu() { return HasGpuDevice(); }

Status CheckFinite(const AnswerResult& answer) {
  if (answer.stop != StopReason::kNotFinite) return OkStatus();
  return Internal(
      "the model cannot go on from this text: its next-token logits are not numbers (NaN). Its "
      "weights are damaged, or some tokens of the text were never trained");
}

}  // namespace rkv
