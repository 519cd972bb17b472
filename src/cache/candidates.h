// Tokens of one head that compete for its bytes.
#ifndef RETENTIVEKV_CACHE_CANDIDATES_H_
#define RETENTIVEKV_CACHE_CANDIDATES_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cache/compression_task.h"
#include "cache/row_codec.h"
#include "policies/policy.h"

namespace rkv {

// Of the first `n` rows of a tier, every stride-th competes, on behalf of the rows up to the next
// one. Those rows stay where they are.
struct Sample {
  size_t n = 0;
  size_t stride = 1;

  size_t n_competing() const { return (n + stride - 1) / stride; }
};

// A token that competes: held in a tier, or new.
struct Candidate {
  uint32_t index = 0;
  uint32_t slot = 0;  // in its tier; of a new token: its place in the ubatch
  uint8_t tier = 0;
  bool is_new = false;
  uint16_t stands_for = 1;  // ScoreContext::stands_for
};

// The number of a head's candidates, and these, ascending by index. `lowest`: the competing tokens
// of the lowest rung.
inline size_t CountCandidates(const CompressionTask& task, const Head& head, const Sample& lowest) {
  return head.n_tokens() + task.n_new - lowest.n + lowest.n_competing();
}
std::vector<Candidate> GatherCandidates(const CompressionTask& task, const Head& head,
                                        const Sample& lowest);

// Reads candidates of one head, which must not change meanwhile.
class CandidateReader {
 public:
  CandidateReader() = default;
  CandidateReader(const CompressionTask& task, const Head& head)
      : task_(&task), head_(&head), codec_(head) {}

  const RowCodec& codec() const { return codec_; }
  // k or v may be null.
  void Decode(const Candidate& candidate, float* k, float* v) const;
  // A policy's statistics of it; empty: none.
  std::span<const float> Stats(const Candidate& candidate) const;
  double Entropy(const Candidate& candidate) const {
    return AttentionEntropy(Stats(candidate), task_->observed_queries);
  }
  // In the types of a tier: K, then V. `k` and `v` are scratch for a row each.
  void Encode(const Candidate& candidate, size_t tier, std::vector<float>& k, std::vector<float>& v,
              uint8_t* row) const;

 private:
  const CompressionTask* task_ = nullptr;
  const Head* head_ = nullptr;
  RowCodec codec_;
};

// Candidates for a policy, which reads them repeatedly: the first `max_decoded` stay decoded.
class CandidateRows : public TokenRows {
 public:
  CandidateRows(const CandidateReader& reader, std::span<const Candidate> candidates,
                const LayerShape& shape, size_t max_decoded);

  void Read(size_t i, float* key, float* value) const override;

 private:
  const CandidateReader& reader_;
  std::span<const Candidate> candidates_;
  size_t d_k_;
  size_t d_;
  mutable std::vector<bool> is_decoded_;
  mutable std::unique_ptr<float[]> decoded_;  // [candidates, d]; null before the first read
};

}  // namespace rkv

#endif  // RETENTIVEKV_CACHE_CANDIDATES_H_
