// Connects the thread of a request with the scheduler's: the events of one answer, and the reason
// why it has not started.
#ifndef RETENTIVEKV_APPS_RKV_SERVE_TICKET_H_
#define RETENTIVEKV_APPS_RKV_SERVE_TICKET_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "serve/api.h"

namespace rkv::app {

// The error for a request that the client may repeat later: 503.
ApiError Unavailable(const std::string& message);

// True once no client waits for the answer; called while the answer is prepared.
using GoneFunction = std::function<bool()>;

// The current work of the scheduler, as waiting clients are told. Their threads read it themselves,
// since a step can take longer than they may wait.
class WorkInProgress {
 public:
  void Set(size_t n_running, bool all_slots_taken);
  void BeginStep();
  // The slow part of a step, as the engine reports it: "encoding pictures".
  void Report(std::string_view what);
  void EndStep();
  // The reason why a request that came at `since` still waits, as a part of a sentence.
  std::string Describe(std::chrono::steady_clock::time_point since) const;

 private:
  mutable std::mutex mutex_;
  size_t n_running_ = 0;
  bool all_slots_taken_ = false;
  std::optional<std::chrono::steady_clock::time_point> step_begin_;
  std::string report_;  // of the current step
};

// The channel between the thread of a request and the scheduler.
class Ticket {
 public:
  struct Admitted {};  // the answer will be computed
  using Event = std::variant<Admitted, AnswerPiece, AnswerSummary, ApiError>;

  // A request that is not admitted after `max_wait` is refused, with the reason from `work`.
  Ticket(std::chrono::milliseconds max_wait, std::shared_ptr<const WorkInProgress> work)
      : begin_(std::chrono::steady_clock::now()), max_wait_(max_wait), work_(std::move(work)) {}

  // The next event; nothing after a timeout. AnswerSummary and ApiError are final.
  std::optional<Event> Next(std::chrono::milliseconds timeout);
  // No client waits for the answer any more. From any thread.
  void Cancel() { cancelled_ = true; }

  void Push(Event event);
  // False if the request was already refused. Once true, it cannot be refused any more.
  bool Admit();
  const std::atomic<bool>& cancelled() const { return cancelled_; }
  bool refused();

 private:
  enum class State { kWaiting, kAdmitted, kRefused };

  const std::chrono::steady_clock::time_point begin_;
  const std::chrono::milliseconds max_wait_;
  const std::shared_ptr<const WorkInProgress> work_;
  std::atomic<bool> cancelled_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Event> events_;
  State state_ = State::kWaiting;
};

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_SERVE_TICKET_H_
