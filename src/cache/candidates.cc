#include "cache/candidates.h"

#include <algorithm>
#include <cstring>

namespace rkv {

std::vector<Candidate> GatherCandidates(const CompressionTask& task, const Head& head,
                                        const Sample& lowest) {
  const size_t n_rungs = task.config.n_rungs();
  std::vector<Candidate> candidates;
  candidates.reserve(CountCandidates(task, head, lowest));
  for (size_t tier = 0; tier < n_rungs; ++tier) {
    const RowStore& rows = head.store(tier);
    const Sample sample = tier + 1 == n_rungs ? lowest : Sample();
    for (size_t slot = 0; slot < rows.size();) {
      const size_t stands_for =
          slot < sample.n ? std::min(sample.stride, sample.n - slot) : size_t{1};
      candidates.push_back({.index = rows.index(slot),
                            .slot = static_cast<uint32_t>(slot),
                            .tier = static_cast<uint8_t>(tier),
                            .stands_for = static_cast<uint16_t>(stands_for)});
      slot += stands_for;
    }
  }
  const uint64_t first_new = task.tokens_seen - task.n_new;
  for (uint32_t i = 0; i < task.n_new; ++i) {
    candidates.push_back(
        {.index = static_cast<uint32_t>(first_new + i), .slot = i, .is_new = true});
  }
  std::ranges::sort(candidates, {}, &Candidate::index);
  return candidates;
}

void CandidateReader::Decode(const Candidate& candidate, float* k, float* v) const {
  if (!candidate.is_new) return codec_.DecodeStored(candidate.tier, candidate.slot, k, v);
  const UbatchRows& rows = task_->buffers->rows;
  codec_.DecodeStaged(rows.key(head_->number(), candidate.slot),
                      rows.value(head_->number(), candidate.slot), k, v);
}

std::span<const float> CandidateReader::Stats(const Candidate& candidate) const {
  if (!candidate.is_new) return head_->store(candidate.tier).stats(candidate.slot);
  const size_t n = task_->config.n_stats();
  return {task_->buffers->observations.new_stats(head_->number()) + candidate.slot * n, n};
}

void CandidateReader::Encode(const Candidate& candidate, size_t tier, std::vector<float>& k,
                             std::vector<float>& v, uint8_t* row) const {
  const RowLayout& layout = head_->layout(tier);
  uint8_t* v_row = row + layout.k_bytes();
  if (!candidate.is_new && candidate.tier == tier) {
    const RowView held = head_->store(tier).row(candidate.slot);
    std::memcpy(row, held.k, layout.k_bytes());
    std::memcpy(v_row, held.v, layout.v_bytes());
  } else if (candidate.is_new && layout.k_type == ElementType::kF16 &&
             layout.v_type == ElementType::kF16) {
    const UbatchRows& rows = task_->buffers->rows;
    std::memcpy(row, rows.key(head_->number(), candidate.slot), layout.k_bytes());
    std::memcpy(v_row, rows.value(head_->number(), candidate.slot), layout.v_bytes());
  } else {
    Decode(candidate, k.data(), v.data());
    codec_.Encode(tier, k.data(), v.data(), row, v_row);
  }
}

CandidateRows::CandidateRows(const CandidateReader& reader, std::span<const Candidate> candidates,
                             const LayerShape& shape, size_t max_decoded)
    : reader_(reader),
      candidates_(candidates),
      d_k_(shape.d_k),
      d_(d_k_ + shape.d_v),
      is_decoded_(std::min(candidates.size(), max_decoded)) {}

void CandidateRows::Read(size_t i, float* key, float* value) const {
  if (i >= is_decoded_.size()) return reader_.Decode(candidates_[i], key, value);
  if (decoded_ == nullptr) {
    decoded_ = std::make_unique_for_overwrite<float[]>(is_decoded_.size() * d_);
  }
  float* row = decoded_.get() + i * d_;
  if (!is_decoded_[i]) reader_.Decode(candidates_[i], row, row + d_k_);
  is_decoded_[i] = true;
  if (key != nullptr) std::copy_n(row, d_k_, key);
  if (value != nullptr) std::copy(row + d_k_, row + d_, value);
}

}  // namespace rkv
