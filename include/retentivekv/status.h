// Errors as values. The library never throws across its public boundary, never
// calls exit() and never aborts on bad input: it returns a Status or a Result.
#ifndef RETENTIVEKV_STATUS_H_
#define RETENTIVEKV_STATUS_H_

#include <cassert>
#include <optional>
#include <string>
#include <utility>

namespace rkv {

enum class StatusCode {
  kOk = 0,
  // The caller's request is wrong in itself: an unknown policy, a negative budget, an image without
  // a vision model. `rkv` exits with 2.
  kInvalidArgument,
  // The request is sensible, but this model or build cannot do it (yet).
  kUnsupported,
  // A file is missing, unreadable, truncated, or of another kind than expected.
  kBadFile,
  // The machine ran out of something: disk space, memory, context length.
  kResourceExhausted,
  // The caller cancelled the operation.
  kCancelled,
  // Something failed below us, e.g. llama_decode returned an error.
  kInternal,
};

// Success, or a code with a message that a user can act on: the message names the fault, its place,
// and the alternatives. Cheap to move; not thread-safe.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {
    assert(code != StatusCode::kOk);
  }

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

inline Status OkStatus() { return Status(); }
inline Status InvalidArgument(std::string m) {
  return {StatusCode::kInvalidArgument, std::move(m)};
}
inline Status Unsupported(std::string m) { return {StatusCode::kUnsupported, std::move(m)}; }
inline Status BadFile(std::string m) { return {StatusCode::kBadFile, std::move(m)}; }
inline Status ResourceExhausted(std::string m) {
  return {StatusCode::kResourceExhausted, std::move(m)};
}
inline Status Cancelled(std::string m) { return {StatusCode::kCancelled, std::move(m)}; }
inline Status Internal(std::string m) { return {StatusCode::kInternal, std::move(m)}; }

// A value, or the Status that says why there is none.
// REQUIRES: ok() before value(), operator* or operator->.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}         // NOLINT(google-explicit-constructor)
  Result(Status status) : status_(std::move(status)) {  // NOLINT(google-explicit-constructor)
    assert(!status_.ok() && "a Result without a value needs an error");
  }

  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }

  T& value() & { return *value_; }
  const T& value() const& { return *value_; }
  T&& value() && { return *std::move(value_); }
  T& operator*() & { return *value_; }
  const T& operator*() const& { return *value_; }
  T&& operator*() && { return *std::move(value_); }
  T* operator->() { return &*value_; }
  const T* operator->() const { return &*value_; }

 private:
  std::optional<T> value_;
  Status status_;
};

}  // namespace rkv

// Returns early with the error of `expr` (a Status).
#define RKV_RETURN_IF_ERROR(expr)              \
  do {                                         \
    ::rkv::Status rkv_status_ = (expr);        \
    if (!rkv_status_.ok()) return rkv_status_; \
  } while (false)

// Declares `lhs` with the value of `expr` (a Result), or returns its error.
#define RKV_ASSIGN_OR_RETURN(lhs, expr) \
  RKV_ASSIGN_OR_RETURN_IMPL_(RKV_CONCAT_(rkv_result_, __LINE__), lhs, expr)
#define RKV_ASSIGN_OR_RETURN_IMPL_(tmp, lhs, expr) \
  auto tmp = (expr);                               \
  if (!tmp.ok()) return tmp.status();              \
  lhs = *std::move(tmp)
#define RKV_CONCAT_(a, b) RKV_CONCAT_IMPL_(a, b)
#define RKV_CONCAT_IMPL_(a, b) a##b

#endif  // RETENTIVEKV_STATUS_H_
