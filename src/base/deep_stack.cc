#include "base/deep_stack.h"

#include <fmt/format.h>
#include <pthread.h>

#include <exception>

namespace rkv {

namespace {

struct Work {
  const std::function<void()>& run;
  std::exception_ptr error;
};

void* Run(void* argument) {
  auto& work = *static_cast<Work*>(argument);
  try {
    work.run();
  } catch (...) {
    work.error = std::current_exception();
  }
  return nullptr;
}

}  // namespace

Status RunOnStackOf(size_t stack_bytes, const std::function<void()>& work) {
  Work state{.run = work, .error = nullptr};
  pthread_attr_t attributes;
  ::pthread_attr_init(&attributes);
  pthread_t thread{};
  const bool started = ::pthread_attr_setstacksize(&attributes, stack_bytes) == 0 &&
                       ::pthread_create(&thread, &attributes, Run, &state) == 0;
  ::pthread_attr_destroy(&attributes);
  if (!started) {
    return ResourceExhausted(
        fmt::format("there is no room for a stack of {} MiB", stack_bytes >> 20));
  }
  ::pthread_join(thread, nullptr);
  if (state.error) std::rethrow_exception(state.error);
  return OkStatus();
}

}  // namespace rkv
