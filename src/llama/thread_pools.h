// Thread pools of a context with the user's CPUs, priority and polling.
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

  // Gives the context pools with its numbers of threads. Does nothing with default options: ggml
  // then makes its own pools. kInvalidArgument for CPUs that this process cannot run on.
  Status Attach(const ThreadOptions& options, llama_context* context);

 private:
  ggml_threadpool* Make(const ThreadOptions& options, int n_threads, bool paused);

  ggml_threadpool* one_ = nullptr;   // for steps of one token
  ggml_threadpool* many_ = nullptr;  // for larger steps; null: the same pool
  void (*free_)(ggml_threadpool*) = nullptr;
};

// For the whole process; only the first call counts.
void InitNuma(Numa numa);

}  // namespace rkv

#endif  // RETENTIVEKV_LLAMA_THREAD_POOLS_H_
