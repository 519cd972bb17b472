// How a model is loaded and run: adapters, positions, threads, memory.
#ifndef RETENTIVEKV_MODEL_OPTIONS_H_
#define RETENTIVEKV_MODEL_OPTIONS_H_

#include <string>
#include <vector>

namespace rkv {

// A GGUF file that is added to the model's weights or activations, and how much of it.
struct Adapter {
  std::string path = {};
  float scale = 1.0f;
};

// How positions are rotated, as llama.cpp's --rope-* and --yarn-*; the defaults: as the model says.
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

// Where and how the threads of decoding run. The encoder of pictures has threads of its own.
struct ThreadOptions {
  std::vector<int> cpus = {};  // that they may run on; empty: all
  bool strict = false;         // one CPU for each thread
  int priority = 0;            // -1 (low), 0 (normal) to 3 (real time), as far as the system lets
  int poll = 50;               // 0 (threads sleep while they wait for work) to 100

  bool operator==(const ThreadOptions&) const = default;
};

// How weights come into memory, as llama.cpp's --load-mode.
enum class LoadMode { kAuto, kNone, kMmap, kMlock, kMmapMlock, kDirectIo };

// Of the whole process: the first engine that is loaded decides.
enum class Numa { kNone, kDistribute, kIsolate, kNumactl };

}  // namespace rkv

#endif  // RETENTIVEKV_MODEL_OPTIONS_H_
