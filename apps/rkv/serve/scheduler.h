// The thread that owns the engine. It answers requests together, keeps conversations for their next
// turn, and limits the bytes of all of them together.
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
  size_t max_waiting = 256;   // maximum of waiting requests, without those that have a free slot
  std::chrono::milliseconds max_wait = std::chrono::seconds(60);
  bool trace = false;  // record roots and shares for the memory view
};

// Counters since the start, and current memory.
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
  uint64_t kv_bytes_full = 0;  // of full caches with the same tokens
  uint64_t kv_state_bytes = 0;
  uint64_t kv_bytes_reserved = 0;  // including the future growth of running answers
  uint64_t kv_bytes_peak = 0;      // the maximum after any step
  uint64_t kv_bytes_limit = 0;
};

class Scheduler {
 public:
  // `store` may be null: idle conversations are then dropped to make room.
  Scheduler(std::unique_ptr<Engine> engine, std::unique_ptr<ParkStore> store,
            const SchedulerOptions& options);
  // Ends answers in progress with an error, and saves idle conversations to disk.
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // From any thread. First checks that the texts can fit into the context, which takes time for
  // long texts; `gone` cancels the check.
  std::shared_ptr<Ticket> Submit(GenerationRequest request, const GoneFunction& gone = {});
  SchedulerStats stats();
  nlohmann::json Slots();
  // All conversations that can be continued: id, state, tokens and bytes.
  nlohmann::json Conversations();
  // The report of `rkv inspect -o json` on one conversation in memory; nothing if it is not there.
  std::optional<nlohmann::json> Inspect(const std::string& conversation_id);
  // Runs on the calling thread, so that long texts do not delay answers. Tokenizes one text at a
  // time, since each takes memory. kInvalidArgument for texts of more than kMaxTokenizedBytes.
  Result<std::vector<int32_t>> Tokenize(const std::string& text, const GoneFunction& gone = {});
  Result<std::string> Detokenize(std::span<const int32_t> tokens) const;
  static constexpr size_t kMaxTokenizedBytes = size_t{4} << 20;

  // Constant after construction.
  const std::string& model_description() const { return model_description_; }
  const CacheShape& shape() const { return shape_; }
  int n_ctx() const { return n_ctx_; }
  int n_slots() const { return n_slots_; }
  bool takes_pictures() const { return takes_pictures_; }
  bool takes_audio() const { return takes_audio_; }

 private:
  using Clock = std::chrono::steady_clock;

  // A request and its state.
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
    std::optional<HeldConversation> held;  // set once its messages have been added
    size_t n_cached_tokens = 0;
    int max_tokens = 0;
    uint64_t reserved = 0;  // while it runs
    int slot = -1;

    AnswerStream stream;
    AnswerRequest answer;
    uint64_t absorbed_before = 0;
    uint64_t reactivations_before = 0;
  };

  // An error for texts that cannot fit into the context with any chat template.
  Status CheckLength(const GenerationRequest& request, const GoneFunction& gone) const;

  void Run();
  template <typename F>
  auto Call(F function);  // on the scheduler's thread

  void TakeInbox();
  void DropWaiting();
  void Admit();
  // An error, or true if the job has its conversation and its reservation, and runs.
  Result<bool> TryStart(Job& job);
  Result<bool> Prepare(Job& job);
  Result<bool> FindConversation(Job& job, size_t& n_known);
  Status ChooseMaxTokens(Job& job);
  Status Start(Job& job);
  void Step();
  void Finish(Job& job);
  void Reject(Job& job, ApiError error);
  void TakeBack(Job& job);

  // Makes room for `bytes` more than is committed. Parks idle conversations, the longest idle
  // first.
  bool MakeRoom(uint64_t bytes);
  uint64_t Committed() const;
  void Account();

  const SchedulerOptions options_;
  const std::shared_ptr<WorkInProgress> work_ = std::make_shared<WorkInProgress>();
  std::unique_ptr<Engine> engine_;
  ConversationCache conversations_;  // for the scheduler's thread only
  std::string model_description_;
  CacheShape shape_;
  int n_ctx_ = 0;
  int n_slots_ = 0;
  bool takes_pictures_ = false;
  bool takes_audio_ = false;

  // For the scheduler's thread only.
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
  std::atomic<uint64_t> n_refused_ = 0;  // requests that never entered inbox_
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
