#include "picture/row_scaler.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace rkv {

namespace {

constexpr size_t kChannels = 3;

// The row at another width; each value is multiplied by the old width. An old row of n pixels and a
// new one of m have n * m parts: an old pixel covers m of them, and a new one n.
void Narrow(const uint8_t* rgb, uint32_t n, uint32_t m, uint32_t* out) {
  uint32_t left = n;  // parts of the new pixel that are still open
  uint32_t r = 0, g = 0, b = 0;
  for (uint32_t i = 0; i < n; ++i, rgb += kChannels) {
    const uint32_t inside = std::min(left, m);
    r += inside * rgb[0];
    g += inside * rgb[1];
    b += inside * rgb[2];
    left -= inside;
    if (left > 0) continue;
    out[0] = r;
    out[1] = g;
    out[2] = b;
    out += kChannels;
    const uint32_t rest = m - inside;
    r = rest * rgb[0];
    g = rest * rgb[1];
    b = rest * rgb[2];
    left = n - rest;
  }
}

}  // namespace

RowScaler::RowScaler(const PictureSize& from, const PictureSize& to) : from_(from), to_(to) {
  result_.resize(kChannels * to.n_pixels());
  if (from == to) return;
  const size_t n = kChannels * static_cast<size_t>(to.width);
  narrowed_.resize(n);
  sums_.resize(n);
}

void RowScaler::AddRow(const uint8_t* rgb) {
  if (complete()) return;
  const size_t n = kChannels * static_cast<size_t>(to_.width);
  if (from_ == to_) {
    std::memcpy(&result_[static_cast<size_t>(row_++) * n], rgb, n);
    return;
  }
  Narrow(rgb, static_cast<uint32_t>(from_.width), static_cast<uint32_t>(to_.width),
         narrowed_.data());
  // Rows are divided among new rows as pixels are.
  const auto old_rows = static_cast<uint64_t>(from_.height);
  const auto new_rows = static_cast<uint64_t>(to_.height);
  const uint64_t begin = static_cast<uint64_t>(row_) * new_rows;
  const uint64_t end_of_row = static_cast<uint64_t>(to_row_ + 1) * old_rows;
  const uint64_t inside = std::min(new_rows, end_of_row - begin);
  AddWeighted(inside);
  ++row_;
  if (begin + inside < end_of_row) return;
  FinishRow();
  AddWeighted(new_rows - inside);
}

void RowScaler::AddWeighted(uint64_t weight) {
  if (weight == 0) return;
  for (size_t i = 0; i < sums_.size(); ++i) sums_[i] += weight * narrowed_[i];
}

void RowScaler::FinishRow() {
  const uint64_t total = from_.n_pixels();
  uint8_t* out = &result_[static_cast<size_t>(to_row_) * sums_.size()];
  for (size_t i = 0; i < sums_.size(); ++i) {
    out[i] = static_cast<uint8_t>((sums_[i] + total / 2) / total);
  }
  std::ranges::fill(sums_, 0);
  ++to_row_;
}

}  // namespace rkv
