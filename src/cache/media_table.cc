#include "cache/media_table.h"

#include <algorithm>
#include <bit>
#include <limits>

namespace rkv {

namespace {

// Limits for a picture and for a clip. The engine accepts only smaller ones.
constexpr uint64_t kMaxPictureCells = uint64_t{1} << 17;
constexpr uint64_t kMaxClipCells = uint64_t{1} << 20;

}  // namespace

void MediaTable::Add(const MediaSpan& span) {
  if (spans_.size() == spans_.capacity()) spans_.reserve(std::bit_ceil(spans_.size() + 1));
  spans_.push_back(span);
}

void MediaTable::Fit() {
  std::vector<MediaSpan> fitted;
  if (!spans_.empty()) fitted.reserve(std::bit_ceil(spans_.size()));
  fitted.assign(spans_.begin(), spans_.end());
  spans_ = std::move(fitted);
}

void MediaTable::DropFrom(uint64_t n_tokens) {
  std::erase_if(spans_, [n_tokens](const MediaSpan& span) { return span.first_token >= n_tokens; });
  Fit();
}

void MediaTable::Truncate(uint64_t n_tokens) {
  DropFrom(n_tokens);
  if (spans_.empty() || spans_.back().n_tokens() <= n_tokens - spans_.back().first_token) return;
  // A part of a picture has no grid.
  spans_.back().rows = 1;
  spans_.back().columns = static_cast<uint32_t>(n_tokens - spans_.back().first_token);
}

size_t MediaTable::n_cells() const {
  size_t n = 0;
  for (const MediaSpan& span : spans_) n += span.n_tokens();
  return n;
}

uint64_t MediaTable::end() const {
  return spans_.empty() ? 0 : spans_.back().first_token + spans_.back().n_tokens();
}

TokenInfo MediaTable::token_info(uint32_t index) const {
  const auto after = std::ranges::upper_bound(spans_, uint64_t{index}, {}, &MediaSpan::first_token);
  if (after == spans_.begin()) return {};
  const MediaSpan& span = *(after - 1);
  const uint64_t cell = index - span.first_token;
  if (cell >= span.n_tokens()) return {};
  return {.modality = span.modality,
          .media = static_cast<uint32_t>(after - 1 - spans_.begin()),
          .row = static_cast<uint16_t>(cell / span.columns),
          .column = static_cast<uint16_t>(cell % span.columns)};
}

void MediaTable::Save(ByteWriter& writer) const {
  writer.Write<uint64_t>(spans_.size());
  for (const MediaSpan& span : spans_) {
    writer.Write(span.first_token);
    writer.Write(span.modality);
    writer.Write(span.rows);
    writer.Write(span.columns);
  }
}

bool MediaTable::Load(uint64_t tokens_seen, ByteReader& reader) {
  spans_.resize(reader.ReadCount(sizeof(uint64_t) + 1 + 2 * sizeof(uint32_t)));
  Fit();
  uint64_t end = 0;
  for (MediaSpan& span : spans_) {
    span.first_token = reader.Read<uint64_t>();
    span.modality = reader.Read<Modality>();
    span.rows = reader.Read<uint32_t>();
    span.columns = reader.Read<uint32_t>();
    // The tokens of the last span may be missing, in part or all of them.
    const bool is_picture = span.modality == Modality::kImage;
    const bool sane = span.first_token >= end && end <= tokens_seen && span.rows > 0 &&
                      span.columns > 0 && (is_picture || span.modality == Modality::kAudio) &&
                      span.n_tokens() <= (is_picture ? kMaxPictureCells : kMaxClipCells) &&
                      span.first_token <= tokens_seen + kMaxClipCells &&
                      span.first_token <= std::numeric_limits<uint32_t>::max() - kMaxClipCells;
    if (!sane) return false;
    end = span.first_token + span.n_tokens();
  }
  return true;
}

}  // namespace rkv
