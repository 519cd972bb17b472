// The scheduler: an inbox for other threads, then admission, steps and memory on its own thread.
// Only that thread uses the engine.
#include "serve/scheduler.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "inspect/text.h"
#include "report.h"
#include "serve/digest.h"

namespace rkv::app {

namespace {

// The longest prefix of `text` with at most so many bytes and no incomplete character.
std::string_view Slice(std::string_view text, size_t max_bytes) {
  if (text.size() <= max_bytes) return text;
  size_t end = max_bytes;
  for (int back = 0; back < 3 && (text[end] & 0xC0) == 0x80; ++back) --end;
  return text.substr(0, end);
}

}  // namespace

// --- from other threads -------------------------------------------------------------------------

Scheduler::Scheduler(std::unique_ptr<Engine> engine, std::unique_ptr<ParkStore> store,
                     const SchedulerOptions& options)
    : options_(options),
      engine_(std::move(engine)),
      conversations_(std::move(store)),
      model_description_(engine_->model_description()),
      shape_(engine_->shape()),
      n_ctx_(engine_->n_ctx()),
      n_slots_(engine_->options().max_conversations),
      takes_pictures_(engine_->takes_pictures()),
      takes_audio_(engine_->takes_audio()),
      batch_(engine_->NewAnswerBatch()),
      thread_([this] { Run(); }) {}

Scheduler::~Scheduler() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

std::shared_ptr<Ticket> Scheduler::Submit(GenerationRequest request, const GoneFunction& gone) {
  auto ticket = std::make_shared<Ticket>(options_.max_wait, work_);
  if (const Status fits = CheckLength(request, gone); !fits.ok()) {
    ticket->Push(ToApiError(fits));
    return ticket;
  }
  std::vector<std::string> keys;
  if (request.is_chat()) {
    keys = PrefixKeys(ConversationScope(request, model_description_), request.messages);
  }
  auto job = std::make_unique<Job>(ticket, std::move(request), std::move(keys));
  {
    const std::lock_guard lock(mutex_);
    const size_t max_open = options_.max_waiting + static_cast<size_t>(n_slots_);
    if (n_open_ < max_open && !stopping_) {
      ++n_open_;
      inbox_.push_back(std::move(job));
    }
  }
  if (job != nullptr) {
    ++n_refused_;
    ticket->Push(Unavailable(
        fmt::format("{} requests are waiting, the maximum (--max-waiting); try again later",
                    options_.max_waiting)));
  }
  wake_.notify_one();
  return ticket;
}

// The engine checks this too. But it does so on the thread of all answers, and only after
// tokenizing everything.
Status Scheduler::CheckLength(const GenerationRequest& request, const GoneFunction& gone) const {
  constexpr size_t kSliceBytes = 16384;
  // Tokens that cutting a text may add, and tokens that a template may trim.
  constexpr size_t kSlack = 16;
  // Templates may leave out parts of an answer, such as reasoning.
  constexpr size_t kAnswerShare = 4;
  const auto n_ctx = static_cast<size_t>(n_ctx_);
  const Status too_long = ResourceExhausted(
      fmt::format("the texts of the request have more tokens than the context of {} positions; "
                  "shorten the prompt or raise --ctx-size",
                  n_ctx_));
  if (request.messages.size() >= n_ctx) return too_long;  // Each message has at least one token.
  // Adds up all texts, since many short ones may be too long together.
  size_t n_bytes = request.text.size();
  for (const Message& message : request.messages) {
    for (const Message::Part& part : message.parts) n_bytes += part.text.size();
  }
  if (n_bytes < n_ctx) return OkStatus();
  size_t n_tokens = 0;
  const auto count = [&](std::string_view text, size_t share) -> Status {
    while (!text.empty()) {
      if (gone != nullptr && gone()) return Cancelled("the client has gone");
      const std::string_view slice = Slice(text, kSliceBytes);
      const auto tokens = engine_->Tokenize(slice);
      if (!tokens.ok()) return tokens.status();
      const size_t n = tokens->size();
      n_tokens += (n - std::min(n, kSlack)) / share;
      if (n_tokens > n_ctx) return too_long;
      text.remove_prefix(slice.size());
    }
    return OkStatus();
  };
  RKV_RETURN_IF_ERROR(count(request.text, 1));
  for (const Message& message : request.messages) {
    for (const Message::Part& part : message.parts) {
      RKV_RETURN_IF_ERROR(count(part.text, message.role == "assistant" ? kAnswerShare : 1));
    }
  }
  return OkStatus();
}

Result<std::vector<int32_t>> Scheduler::Tokenize(const std::string& text,
                                                 const GoneFunction& gone) {
  if (text.size() > kMaxTokenizedBytes) {
    return InvalidArgument(
        fmt::format("the text is longer than {} MiB; send it in parts", kMaxTokenizedBytes >> 20));
  }
  std::unique_lock lock(tokenizing_, std::defer_lock);
  while (!lock.try_lock()) {
    if (gone != nullptr && gone()) return Cancelled("the client has gone");
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  // llama.cpp's vocabularies are constant, so this is safe while the scheduler uses the model.
  return engine_->Tokenize(text);
}

Result<std::string> Scheduler::Detokenize(std::span<const int32_t> tokens) const {
  return engine_->Detokenize(tokens);
}

// --- the scheduler's thread ---------------------------------------------------------------------

void Scheduler::Run() {
  while (true) {
    {
      std::unique_lock lock(mutex_);
      const auto something = [this] { return stopping_ || !inbox_.empty() || !calls_.empty(); };
      // Checks waiting requests again: clients may have gone, or their time may be over.
      constexpr auto kLookAgain = std::chrono::milliseconds(100);
      if (running_.empty() && waiting_.empty()) {
        wake_.wait(lock, something);
      } else if (running_.empty()) {
        wake_.wait_for(lock, kLookAgain, something);
      }
      if (stopping_) break;
    }
    TakeInbox();
    DropWaiting();
    Admit();
    work_->Set(running_.size(), batch_->size() >= static_cast<size_t>(n_slots_));
    if (!running_.empty()) Step();
  }
  TakeInbox();
  for (const auto& job : waiting_) Reject(*job, Unavailable("the server is shutting down"));
  batch_.reset();  // Takes back the turns in progress.
  for (const auto& job : running_) {
    TakeBack(*job);
    job->ticket->Push(Unavailable("the server is shutting down"));
  }
  running_.clear();
  waiting_.clear();
  conversations_.Clear();
}

void Scheduler::TakeInbox() {
  std::deque<std::function<void()>> calls;
  {
    const std::lock_guard lock(mutex_);
    for (auto& job : inbox_) waiting_.push_back(std::move(job));
    inbox_.clear();
    calls.swap(calls_);
  }
  for (const auto& call : calls) call();
}

void Scheduler::DropWaiting() {
  std::erase_if(waiting_, [&](const std::unique_ptr<Job>& job) {
    const bool refused = job->ticket->refused();  // The client already knows.
    if (!refused && !job->ticket->cancelled()) return false;
    --n_open_;
    ++(refused ? stats_.requests_refused : stats_.requests_cancelled);
    Reject(*job, Unavailable("nobody waits for the answer"));
    return true;
  });
}

void Scheduler::Admit() {
  // In order of arrival: small requests must not delay a large one forever.
  while (!waiting_.empty() && batch_->size() < static_cast<size_t>(n_slots_)) {
    Job& job = *waiting_.front();
    const Result<bool> started = TryStart(job);
    if (started.ok() && !*started) return;
    if (started.ok()) {
      running_.push_back(std::move(waiting_.front()));
    } else {
      --n_open_;
      Reject(job, ToApiError(started.status()));
    }
    waiting_.pop_front();
  }
}

Result<bool> Scheduler::TryStart(Job& job) {
  if (!job.held.has_value()) {
    RKV_ASSIGN_OR_RETURN(const bool prepared, Prepare(job));
    if (!prepared) return false;
  }
  RKV_RETURN_IF_ERROR(ChooseMaxTokens(job));
  const uint64_t need = job.held->conversation->max_held_bytes(static_cast<size_t>(job.max_tokens));
  const uint64_t has = job.held->bytes();
  if (!MakeRoom(need - std::min(need, has))) return false;
  job.reserved = need;
  RKV_RETURN_IF_ERROR(Start(job));
  return true;
}

// Gives the job the conversation that its messages continue, if it exists. `n_known`: the number of
// messages in it.
Result<bool> Scheduler::FindConversation(Job& job, size_t& n_known) {
  n_known = 0;
  const std::vector<Message>& messages = job.request.messages;
  for (size_t i = messages.size(); i-- > 1 && n_known == 0;) {
    if (messages[i - 1].role == "assistant") n_known = i;
  }
  if (n_known == 0) return true;
  const std::string& key = job.keys[n_known - 1];
  job.held = conversations_.Take(key);
  if (job.held.has_value()) return true;
  const auto parked = conversations_.FindParked(key);
  // Skips an entry that exceeds the limit, possibly by a false name. Its messages are read again as
  // far as they fit.
  const bool fits = parked.has_value() &&
                    (options_.memory_bytes == 0 || parked->held_bytes <= options_.memory_bytes);
  if (fits) {
    if (!MakeRoom(parked->held_bytes)) return false;
    job.held = conversations_.Restore(*engine_, *parked);
    if (job.held.has_value()) return true;
    // The request has all messages, so they can be read again.
  }
  n_known = 0;
  return true;
}

Result<bool> Scheduler::Prepare(Job& job) {
  size_t n_known = 0;
  RKV_ASSIGN_OR_RETURN(const bool ready, FindConversation(job, n_known));
  if (!ready) return false;
  if (!job.held.has_value()) {
    RKV_ASSIGN_OR_RETURN(auto conversation, engine_->NewConversation(job.request.cache));
    if (!MakeRoom(conversation->stats().held_bytes)) return false;
    job.held = HeldConversation{.conversation = std::move(conversation),
                                .id = RandomHex(16),
                                .key = {},
                                .saved = false,
                                .last_used = Clock::now()};
  }
  if (options_.trace || job.request.trace) job.held->conversation->StartTracing();
  const CacheStats before = job.held->conversation->stats();
  job.n_cached_tokens = before.tokens_seen;
  job.absorbed_before = before.tokens_absorbed;
  job.reactivations_before = before.reactivations;
  Conversation& conversation = *job.held->conversation;
  const auto messages = std::span<const Message>(job.request.messages).subspan(n_known);
  const Status added = job.request.is_chat() ? conversation.AddMessages(messages)
                                             : conversation.AddText(job.request.text);
  if (!added.ok()) {
    // Nothing was added, so there is nothing to take back.
    HeldConversation held = *std::exchange(job.held, std::nullopt);
    if (!held.key.empty()) conversations_.Keep(std::move(held));
    return added;
  }
  for (Message& message : job.request.messages) message.parts.clear();  // Pictures are large.
  return true;
}

Status Scheduler::ChooseMaxTokens(Job& job) {
  const Conversation& conversation = *job.held->conversation;
  const uint64_t limit = options_.memory_bytes;
  const auto fits = [&](int n) {
    return limit == 0 || conversation.max_held_bytes(static_cast<size_t>(n)) <= limit;
  };
  // The engine stops at the end of the context, so nothing beyond is reserved.
  const int left = std::max(1, static_cast<int>(conversation.max_answer_tokens()));
  job.max_tokens = std::min(job.request.max_tokens.value_or(left), left);
  if (fits(job.max_tokens)) return OkStatus();
  if (!fits(1) || job.request.max_tokens.has_value()) {
    return InvalidArgument(
        fmt::format("the answer may need {} of cache, and the server has {} (--memory); lower "
                    "max_tokens, shorten the prompt or ask for a smaller budget",
                    FormatBytes(conversation.max_held_bytes(static_cast<size_t>(job.max_tokens))),
                    FormatBytes(limit)));
  }
  int low = 1;
  for (int high = job.max_tokens; high - low > 1;) {
    const int middle = low + (high - low) / 2;
    (fits(middle) ? low : high) = middle;
  }
  job.max_tokens = low;
  return OkStatus();
}

Status Scheduler::Start(Job& job) {
  AnswerOptions options;
  options.max_tokens = job.max_tokens;
  options.sampling = job.request.sampling;
  options.cancel = &job.ticket->cancelled();
  options.on_progress = [this](std::string_view what, double) { work_->Report(what); };
  options.on_text = [&job](std::string_view piece) { return job.stream.OnText(piece); };
  options.on_reasoning = [&job](std::string_view piece) {
    job.stream.OnReasoning(piece);
    return true;
  };
  if (job.request.top_logprobs.has_value()) {
    options.on_token = [this, &job](int32_t token, std::span<const float> logits) {
      job.stream.OnToken(*engine_, token, logits, static_cast<size_t>(*job.request.top_logprobs));
    };
  }
  job.answer = {.conversation = job.held->conversation.get(), .options = std::move(options)};
  if (!job.ticket->Admit()) {
    ++stats_.requests_refused;
    return Cancelled("nobody waits for the answer");
  }
  RKV_RETURN_IF_ERROR(batch_->Begin(job.answer));
  for (job.slot = 0;
       std::ranges::any_of(running_, [&](const auto& other) { return other->slot == job.slot; });) {
    ++job.slot;
  }
  if (job.n_cached_tokens > 0) ++stats_.conversations_continued;
  ++stats_.requests;
  job.ticket->Push(Ticket::Admitted{});
  return OkStatus();
}

void Scheduler::Step() {
  work_->BeginStep();
  const std::vector<AnswerRequest*> done = batch_->Step();
  work_->EndStep();
  ++stats_.steps;
  Account();
  for (const AnswerRequest* answer : done) {
    const auto found = std::ranges::find_if(
        running_, [answer](const auto& job) { return &job->answer == answer; });
    --n_open_;  // Before its client is told.
    Finish(**found);
    running_.erase(found);
  }
}

void Scheduler::Account() {
  uint64_t held = conversations_.idle_bytes();
  for (const auto& job : running_) held += job->held->bytes();
  for (const auto& job : waiting_) held += job->held.has_value() ? job->held->bytes() : 0;
  stats_.kv_bytes_peak = std::max(stats_.kv_bytes_peak, held);
}

void Scheduler::Finish(Job& job) {
  const AnswerResult& result = job.answer.result;
  const Status status = job.answer.status.ok() ? CheckFinite(result) : job.answer.status;
  if (!status.ok()) {
    // The engine has already taken the turn back.
    HeldConversation held = *std::exchange(job.held, std::nullopt);
    if (!held.key.empty()) conversations_.Keep(std::move(held));
    job.ticket->Push(ToApiError(status));
    return;
  }
  const bool stopped = job.stream.stopped();
  if (result.stop == StopReason::kCancelled && !stopped) {
    ++stats_.requests_cancelled;
    TakeBack(job);
    return;
  }
  job.stream.Finish();
  const CacheStats stats = job.held->conversation->stats();
  stats_.prompt_tokens += result.n_prompt_tokens;
  stats_.cached_tokens += job.n_cached_tokens;
  stats_.prompt_seconds += result.prompt_seconds;
  stats_.predicted_tokens += result.n_generated;
  stats_.predicted_seconds += result.decode_seconds;
  stats_.tokens_absorbed +=
      stats.tokens_absorbed - std::min(stats.tokens_absorbed, job.absorbed_before);
  stats_.reactivations +=
      stats.reactivations - std::min(stats.reactivations, job.reactivations_before);
  const bool length = !stopped && (result.stop == StopReason::kMaxTokens ||
                                   result.stop == StopReason::kContextFull);
  AnswerSummary summary{.finish_reason = length ? "length" : "stop",
                        .result = result,
                        .n_cached_tokens = job.n_cached_tokens,
                        .kv = CacheJson(*job.held->conversation),
                        .conversation_id = job.held->id};
  HeldConversation held = *std::exchange(job.held, std::nullopt);
  if (job.request.is_chat()) {
    const std::string old_key = held.key;
    Message said{.role = "assistant", .parts = {{.text = job.stream.text(), .media = {}}}};
    held.key = NextKey(job.keys.back(), said);
    held.saved = false;
    held.last_used = Clock::now();
    conversations_.Save(held, old_key);
    conversations_.Keep(std::move(held));
  }
  // After Keep(), since a client may continue as soon as it has its answer.
  job.ticket->Push(std::move(summary));
}

void Scheduler::Reject(Job& job, ApiError error) {
  if (job.held.has_value()) TakeBack(job);
  job.ticket->Push(std::move(error));
}

// Restores the conversation before the request, and drops one that began with the request.
void Scheduler::TakeBack(Job& job) {
  HeldConversation held = *std::exchange(job.held, std::nullopt);
  if (held.key.empty()) return;
  // The engine itself takes back turns without an answer.
  const bool answered_or_waiting = held.conversation->stats().tokens_seen > job.n_cached_tokens ||
                                   held.conversation->n_waiting_tokens() > 0;
  if (answered_or_waiting) (void)held.conversation->Undo();
  conversations_.Keep(std::move(held));
}

// --- memory -------------------------------------------------------------------------------------

uint64_t Scheduler::Committed() const {
  uint64_t bytes = conversations_.idle_bytes();
  for (const auto& job : running_) bytes += std::max(job->reserved, job->held->bytes());
  for (const auto& job : waiting_) {
    if (job != nullptr && job->held.has_value()) bytes += job->held->bytes();
  }
  return bytes;
}

bool Scheduler::MakeRoom(uint64_t bytes) {
  if (options_.memory_bytes == 0) return true;
  while (Committed() + bytes > options_.memory_bytes) {
    if (conversations_.idle().empty()) return false;
    conversations_.ParkOldest();
  }
  return true;
}

}  // namespace rkv::app
