// What llama.cpp, ggml and mtmd log, so that our errors can say what they knew.
#ifndef RETENTIVEKV_LLAMA_LOG_H_
#define RETENTIVEKV_LLAMA_LOG_H_

#include <string>
#include <string_view>

namespace rkv {

// Sends their logs to spdlog's default logger: errors and warnings as debug messages (what the user
// needs of them is in our own errors), the rest as trace. Idempotent.
void CaptureLlamaLogs();

// Collects the errors that they log during its life, on any thread; the innermost one collects.
class LlamaErrorLog {
 public:
  LlamaErrorLog();
  ~LlamaErrorLog();
  LlamaErrorLog(const LlamaErrorLog&) = delete;
  LlamaErrorLog& operator=(const LlamaErrorLog&) = delete;

  // ": " and the first error, or nothing.
  std::string Reason() const;

 private:
  LlamaErrorLog* outer_;
};

}  // namespace rkv

#endif  // RETENTIVEKV_LLAMA_LOG_H_
