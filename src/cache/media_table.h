// The pictures and clips of a conversation, and the tokens that are their cells.
#ifndef RETENTIVEKV_CACHE_MEDIA_TABLE_H_
#define RETENTIVEKV_CACHE_MEDIA_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "policies/policy.h"
#include "retentivekv/kv_cache.h"

namespace rkv {

// Its bytes depend only on the number of spans, not on their history.
class MediaTable {
 public:
  MediaTable() = default;
  MediaTable(const MediaTable& other) : spans_(other.spans_) { Fit(); }
  MediaTable& operator=(const MediaTable&) = delete;

  // REQUIRES: the span begins after all others.
  void Add(const MediaSpan& span);
  // Forgets spans that begin at `n_tokens` or later, and later cells of the last span. A shortened
  // span becomes one row of cells.
  void Truncate(uint64_t n_tokens);
  // Forgets spans that begin at `n_tokens` or later.
  void DropFrom(uint64_t n_tokens);

  std::span<const MediaSpan> spans() const { return spans_; }
  size_t size() const { return spans_.size(); }
  size_t n_cells() const;  // of all spans
  uint64_t end() const;    // the token after the last cell; 0 without spans
  size_t held_bytes() const { return spans_.capacity() * sizeof(MediaSpan); }
  TokenInfo token_info(uint32_t index) const;

  void Save(ByteWriter& writer) const;
  // False for spans that no conversation of `tokens_seen` tokens can have.
  bool Load(uint64_t tokens_seen, ByteReader& reader);

 private:
  // Sets the room of the table, as a function of the number of spans alone.
  void Fit();

  std::vector<MediaSpan> spans_;
};

}  // namespace rkv

#endif  // RETENTIVEKV_CACHE_MEDIA_TABLE_H_
