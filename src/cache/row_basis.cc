#include "cache/row_basis.h"

#include <algorithm>
#include <numeric>

#include "kernels/element.h"

namespace rkv {

namespace {

constexpr size_t PowerOfTwoIn(size_t n) { return n & (~n + 1); }

// Elements that RoPE does not turn, then pairs from the slowest to the fastest.
std::vector<uint16_t> SlowFirst(size_t d, const RopeLayout& rope) {
  std::vector<uint16_t> order;
  const size_t n_rot = rope.pairs == RopePairs::kNone ? 0 : std::min(rope.n_rot, d) / 2 * 2;
  for (size_t i = n_rot; i < d; ++i) order.push_back(static_cast<uint16_t>(i));
  const bool adjacent = rope.pairs == RopePairs::kAdjacent;
  for (size_t pair = n_rot / 2; pair-- > 0;) {
    order.push_back(static_cast<uint16_t>(adjacent ? 2 * pair : pair));
    order.push_back(static_cast<uint16_t>(adjacent ? 2 * pair + 1 : pair + n_rot / 2));
  }
  return order;
}

}  // namespace

RowBasis::RowBasis(size_t d) : d_(d), block_(PowerOfTwoIn(d)) {}

RowBasis::RowBasis(size_t d, const RopeLayout& rope) : RowBasis(d) {
  const size_t border = FirstBlocks(BlocksOf(d)) * kQuantBlock;
  if (border < d) block_ = std::min(block_, PowerOfTwoIn(border));
  std::vector<uint16_t> at(d);  // the element that is at each place so far
  std::iota(at.begin(), at.end(), uint16_t{0});
  const std::vector<uint16_t> order = SlowFirst(d, rope);
  for (size_t i = 0; i < d; ++i) {
    const auto from = static_cast<size_t>(std::ranges::find(at, order[i]) - at.begin());
    if (from == i) continue;
    std::swap(at[i], at[from]);
    swaps_.emplace_back(i, from);
  }
}

void RowBasis::To(float* x) const {
  for (const auto& [a, b] : swaps_) std::swap(x[a], x[b]);
  RotateRow(x, d_, block_);
}

void RowBasis::From(float* x) const {
  RotateRow(x, d_, block_);
  for (size_t i = swaps_.size(); i-- > 0;) std::swap(x[swaps_[i].first], x[swaps_[i].second]);
}

}  // namespace rkv
