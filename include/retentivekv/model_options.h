// How a model is loaded and run: adapters, positions, threads, memory.
#ifndef RETENTIVEKV_MODEL_OPTIONS_H_
#define RETENTIVEKV_MODEL_OPTIONS_H_

#include <string>
#include <vector>

namespace rkv {

// A GGUF file that is added to the model's weights or activations, times `scale`.
struct Adapter {
  std::string path = {};
  float scale = 1.0f;
};

// Rotation of positions, as llama.cpp's --rope-* and --yarn-*. The defaults leave it to the model.
struct RopeOptions {
  std::string scaling = {};  // "none", "linear" or "yarn"
  float freq_base = 0.0f;
  float freq_scale = 0.0f;  // 1/N: positions up to N times as far
  int yarn_orig_ctx = 0;    // context that the model was trained for
  float yarn_ext_factor = -1.0f;
  float yarn_attn_factor = -1.0f;
  float yarn_beta_slow = -1.0f;
  float yarn_beta_fast = -1.0f;

  bool operator==(const RopeOptions&) const = default;
};

// CPUs, priority and waiting of the threads of decoding. The encoder of pictures has its own
// threads.
struct ThreadOptions {
  std::vector<int> cpus = {};  // CPUs for the threads; empty: all
  bool strict = false;         // one CPU for each thread
  int priority = 0;  // -1 (low), 0 (normal) to 3 (real time), as far as the system permits
  int poll = 50;     // 0 (threads sleep while they wait for work) to 100

  bool operator==(const ThreadOptions&) const = default;
};

// The way of loading weights into memory, as llama.cpp's --load-mode.
enum class LoadMode { kAuto, kNone, kMmap, kMlock, kMmapMlock, kDirectIo };

// Applies to the whole process: the first engine that is loaded sets it.
enum class Numa { kNone, kDistribute, kIsolate, kNumactl };

}  // namespace rkv

#endif  // RETENTIVEKV_MODEL_OPTIONS_H_
