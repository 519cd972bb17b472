// Attaches our cache to a stock llama_context. Before an attention node of its compute graph runs,
// the bridge rewrites it into a custom operation that reads our KvCache. llama.cpp's own KV cache
// only ever holds the current ubatch. docs/decisions/001 gives the reasons and the method.
#ifndef RETENTIVEKV_LLAMA_BRIDGE_H_
#define RETENTIVEKV_LLAMA_BRIDGE_H_

#include <array>
#include <atomic>
#include <functional>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "cache/ubatch_attention.h"
#include "llama/logit_lens.h"
#include "llama/token.h"
#include "retentivekv/kv_cache.h"
#include "retentivekv/status.h"

struct ggml_tensor;
struct llama_batch;
struct llama_context;
struct llama_context_params;

namespace rkv {

// One token (or embedding) of a ubatch.
struct UbatchToken {
  size_t cache = 0;  // index into Ubatch::caches
  Token token = 0;   // unused for embeddings
  // M-RoPE embeddings use all four components (t, row, column, 0); everything else uses the first.
  std::array<Position, 4> position = {};
  bool output = false;  // compute logits
  // The token of a prompt that follows it, if it is known and not the next one in this ubatch.
  Token next = kNoToken;
};

// The input of one llama_decode. The tokens of a KvCache are in their order in the conversation;
// tokens of different KvCaches may be mixed.
struct Ubatch {
  struct Member {
    KvCache* cache = nullptr;
    bool prompt_follows = false;  // AppendInfo::prompt_follows
  };
  std::vector<Member> caches;
  // llama.cpp's sequence of each KvCache, for its state by sequence; empty: 0, 1, 2, ...
  std::vector<SequenceId> seq_ids;
  // Pictures and clips that begin in this ubatch: the index of the KvCache, and the span.
  std::vector<std::pair<size_t, MediaSpan>> media;
  std::vector<UbatchToken> tokens;
  std::vector<float> embeddings;  // [tokens, n_embd] instead of token ids, if not empty
  size_t n_position = 1;          // position components of embeddings: 1 or 4
  bool causal = true;             // false: all tokens of a KvCache see each other

  void Clear();
};

// Observes a step while it is computed, on the calling thread.
struct StepWatch {
  std::function<bool()> stop;                    // true: cancel the step
  std::function<void(double done)> on_progress;  // 0 to 1, some hundred calls
};

// Replaces the attention of one work item, for tests that compare with a reference.
using AttendFunction = void (*)(const Segment&, size_t layer, size_t kv_head, size_t first_token,
                                size_t n_tokens, const UbatchTensors&, AttentionScratch&);

// Outside of Decode() the context behaves as stock llama.cpp's, with its small KV cache. Not
// thread-safe; one Decode() at a time. Must outlive its llama_context.
class Bridge {
 public:
  Bridge();
  ~Bridge();
  Bridge(const Bridge&) = delete;
  Bridge& operator=(const Bridge&) = delete;

  // Sets the parameters that the bridge needs: the callback, flash attention, attention on the CPU,
  // and a KV cache of one ubatch. Keeps n_ubatch, threads, RoPE and the rest.
  void Prepare(llama_context_params& params);

  // Runs one token through the untouched graph to learn the shape of every attention layer.
  // kUnsupported, with the reason, for a graph that the bridge cannot serve.
  Result<CacheShape> Probe(llama_context* ctx);

  // Positions must be below this limit, which learned positions impose. Known after Probe().
  Position end_position() const { return end_position_; }

  // Decodes a ubatch; logits are then in the context, as after llama_decode. An error adds nothing
  // to any KvCache. REQUIRES: Probe() succeeded; all KvCaches have its shape; 1 to n_ubatch tokens.
  // `watch` may be null. It observes the step; kCancelled means that it stopped the step.
  Status Decode(llama_context* ctx, const Ubatch& ubatch, const StepWatch* watch = nullptr);

  void set_attend_for_test(AttendFunction attend) { attend_ = attend; }

 private:
  class GraphProbe;
  // The data of one layer's custom operation; its address is the node's userdata.
  struct LayerHook {
    Bridge* bridge = nullptr;
    size_t layer = 0;
    float scale = 1.0f;
    float softcap = 0.0f;
    std::array<int32_t, 16> flash_params = {};  // op_params of the node before it was rewritten
    std::atomic<size_t> next_item{0};           // work items are handed out dynamically
    const ggml_tensor* residual = nullptr;      // LogitLens::ResidualOf(); of the last layer only
    bool rewritten = false;                     // in the current decode
  };

  // A token whose successor in the prompt is known, and the surprisal of that.
  struct Foresight {
    size_t segment = 0;
    size_t place = 0;  // of the successor, counted from the first token of the segment
    size_t row = 0;    // of the token
    Token next = 0;
    float surprisal = std::numeric_limits<float>::quiet_NaN();  // until it is known
  };

  static bool OnNode(ggml_tensor* node, bool ask, void* self);
  static void ComputeAttention(ggml_tensor* node, int thread, int n_threads, void* hook);
  LayerHook* HookOf(const ggml_tensor* node);
  void RewriteNode(ggml_tensor* node);
  void RestoreNode(ggml_tensor* node);
  void AttendLayer(LayerHook& hook, const ggml_tensor* node, size_t thread);
  // Finds the tokens whose surprisal a policy wants.
  void ListForesights(const Ubatch& ubatch);
  void Foresee(const ggml_tensor* residual, size_t thread);
  static bool OnAbortCheck(void* self);
  Status BuildSegments(const Ubatch& ubatch);
  llama_batch FillBatch(const Ubatch& ubatch);

  AttendFunction attend_ = AttendSegment;
  std::unique_ptr<GraphProbe> probe_;  // while Probe() runs
  bool decoding_ = false;              // while Decode() runs
  const StepWatch* watch_ = nullptr;   // of the current decode
  size_t n_nodes_ = 0;                 // of the current decode's graph
  size_t n_computed_ = 0;              // of these, approximately
  CacheShape shape_;
  Position end_position_ = std::numeric_limits<Position>::max();
  std::vector<int> layer_of_cache_;                      // llama's layer index -> ours, or -1
  std::vector<std::unique_ptr<LayerHook>> hooks_;        // [layer]
  std::vector<Segment> segments_;                        // of the current decode
  std::vector<std::unique_ptr<UbatchBuffers>> buffers_;  // [segment], reused
  std::vector<KvCache::Append> appends_;                 // [segment], of the current decode
  size_t n_rows_ = 0;                                    // tokens of the current decode
  std::vector<AttentionScratch> scratch_;                // [thread]
  LogitLens lens_;
  std::vector<Foresight> foresights_;             // of the current decode
  std::atomic<size_t> next_foresight_{0};         // handed out dynamically
  std::vector<std::vector<float>> lens_scratch_;  // [thread]
  Status rewrite_error_;                          // of the current decode

  // The arrays behind llama_batch.
  std::vector<Token> tokens_;
  std::vector<Position> positions_;
  std::vector<int32_t> n_seq_id_;
  std::vector<SequenceId> seq_id_;
  std::vector<SequenceId*> seq_id_rows_;
  std::vector<int8_t> output_;
};

}  // namespace rkv

#endif  // RETENTIVEKV_LLAMA_BRIDGE_H_
