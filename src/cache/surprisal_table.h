// How surprising the tokens of a conversation's prompts were to the model.
#ifndef RETENTIVEKV_CACHE_SURPRISAL_TABLE_H_
#define RETENTIVEKV_CACHE_SURPRISAL_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/bytes.h"

namespace rkv {

// The surprisal -ln p of each token, one byte each. Its bytes depend only on its size.
class SurprisalTable {
 public:
  SurprisalTable() = default;
  SurprisalTable(const SurprisalTable& other) { *this = other; }
  SurprisalTable& operator=(const SurprisalTable& other);

  // Sets that of a token, in nats. Tokens that were never set are unknown.
  void Set(uint64_t token, float nats);
  // Forgets that of `n_tokens` and all later tokens.
  void Truncate(uint64_t n_tokens);

  size_t size() const { return values_.size(); }
  bool empty() const { return values_.empty(); }
  size_t held_bytes() const { return values_.capacity(); }
  // Of a table with `size` entries.
  static size_t BytesFor(uint64_t size);

  void Save(ByteWriter& writer) const;
  // False for a table that no conversation of `tokens_seen` tokens can have.
  bool Load(uint64_t tokens_seen, ByteReader& reader);

 private:
  friend class SurprisalScores;

  void Resize(size_t size);

  std::vector<uint8_t> values_;  // 0: unknown; else 1 + kStepsPerNat times the surprisal
};

// How surprising the surroundings of each token were, compared with the rest of the conversation. A
// fact spans several tokens, of which the first are a surprise and the others follow from them.
class SurprisalScores {
 public:
  SurprisalScores() = default;
  explicit SurprisalScores(const SurprisalTable& table);

  bool empty() const { return table_ == nullptr; }
  // The mean surprisal of the tokens around, as a standard score over the conversation; NaN where
  // it is unknown.
  float operator[](uint32_t token) const;

 private:
  // -1: none of the tokens around is known.
  double MeanAround(uint64_t token) const;

  const SurprisalTable* table_ = nullptr;
  double mean_ = 0;
  double per_deviation_ = 0;
};

}  // namespace rkv

#endif  // RETENTIVEKV_CACHE_SURPRISAL_TABLE_H_
