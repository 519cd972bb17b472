#include "cache/surprisal_table.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace rkv {

namespace {

constexpr float kStepsPerNat = 8;
constexpr size_t kBlock = 256;  // Tables grow by as many entries.
// Tokens on each side that count with a token.
constexpr uint64_t kAround = 4;

}  // namespace

SurprisalTable& SurprisalTable::operator=(const SurprisalTable& other) {
  if (this == &other) return *this;
  values_ = {};
  Resize(other.size());
  std::ranges::copy(other.values_, values_.begin());
  return *this;
}

size_t SurprisalTable::BytesFor(uint64_t size) { return (size + kBlock - 1) / kBlock * kBlock; }

void SurprisalTable::Resize(size_t size) {
  if (BytesFor(size) != values_.capacity()) {
    std::vector<uint8_t> fitted;
    fitted.reserve(BytesFor(size));
    fitted.assign(values_.begin(),
                  values_.begin() + static_cast<ptrdiff_t>(std::min(size, values_.size())));
    values_ = std::move(fitted);
  }
  values_.resize(size);
}

void SurprisalTable::Set(uint64_t token, float nats) {
  if (!std::isfinite(nats)) return;
  if (token >= size()) Resize(token + 1);
  values_[token] = static_cast<uint8_t>(1 + std::clamp(kStepsPerNat * nats, 0.0f, 254.0f));
}

void SurprisalTable::Truncate(uint64_t n_tokens) {
  if (n_tokens < size()) Resize(n_tokens);
}

void SurprisalTable::Save(ByteWriter& writer) const {
  writer.Write<uint64_t>(size());
  writer.WriteRaw(values_.data(), size());
}

bool SurprisalTable::Load(uint64_t tokens_seen, ByteReader& reader) {
  const size_t n = reader.ReadCount(1);
  if (n > tokens_seen + 1) return false;
  Resize(n);
  for (uint8_t& value : values_) value = reader.Read<uint8_t>();
  return reader.ok();
}

SurprisalScores::SurprisalScores(const SurprisalTable& table) {
  if (table.empty()) return;
  table_ = &table;
  double n = 0;
  double square = 0;
  for (uint64_t token = 0; token < table.size(); ++token) {
    const double x = table.values_[token] > 0 ? MeanAround(token) : -1;
    if (x < 0) continue;
    ++n;
    const double delta = x - mean_;
    mean_ += delta / n;
    square += delta * (x - mean_);
  }
  const double deviation = n > 0 ? std::sqrt(square / n) : 0;
  per_deviation_ = deviation > 0 ? 1 / deviation : 0;
}

double SurprisalScores::MeanAround(uint64_t token) const {
  const uint64_t end = std::min<uint64_t>(token + kAround + 1, table_->size());
  unsigned sum = 0;
  unsigned n = 0;
  for (uint64_t i = token - std::min(token, kAround); i < end; ++i) {
    const uint8_t value = table_->values_[i];
    if (value == 0) continue;
    sum += value - 1u;
    ++n;
  }
  return n > 0 ? static_cast<double>(sum) / n : -1;
}

float SurprisalScores::operator[](uint32_t token) const {
  const double x = token < table_->size() && table_->values_[token] > 0 ? MeanAround(token) : -1;
  if (x < 0) return std::numeric_limits<float>::quiet_NaN();
  return static_cast<float>((x - mean_) * per_deviation_);
}

}  // namespace rkv
