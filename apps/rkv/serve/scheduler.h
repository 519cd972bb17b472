// The thread that owns the engine: it answers requests together, keeps conversations for their next
// turn, and all of their bytes within one limit.
#ifndef RETENTIVEKV_APPS_RKV_SERVE_SCHEDULER_H_
#define RETENTIVEKV_APPS_RKV_SERVE_SCHEDULER_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "retentivekv/engine.h"
#include "serve/answer_stream.h"
#include "serve/api.h"
#include "serve/conversation_cache.h"
#include "serve/park_store.h"
#include "serve/ticket.h"

namespace rkv::app {

struct SchedulerOptions {
  uint64_t memory_bytes = 0;  // all caches together; 0: no limit
  size_t max_waiting = 256;   // requests that may wait beside those for whom a slot is free
  std::chrono::milliseconds max_wait = std::chrono::seconds(60);
  bool trace = false;  // what the memory view needs: roots and shares
};

// Counters since the start, and what is held now.
struct SchedulerStats {
  uint64_t prompt_tokens = 0;
  uint64_t cached_tokens = 0;
  uint64_t predicted_tokens = 0;
  double prompt_seconds = 0;
  double predicted_seconds = 0;
  uint64_t steps = 0;
  uint64_t requests = 0;
  uint64_t requests_cancelled = 0;
  uint64_t requests_refused = 0;  // with 503
  uint64_t conversations_continued = 0;
  uint64_t conversations_parked = 0;
  uint64_t conversations_restored = 0;
  uint64_t conversations_dropped = 0;  // from memory, without a copy on disk
  uint64_t park_failures = 0;
  uint64_t tokens_absorbed = 0;
  uint64_t reactivations = 0;

  size_t running = 0;
  size_t waiting = 0;
  size_t idle = 0;
  uint64_t kv_bytes = 0;       // held now
  uint64_t kv_bytes_full = 0;  // what full caches would hold
  uint64_t kv_state_bytes = 0;
  uint64_t kv_bytes_reserved = 0;  // with what running answers may come to hold
  uint64_t kv_bytes_peak = 0;      // the most ever held after a step
  uint64_t kv_bytes_limit = 0;
};

class Scheduler {
 public:
  // `store` may be null: idle conversations that do not fit are forgotten then.
  Scheduler(std::unique_ptr<Engine> engine, std::unique_ptr<ParkStore> store,
            const SchedulerOptions& options);
  // Ends answers in progress with an error; idle conversations that are not on disk go there.
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // Any thread. Looks first whether the texts can fit into the context, which takes a while for
  // long ones; it stops when `gone`.
  std::shared_ptr<Ticket> Submit(GenerationRequest request, const GoneFunction& gone = {});
  SchedulerStats stats();
  nlohmann::json Slots();
  // Every conversation that can be continued: id, state, tokens and bytes.
  nlohmann::json Conversations();
  // What `rkv inspect -o json` tells, of one conversation in memory; nothing if it is not there.
  std::optional<nlohmann::json> Inspect(const std::string& conversation_id);
  // On the thread that asks, so that long texts hold nobody up; one text at a time, since each
  // takes memory. kInvalidArgument for texts of more than kMaxTokenizedBytes.
  Result<std::vector<int32_t>> Tokenize(const std::string& text, const GoneFunction& gone = {});
  Result<std::string> Detokenize(std::span<const int32_t> tokens) const;
  static constexpr size_t kMaxTokenizedBytes = size_t{4} << 20;

  // These do not change.
  const std::string& model_description() const { return model_description_; }
  const CacheShape& shape() const { return shape_; }
  int n_ctx() const { return n_ctx_; }
  int n_slots() const { return n_slots_; }
  bool takes_pictures() const { return takes_pictures_; }
  bool takes_audio() const { return takes_audio_; }

 private:
  using Clock = std::chrono::steady_clock;

  // A request on its way.
  struct Job {
    Job(std::shared_ptr<Ticket> its_ticket, GenerationRequest its_request,
        std::vector<std::string> its_keys)
        : ticket(std::move(its_ticket)),
          request(std::move(its_request)),
          keys(std::move(its_keys)),
          stream(ticket, request.stop) {}

    std::shared_ptr<Ticket> ticket;
    GenerationRequest request;
    std::vector<std::string> keys;         // of each prefix of the messages
    std::optional<HeldConversation> held;  // once its messages have been added
    size_t n_cached_tokens = 0;
    int max_tokens = 0;
    uint64_t reserved = 0;  // while it runs
    int slot = -1;

    AnswerStream stream;
    AnswerRequest answer;
    uint64_t absorbed_before = 0;
    uint64_t reactivations_before = 0;
  };

  // An error for texts that cannot fit into the context, whatever the chat template makes of them.
  Status CheckLength(const GenerationRequest& request, const GoneFunction& gone) const;

  void Run();
  template <typename F>
  auto Call(F function);  // on the scheduler's thread

  void TakeInbox();
  void DropWaiting();
  void Admit();
  // An error; or whether the job has its conversation, its reservation and runs.
  Result<bool> TryStart(Job& job);
  Result<bool> Prepare(Job& job);
  Result<bool> FindConversation(Job& job, size_t& n_known);
  Status ChooseMaxTokens(Job& job);
  Status Start(Job& job);
  void Step();
  void Finish(Job& job);
  void Reject(Job& job, ApiError error);
  void TakeBack(Job& job);

  // Makes `bytes` fit beside what is committed, parking idle conversations, the longest idle first.
  bool MakeRoom(uint64_t bytes);
  uint64_t Committed() const;
  void Account();

  const SchedulerOptions options_;
  const std::shared_ptr<WorkInProgress> work_ = std::make_shared<WorkInProgress>();
  std::unique_ptr<Engine> engine_;
  ConversationCache conversations_;  // the scheduler's thread only
  std::string model_description_;
  CacheShape shape_;
  int n_ctx_ = 0;
  int n_slots_ = 0;
  bool takes_pictures_ = false;
  bool takes_audio_ = false;

  // The scheduler's thread only.
  std::unique_ptr<AnswerBatch> batch_;
  std::deque<std::unique_ptr<Job>> waiting_;
  std::vector<std::unique_ptr<Job>> running_;
  SchedulerStats stats_;

  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;
  std::deque<std::unique_ptr<Job>> inbox_;
  std::deque<std::function<void()>> calls_;
  std::atomic<size_t> n_open_ = 0;       // in inbox_, waiting_ and running_
  std::atomic<uint64_t> n_refused_ = 0;  // which have not come into inbox_
  std::mutex tokenizing_;

  std::thread thread_;
};

template <typename F>
auto Scheduler::Call(F function) {
  std::packaged_task<decltype(function())()> task(std::move(function));
  auto result = task.get_future();
  {
    const std::lock_guard lock(mutex_);
    calls_.emplace_back([&task] { task(); });
  }
  wake_.notify_one();
  return result.get();
}

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_SERVE_SCHEDULER_H_
