// llama.cpp and ggml end the process on a failed check. A file from elsewhere must not do that.
#ifndef RETENTIVEKV_LLAMA_ABORT_GUARD_H_
#define RETENTIVEKV_LLAMA_ABORT_GUARD_H_

#include <stdexcept>

namespace rkv {

// The message is the failed condition.
class LlamaAbort : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// During its life, an abort on the thread that made it throws a LlamaAbort instead. Do not use it
// during computation: the other threads of a pool would wait forever for the throwing thread.
class LlamaAbortGuard {
 public:
  LlamaAbortGuard();
  ~LlamaAbortGuard();
  LlamaAbortGuard(const LlamaAbortGuard&) = delete;
  LlamaAbortGuard& operator=(const LlamaAbortGuard&) = delete;
};

// Calls `load`, which calls a loading function of llama.cpp, and returns its result; null if that
// would end the process. Those functions catch the exception, log its message and return null, as
// for any other bad file.
template <typename Load>
auto LoadOrNull(const Load& load) -> decltype(load()) {
  const LlamaAbortGuard guard;
  try {
    return load();
  } catch (const LlamaAbort&) {
    return nullptr;
  }
}

}  // namespace rkv

#endif  // RETENTIVEKV_LLAMA_ABORT_GUARD_H_
