#include "llama/abort_guard.h"

#include <ggml.h>

#include <cstdio>
#include <mutex>
#include <string>
#include <string_view>

namespace rkv {

namespace {

std::mutex mutex;
size_t n_guards = 0;  // of all threads
ggml_abort_callback_t callback_before = nullptr;
thread_local size_t n_guards_here = 0;

// Exceptions can pass the C functions on the way, which are compiled for that.
void OnAbort(const char* message) {
  if (n_guards_here > 0) {
    // "FILE:LINE: CONDITION"
    std::string_view text = message;
    const size_t colon = text.find(": ");
    if (colon != std::string_view::npos) text.remove_prefix(colon + 2);
    throw LlamaAbort(std::string(text));
  }
  if (callback_before != nullptr) return callback_before(message);
  std::fprintf(stderr, "%s\n", message);
}

}  // namespace

LlamaAbortGuard::LlamaAbortGuard() {
  const std::lock_guard lock(mutex);
  if (n_guards++ == 0) callback_before = ggml_set_abort_callback(OnAbort);
  ++n_guards_here;
}

LlamaAbortGuard::~LlamaAbortGuard() {
  const std::lock_guard lock(mutex);
  --n_guards_here;
  if (--n_guards == 0) ggml_set_abort_callback(callback_before);
}

}  // namespace rkv
