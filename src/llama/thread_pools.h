// Threads of a context that run where and how the user says.
#ifndef RETENTIVEKV_LLAMA_THREAD_POOLS_H_
#define RETENTIVEKV_LLAMA_THREAD_POOLS_H_

#include "retentivekv/model_options.h"
#include "retentivekv/status.h"

struct ggml_threadpool;
struct llama_context;

namespace rkv {

// Must outlive the context.
class ThreadPools {
 public:
  ThreadPools() = default;
  ~ThreadPools();
  ThreadPools(const ThreadPools&) = delete;
  ThreadPools& operator=(const ThreadPools&) = delete;

  // Gives the context pools of as many threads as it has. With default options, nothing is done:
  // ggml makes pools of its own. kInvalidArgument for CPUs that this process cannot run on.
  Status Attach(const ThreadOptions& options, llama_context* context);

 private:
  ggml_threadpool* Make(const ThreadOptions& options, int n_threads, bool paused);

  ggml_threadpool* one_ = nullptr;   // for steps of one token
  ggml_threadpool* many_ = nullptr;  // for others; null: the same
  void (*free_)(ggml_threadpool*) = nullptr;
};

// Of the process; only the first call counts.
void InitNuma(Numa numa);

}  // namespace rkv

#endif  // RETENTIVEKV_LLAMA_THREAD_POOLS_H_
