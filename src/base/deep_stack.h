// Runs code that recurses as deep as its input is long.
#ifndef RETENTIVEKV_BASE_DEEP_STACK_H_
#define RETENTIVEKV_BASE_DEEP_STACK_H_

#include <cstddef>
#include <functional>

#include "retentivekv/status.h"

namespace rkv {

// Runs `work` on a thread of its own with a stack of `stack_bytes`, and waits for it. The system
// provides memory only for the used part of the stack. Exceptions of `work` are rethrown here.
// kResourceExhausted if there is no room for such a stack; then `work` has not run.
Status RunOnStackOf(size_t stack_bytes, const std::function<void()>& work);

}  // namespace rkv

#endif  // RETENTIVEKV_BASE_DEEP_STACK_H_
