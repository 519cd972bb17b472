// The logs of llama.cpp, ggml and mtmd, so that our errors can include their reasons.
#ifndef RETENTIVEKV_LLAMA_LOG_H_
#define RETENTIVEKV_LLAMA_LOG_H_

#include <string>
#include <string_view>

namespace rkv {

// Sends their logs to spdlog's default logger: errors and warnings as debug messages, since our own
// errors tell the user the rest; all others as trace. Idempotent.
void CaptureLlamaLogs();

// Collects their logged errors during its life, on any thread; the innermost object collects.
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
