#include "llama/thread_pools.h"

#include <fmt/format.h>
#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <llama.h>
#include <sched.h>

#include <algorithm>

namespace rkv {

namespace {

// Checked here, since ggml reports a failed pinning only on the standard error.
Status CheckCpus(const ThreadOptions& options) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (::sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return OkStatus();
  for (const int cpu : options.cpus) {
    if (cpu >= 0 && cpu < GGML_MAX_N_THREADS && CPU_ISSET(static_cast<size_t>(cpu), &allowed)) {
      continue;
    }
    std::string possible;
    for (int other = 0; other < CPU_SETSIZE; ++other) {
      if (!CPU_ISSET(static_cast<size_t>(other), &allowed)) continue;
      possible += fmt::format("{}{}", possible.empty() ? "" : ", ", other);
    }
    return InvalidArgument(fmt::format(
        "threads cannot run on CPU {}: this process may use the CPUs {}", cpu, possible));
  }
  return OkStatus();
}

template <typename Function>
Function* CpuFunction(const char* name) {
  const ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
  if (device == nullptr) return nullptr;
  return reinterpret_cast<Function*>(
      ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(device), name));
}

}  // namespace

ThreadPools::~ThreadPools() {
  if (free_ == nullptr) return;
  for (ggml_threadpool* const pool : {one_, many_}) {
    if (pool != nullptr) free_(pool);
  }
}

ggml_threadpool* ThreadPools::Make(const ThreadOptions& options, int n_threads, bool paused) {
  // Looked up at run time: backends may be in libraries that are loaded later.
  auto* const make = CpuFunction<decltype(ggml_threadpool_new)>("ggml_threadpool_new");
  free_ = CpuFunction<decltype(ggml_threadpool_free)>("ggml_threadpool_free");
  if (make == nullptr || free_ == nullptr) return nullptr;
  ggml_threadpool_params params = ggml_threadpool_params_default(n_threads);
  for (const int cpu : options.cpus) params.cpumask[cpu] = true;
  params.strict_cpu = options.strict;
  params.prio = static_cast<ggml_sched_priority>(options.priority);
  params.poll = static_cast<uint32_t>(options.poll);
  params.paused = paused;
  return make(&params);
}

Status ThreadPools::Attach(const ThreadOptions& options, llama_context* context) {
  if (options == ThreadOptions()) return OkStatus();
  RKV_RETURN_IF_ERROR(CheckCpus(options));
  const int n_one = llama_n_threads(context);
  const int n_many = llama_n_threads_batch(context);
  // A pool must have exactly as many threads as its step.
  if (n_many != n_one) many_ = Make(options, n_many, false);
  one_ = Make(options, n_one, n_many != n_one);
  if (one_ == nullptr || (n_many != n_one && many_ == nullptr)) {
    return Internal("cannot make the threads that --cpu-mask, --prio and the like ask for");
  }
  llama_attach_threadpool(context, one_, many_);
  return OkStatus();
}

void InitNuma(Numa numa) {
  if (numa == Numa::kNone) return;
  llama_numa_init(numa == Numa::kDistribute ? GGML_NUMA_STRATEGY_DISTRIBUTE
                  : numa == Numa::kIsolate  ? GGML_NUMA_STRATEGY_ISOLATE
                                            : GGML_NUMA_STRATEGY_NUMACTL);
}

}  // namespace rkv
