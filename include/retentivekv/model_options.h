// How a model is loaded and run: files, chat template, adapters, positions, threads, memory.
#ifndef RETENTIVEKV_MODEL_OPTIONS_H_
#define RETENTIVEKV_MODEL_OPTIONS_H_

#include <cstddef>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
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

struct EngineOptions {
  std::string model = {};   // GGUF file of the language model
  std::string mmproj = {};  // GGUF file of the vision or audio projector; empty: text only
  // One of: empty for the model's own template; Jinja text; the name of one of llama.cpp's
  // templates, such as "chatml"; or "none". With "none", texts are joined unchanged, and special
  // tokens in them are parsed.
  std::string chat_template = {};
  // Variables of the template: name, and value in JSON, e.g. {"enable_thinking", "false"}.
  std::map<std::string, std::string> chat_template_kwargs = {};
  bool enable_thinking = true;  // the variable of the template, for models with a choice
  // True: the template's marks separate reasoning from answers. False: answers include the
  // reasoning.
  bool split_reasoning = true;
  int n_ctx = 0;       // longest conversation in positions; 0: the model's training context
  int n_ubatch = 512;  // tokens per decoding step of a prompt
  int n_threads = 0;   // 0: all cores
  // Threads of steps of several tokens: prompts, and answers to several conversations. 0: as
  // n_threads.
  int n_threads_batch = 0;
  // Must be 0 on a machine with a GPU, because attention runs on the CPU. With rpc_servers, the
  // number of layers that they hold; 0: all.
  int n_gpu_layers = 0;
  int image_min_tokens =
      -1;  // visual tokens per picture, for models with a choice; -1: model's own
  // Maximum number of visual tokens per picture; larger pictures are scaled down. 0 or -1: the
  // model's own limit. Unset: 1280 if the model takes any resolution, or its own limit if that is
  // less.
  std::optional<int> image_max_tokens = {};
  int max_conversations = 1;  // maximum number answered at once
  // Bytes in which embeddings of pictures and clips are kept, keyed by file contents. The encoder
  // then runs once for each. 0: none are kept.
  size_t media_cache_bytes = 0;
  // "host:port" of llama.cpp's RPC servers, over which the layers are split. Attention, its output
  // projection and the cache stay here.
  std::vector<std::string> rpc_servers = {};
  // Gets a sentence for the user when an added message had to be changed, e.g. a picture was scaled
  // down. Runs on the thread that adds the message.
  std::function<void(std::string_view notice)> on_notice = {};
  ThreadOptions threads = {};
  Numa numa = Numa::kNone;
  LoadMode load_mode = LoadMode::kAuto;
  RopeOptions rope = {};
  std::vector<Adapter> loras = {};            // LoRA adapters
  std::vector<Adapter> control_vectors = {};  // of one direction per layer
  // First and last layer that control vectors act on, counted from 1, both included. 0: the model's
  // first or last layer.
  int control_vector_first_layer = 0;
  int control_vector_last_layer = 0;
  std::vector<std::string> overrides = {};  // of the model's metadata: "KEY=TYPE:VALUE"
};

}  // namespace rkv

#endif  // RETENTIVEKV_MODEL_OPTIONS_H_
