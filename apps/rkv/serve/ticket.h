// Between the thread of a request and the scheduler's: the events of one answer, and the reasons
// why it has not begun.
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

// For a request that may come again later: 503.
ApiError Unavailable(const std::string& message);

// Whether nobody waits for an answer any more, asked while it is prepared.
using GoneFunction = std::function<bool()>;

// What the scheduler does, as those that wait for it are told. A step can take longer than they may
// wait, so they read it themselves.
class WorkInProgress {
 public:
  void Set(size_t n_running, bool all_slots_taken);
  void BeginStep();
  // What takes long in a step, as the engine reports it: "encoding pictures".
  void Report(std::string_view what);
  void EndStep();
  // Why a request that came then still waits, as a part of a sentence.
  std::string Describe(std::chrono::steady_clock::time_point since) const;

 private:
  mutable std::mutex mutex_;
  size_t n_running_ = 0;
  bool all_slots_taken_ = false;
  std::optional<std::chrono::steady_clock::time_point> step_begin_;
  std::string report_;  // of this step
};

// What the thread of a request and the scheduler say to each other.
class Ticket {
 public:
  struct Admitted {};  // the answer is going to be computed
  using Event = std::variant<Admitted, AnswerPiece, AnswerSummary, ApiError>;

  // After `max_wait` without being admitted the request is refused, for the reason that `work` has.
  Ticket(std::chrono::milliseconds max_wait, std::shared_ptr<const WorkInProgress> work)
      : begin_(std::chrono::steady_clock::now()), max_wait_(max_wait), work_(std::move(work)) {}

  // The next event; nothing if none came in time. AnswerSummary and ApiError are the last ones.
  std::optional<Event> Next(std::chrono::milliseconds timeout);
  // Nobody waits for the answer any more. Any thread.
  void Cancel() { cancelled_ = true; }

  void Push(Event event);
  // False if the request was refused meanwhile. Once true it is not any more.
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
