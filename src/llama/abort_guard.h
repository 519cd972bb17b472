// llama.cpp and ggml end the process where they find what they did not expect. A file that somebody
// else made must not.
#ifndef RETENTIVEKV_LLAMA_ABORT_GUARD_H_
#define RETENTIVEKV_LLAMA_ABORT_GUARD_H_

#include <stdexcept>

namespace rkv {

// The message is the condition that did not hold.
class LlamaAbort : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// During its life, what would end the process on the thread that made it throws a LlamaAbort
// instead. Not while anything is computed: the other threads of a pool would wait for the one that
// threw.
class LlamaAbortGuard {
 public:
  LlamaAbortGuard();
  ~LlamaAbortGuard();
  LlamaAbortGuard(const LlamaAbortGuard&) = delete;
  LlamaAbortGuard& operator=(const LlamaAbortGuard&) = delete;
};

// What `load` returns, which calls a function of llama.cpp that loads; null where that would end
// the process. Those functions catch what is thrown, log its message and return null, as for any
// other bad file.
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
