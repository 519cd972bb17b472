// The C interface of retentivekv.h: a KvCache per sequence, made when the sequence is first
// decoded.
#include <fmt/format.h>
#include <llama.h>

#include <algorithm>
#include <exception>
#include <map>
#include <optional>
#include <string>

#include "llama/bridge.h"
#include "llama/model.h"
#include "retentivekv/kv_cache.h"
#include "retentivekv/retentivekv.h"

struct rkv_cache {
  struct Sequence {
    rkv::KvCache cache;
    // The number of its first tokens whose position equals their index. Positions may be left out
    // while all tokens are among them.
    uint64_t n_counted = 0;
  };

  rkv::CacheOptions options;
  uint32_t n_ctx = 0;  // set by the user; 0: the model's training length
  rkv::Bridge bridge;
  std::optional<rkv::CacheShape> shape;  // known after the first decode
  llama_pos end_position = 0;            // positions must be below it; known with the shape
  std::map<llama_seq_id, Sequence> sequences;
  std::string last_error;
};

namespace rkv {
namespace {

thread_local std::string attach_error;

Status ParseOptions(const char* policy, const char* budget, CacheOptions& options) {
  if (policy != nullptr) {
    RKV_ASSIGN_OR_RETURN(options.policy, ParsePolicySpec(policy));
  }
  if (budget != nullptr) {
    RKV_ASSIGN_OR_RETURN(options.budget, ParseBudget(budget));
  }
  // A shape of no model checks the names and options now rather than at the first decode.
  CacheOptions unlimited = options;
  unlimited.policy = ChosenPolicy(options);
  unlimited.budget = {};
  return KvCache::Create({.layers = {{1, 1, 1, 1}}}, unlimited).status();
}

// One user batch with the fields that may be null filled in.
class BatchReader {
 public:
  BatchReader(const llama_batch& batch, const llama_model* model)
      : batch_(batch), n_(static_cast<size_t>(batch.n_tokens)) {
    if (batch.embd != nullptr) {
      width_ = static_cast<size_t>(llama_model_n_embd_inp(model));
      if (UsesMrope(model)) n_position_ = 4;
    }
  }

  Status Check() const {
    if (batch_.n_tokens <= 0) return InvalidArgument("the batch is empty");
    if ((batch_.token == nullptr) == (batch_.embd == nullptr)) {
      return InvalidArgument("a batch has either tokens or embeddings");
    }
    for (size_t i = 0; batch_.seq_id != nullptr && i < n_; ++i) {
      if (batch_.n_seq_id != nullptr && batch_.n_seq_id[i] != 1) {
        return InvalidArgument("each token must belong to exactly one sequence");
      }
      const auto n_sequences = static_cast<llama_seq_id>(llama_max_parallel_sequences());
      if (seq_id(i) < 0 || seq_id(i) >= n_sequences) {
        return InvalidArgument(fmt::format("sequence {} is not one of llama.cpp's 0 to {}",
                                           seq_id(i), n_sequences - 1));
      }
    }
    return OkStatus();
  }

  llama_seq_id seq_id(size_t i) const { return batch_.seq_id != nullptr ? batch_.seq_id[i][0] : 0; }
  bool has_positions() const { return batch_.pos != nullptr; }
  bool output(size_t i) const {
    return batch_.logits != nullptr ? batch_.logits[i] != 0 : i + 1 == n_;
  }

  UbatchToken token(size_t i, size_t cache, uint64_t next_index) const {
    UbatchToken token{.cache = cache, .output = output(i)};
    if (batch_.token != nullptr) token.token = batch_.token[i];
    for (size_t c = 0; c < n_position_; ++c) {
      token.position[c] =
          batch_.pos != nullptr ? batch_.pos[c * n_ + i] : static_cast<llama_pos>(next_index);
    }
    return token;
  }

  void FillEmbeddings(size_t begin, size_t end, Ubatch& ubatch) const {
    ubatch.n_position = n_position_;
    if (batch_.embd == nullptr) return;
    ubatch.embeddings.assign(batch_.embd + begin * width_, batch_.embd + end * width_);
  }

  size_t n() const { return n_; }

