// The state of a ticket: waiting, admitted or refused. Admission and refusal exclude each other.
#include "serve/ticket.h"

#include <fmt/format.h>

#include <algorithm>

namespace rkv::app {

namespace {

// By then a repeated request should find some progress.
constexpr int kRetryAfterSeconds = 5;

}  // namespace

ApiError Unavailable(const std::string& message) {
  return {.status = 503,
          .type = "unavailable_error",
          .message = message,
          .retry_after = kRetryAfterSeconds};
}

std::optional<Ticket::Event> Ticket::Next(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  auto end = std::chrono::steady_clock::now() + timeout;
  if (state_ == State::kWaiting) end = std::min(end, begin_ + max_wait_);
  changed_.wait_until(lock, end, [this] { return !events_.empty(); });
  if (!events_.empty()) {
    Event event = std::move(events_.front());
    events_.pop_front();
    return event;
  }
  if (state_ != State::kWaiting || std::chrono::steady_clock::now() < begin_ + max_wait_) {
    return std::nullopt;
  }
  state_ = State::kRefused;
  return Unavailable(
      fmt::format("the request was not started within {} s: {}; try again later",
                  std::chrono::duration_cast<std::chrono::seconds>(max_wait_).count(),
                  work_->Describe(begin_)));
}

bool Ticket::Admit() {
  const std::lock_guard lock(mutex_);
  if (state_ == State::kWaiting) state_ = State::kAdmitted;
  return state_ == State::kAdmitted;
}

bool Ticket::refused() {
  const std::lock_guard lock(mutex_);
  return state_ == State::kRefused;
}

void Ticket::Push(Event event) {
  {
    const std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
  }
  changed_.notify_one();
}

void WorkInProgress::Set(size_t n_running, bool all_slots_taken) {
  const std::lock_guard lock(mutex_);
  n_running_ = n_running;
  all_slots_taken_ = all_slots_taken;
}

void WorkInProgress::BeginStep() {
  const std::lock_guard lock(mutex_);
  step_begin_ = std::chrono::steady_clock::now();
  report_.clear();
}

void WorkInProgress::Report(std::string_view what) {
  const std::lock_guard lock(mutex_);
  report_ = what;
}

void WorkInProgress::EndStep() {
  const std::lock_guard lock(mutex_);
  step_begin_.reset();
}

std::string WorkInProgress::Describe(std::chrono::steady_clock::time_point since) const {
  const std::lock_guard lock(mutex_);
  const auto now = std::chrono::steady_clock::now();
  // A step that took most of the time is the reason, even if there are others.
  if (step_begin_.has_value() && now - *step_begin_ >= (now - since) / 2) {
    return "the server is busy " +
           (report_.empty() ? "reading the prompts of other requests" : report_);
  }
  if (all_slots_taken_) {
    return fmt::format("{} answers are being generated, the maximum (-np)", n_running_);
  }
  return fmt::format("no memory is left: {} conversations are being answered", n_running_);
}

}  // namespace rkv::app
