// Running what recurses as deep as its input is long.
#ifndef RETENTIVEKV_BASE_DEEP_STACK_H_
#define RETENTIVEKV_BASE_DEEP_STACK_H_

#include <cstddef>
#include <functional>

#include "retentivekv/status.h"

namespace rkv {

// Runs `work` on a thread of its own with a stack of `stack_bytes`, and waits for it. KvCache is
// taken only as far as the stack is used. What `work` throws is thrown here. kResourceExhausted if
// there is no room for such a stack; `work` has not run then.
Status RunOnStackOf(size_t stack_bytes, const std::function<void()>& work);

}  // namespace rkv

#endif  // RETENTIVEKV_BASE_DEEP_STACK_H_