 private:
  const llama_batch& batch_;
  size_t n_;
  size_t width_ = 0;
  size_t n_position_ = 1;
};

Result<rkv_cache::Sequence*> FindOrMakeSequence(rkv_cache& cache, llama_seq_id seq_id) {
  auto found = cache.sequences.find(seq_id);
  if (found == cache.sequences.end()) {
    RKV_ASSIGN_OR_RETURN(KvCache created, KvCache::Create(*cache.shape, cache.options));
    found = cache.sequences.emplace(seq_id, rkv_cache::Sequence{.cache = std::move(created)}).first;
  }
  return &found->second;
}

// A sequence in the ubatch under construction.
struct Participant {
  rkv_cache::Sequence* sequence = nullptr;
  uint64_t next_index = 0;  // of its next token
  uint64_t n_counted = 0;   // as Sequence::n_counted, after the tokens so far
};

Status DecodeUbatch(rkv_cache& cache, llama_context* ctx, const BatchReader& batch, size_t begin,
                    size_t end) {
  Ubatch ubatch;
  std::vector<Participant> participants;
  std::map<llama_seq_id, size_t> participant_of;
  for (size_t i = begin; i < end; ++i) {
    const auto [entry, is_new] = participant_of.emplace(batch.seq_id(i), participants.size());
    if (is_new) {
      RKV_ASSIGN_OR_RETURN(rkv_cache::Sequence * sequence,
                           FindOrMakeSequence(cache, batch.seq_id(i)));
      participants.push_back({.sequence = sequence,
                              .next_index = sequence->cache.tokens_seen(),
                              .n_counted = sequence->n_counted});
      ubatch.caches.push_back({.cache = &sequence->cache});
      ubatch.seq_ids.push_back(batch.seq_id(i));
    }
    Participant& participant = participants[entry->second];
    if (!batch.has_positions() && participant.n_counted != participant.next_index) {
      return InvalidArgument(
          "the positions of the sequence differ from its token numbers, so the batch needs "
          "positions");
    }
    const UbatchToken token = batch.token(i, entry->second, participant.next_index);
    if (token.position[0] >= cache.end_position) {
      return InvalidArgument("the batch has a position beyond the limit of the model");
    }
    const uint64_t number = participant.next_index++;
    if (participant.n_counted == number && token.position[0] == static_cast<llama_pos>(number)) {
      ++participant.n_counted;
    }
    ubatch.tokens.push_back(token);
  }
  // Later tokens of a sequence in this call are the rest of its prompt.
  for (size_t i = end; i < batch.n(); ++i) {
    const auto entry = participant_of.find(batch.seq_id(i));
    if (entry != participant_of.end()) ubatch.caches[entry->second].prompt_follows = true;
  }
  batch.FillEmbeddings(begin, end, ubatch);
  RKV_RETURN_IF_ERROR(cache.bridge.Decode(ctx, ubatch));
  for (const Participant& participant : participants) {
    participant.sequence->n_counted = participant.n_counted;
  }
  return OkStatus();
}

Status LearnShape(rkv_cache& cache, llama_context* ctx) {
  const llama_model* model = llama_get_model(ctx);
  const int n_ctx =
      cache.n_ctx > 0 ? static_cast<int>(cache.n_ctx) : llama_model_n_ctx_train(model);
  RKV_RETURN_IF_ERROR(CheckServable(model, n_ctx));
  RKV_ASSIGN_OR_RETURN(cache.shape, cache.bridge.Probe(ctx));
  const bool windowed = llama_model_n_swa(model) > 0;
  cache.end_position = windowed ? n_ctx : cache.bridge.end_position();
  return OkStatus();
}

Status DecodeBatch(rkv_cache& cache, llama_context* ctx, const llama_batch& llama_batch) {
  if (!cache.shape.has_value()) RKV_RETURN_IF_ERROR(LearnShape(cache, ctx));
  const BatchReader batch(llama_batch, llama_get_model(ctx));
  RKV_RETURN_IF_ERROR(batch.Check());
  const size_t n_ubatch = llama_n_ubatch(ctx);
  // The last ubatch is the full one, so that its logits stay readable.
  const size_t first = batch.n() % n_ubatch == 0 ? n_ubatch : batch.n() % n_ubatch;
  for (size_t begin = 0, end = std::min(first, batch.n()); begin < batch.n();
       begin = end, end += n_ubatch) {
    RKV_RETURN_IF_ERROR(DecodeUbatch(cache, ctx, batch, begin, end));
  }
  return OkStatus();
}

}  // namespace
}  // namespace rkv

rkv_cache* rkv_attach(llama_context_params* params, const char* policy, const char* budget) {
  rkv::attach_error.clear();
  try {
    auto cache = std::make_unique<rkv_cache>();
    const rkv::Status status = params == nullptr
                                   ? rkv::InvalidArgument("there are no parameters (null)")
                                   : rkv::ParseOptions(policy, budget, cache->options);
    rkv::attach_error = status.message();
    if (!status.ok()) return nullptr;
    cache->n_ctx = params->n_ctx;
    cache->bridge.Prepare(*params);
    return cache.release();
  } catch (const std::exception&) {  // Out of memory; C callers cannot catch.
    return nullptr;
  }
}

int32_t rkv_decode(rkv_cache* cache, llama_context* ctx, llama_batch batch) {
  if (cache == nullptr) return -1;
  rkv::Status status;
  try {
    status = ctx == nullptr ? rkv::InvalidArgument("there is no context (null)")
                            : rkv::DecodeBatch(*cache, ctx, batch);
  } catch (const std::exception& error) {
    status = rkv::ResourceExhausted(error.what());
  }
  cache->last_error = status.message();
  return status.ok() ? 0 : -1;
}

int32_t rkv_seq_keep(rkv_cache* cache, llama_seq_id seq_id, uint64_t n_tokens) {
  if (cache == nullptr) return -1;
  const auto found = cache->sequences.find(seq_id);
  const uint64_t seen = found == cache->sequences.end() ? 0 : found->second.cache.tokens_seen();
  if (n_tokens > seen) {
    cache->last_error = "the sequence has fewer tokens than should be kept";
    return -1;
  }
  if (n_tokens == 0) {
    cache->sequences.erase(seq_id);
    return 0;
  }
  try {
    found->second.cache.Truncate(n_tokens);
    found->second.n_counted = std::min(found->second.n_counted, n_tokens);
  } catch (const std::exception& error) {
    cache->last_error = error.what();
    return -1;
  }
  return 0;
}

rkv_stats rkv_get_stats(const rkv_cache* cache, llama_seq_id seq_id) {
  if (cache == nullptr) return {};
  const auto found = cache->sequences.find(seq_id);
  if (found == cache->sequences.end()) return {};
  const rkv::CacheStats stats = found->second.cache.stats();
  return {.tokens_seen = stats.tokens_seen,
          .tokens_exact = stats.tokens_exact,
          .tokens_evicted = stats.tokens_evicted,
          .held_bytes = stats.held_bytes,
          .full_bytes = stats.full_bytes,
          .budget_bytes = stats.budget_bytes};
}

const char* rkv_last_error(const rkv_cache* cache) {
  return cache != nullptr ? cache->last_error.c_str() : rkv::attach_error.c_str();
}

void rkv_detach(rkv_cache* cache) { delete cache; }
