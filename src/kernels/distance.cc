#include "kernels/distance.h"

#include <algorithm>
#include <iterator>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/distance.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h, which re-includes this file once per target.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace rkv {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// |a - b|^2; b null: |a|^2. Four sums hide the latency of the fused multiply-add.
template <bool kDifference>
HWY_INLINE float SquaredDistance(const float* HWY_RESTRICT a, const float* HWY_RESTRICT b,
                                 size_t d) {
  const hn::ScalableTag<float> df;
  const size_t lanes = hn::Lanes(df);
  auto s0 = hn::Zero(df), s1 = s0, s2 = s0, s3 = s0;
  const auto add = [&](size_t at, auto sum) HWY_ATTR {
    auto x = hn::LoadU(df, a + at);
    if constexpr (kDifference) x = hn::Sub(x, hn::LoadU(df, b + at));
    return hn::MulAdd(x, x, sum);
  };
  size_t i = 0;
  for (; i + 4 * lanes <= d; i += 4 * lanes) {
    s0 = add(i, s0);
    s1 = add(i + lanes, s1);
    s2 = add(i + 2 * lanes, s2);
    s3 = add(i + 3 * lanes, s3);
  }
  for (; i + lanes <= d; i += lanes) s0 = add(i, s0);
  float sum = hn::GetLane(hn::SumOfLanes(df, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3))));
  for (; i < d; ++i) {
    const float x = kDifference ? a[i] - b[i] : a[i];
    sum += x * x;
  }
  return sum;
}

void SquaredNormsTarget(const float* rows, size_t n, size_t d, float* norms) {
  for (size_t i = 0; i < n; ++i) norms[i] = SquaredDistance<false>(rows + i * d, nullptr, d);
}

// A tile of rows and points shares what is loaded. Chunks keep the sums short, hence exact.
constexpr size_t kTileRows = 4;
constexpr size_t kTileFrom = 2;
constexpr size_t kChunk = 256;

// sums[r][f] = |rows[r] - from[f]|^2
HWY_INLINE void DistanceTile(const float* const* HWY_RESTRICT rows,
                             const float* const* HWY_RESTRICT from, size_t d,
                             float (&sums)[kTileRows][kTileFrom]) {
  const hn::ScalableTag<float> df;
  const size_t lanes = hn::Lanes(df);
  for (auto& sum : sums) std::fill(std::begin(sum), std::end(sum), 0.0f);
  size_t i = 0;
  while (i + lanes <= d) {
    hn::Vec<decltype(df)> acc[kTileRows][kTileFrom];
    for (auto& row : acc) {
      for (auto& x : row) x = hn::Zero(df);
    }
    const size_t end = std::min(d, i + kChunk);
    for (; i + lanes <= end; i += lanes) {
      hn::Vec<decltype(df)> point[kTileFrom];
      for (size_t f = 0; f < kTileFrom; ++f) point[f] = hn::LoadU(df, from[f] + i);
      for (size_t r = 0; r < kTileRows; ++r) {
        const auto x = hn::LoadU(df, rows[r] + i);
        for (size_t f = 0; f < kTileFrom; ++f) {
          const auto difference = hn::Sub(x, point[f]);
          acc[r][f] = hn::MulAdd(difference, difference, acc[r][f]);
        }
      }
    }
    for (size_t r = 0; r < kTileRows; ++r) {
      for (size_t f = 0; f < kTileFrom; ++f) {
        sums[r][f] += hn::GetLane(hn::SumOfLanes(df, acc[r][f]));
      }
    }
  }
  for (; i < d; ++i) {
    for (size_t r = 0; r < kTileRows; ++r) {
      for (size_t f = 0; f < kTileFrom; ++f) {
        const float difference = rows[r][i] - from[f][i];
        sums[r][f] += difference * difference;
      }
    }
  }
}

// Calls take(i, f, distance) for every pair of a row and a point.
template <typename Take>
HWY_INLINE void ForDistances(const float* rows, size_t n, size_t d, const float* const* from,
                             size_t n_from, const Take& take) {
  if (n == 1 || n_from == 1) {
    for (size_t i = 0; i < n; ++i) {
      for (size_t f = 0; f < n_from; ++f) {
        take(i, f, SquaredDistance<true>(rows + i * d, from[f], d));
      }
    }
    return;
  }
  constexpr size_t kBlock = 16;  // Points that stay in the first cache while rows pass.
  for (size_t block = 0; block < n_from; block += kBlock) {
    const size_t block_end = std::min(n_from, block + kBlock);
    for (size_t i = 0; i < n; i += kTileRows) {
      // What is beyond the end is the last one once more.
      const float* tile_rows[kTileRows];
      for (size_t r = 0; r < kTileRows; ++r) tile_rows[r] = rows + std::min(i + r, n - 1) * d;
      for (size_t f = block; f < block_end; f += kTileFrom) {
        const float* tile_from[kTileFrom];
        for (size_t g = 0; g < kTileFrom; ++g) tile_from[g] = from[std::min(f + g, block_end - 1)];
        float sums[kTileRows][kTileFrom];
        DistanceTile(tile_rows, tile_from, d, sums);
        for (size_t r = 0; r < std::min(kTileRows, n - i); ++r) {
          for (size_t g = 0; g < std::min(kTileFrom, block_end - f); ++g) {
            take(i + r, f + g, sums[r][g]);
          }
        }
      }
    }
  }
}

void LowerTarget(const float* rows, size_t n, size_t d, const float* const* from, size_t n_from,
                 float* distances) {
  ForDistances(rows, n, d, from, n_from, [distances](size_t i, size_t, float distance) {
    distances[i] = std::min(distances[i], distance);
  });
}

void NearestTarget(const float* rows, size_t n, size_t d, const float* const* from, size_t n_from,
                   float* distances, size_t* nearest) {
  ForDistances(rows, n, d, from, n_from, [=](size_t i, size_t f, float distance) {
    if (distance >= distances[i]) return;
    distances[i] = distance;
    nearest[i] = f;
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace rkv
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rkv {

HWY_EXPORT(SquaredNormsTarget);
HWY_EXPORT(LowerTarget);
HWY_EXPORT(NearestTarget);

void SquaredNorms(const float* rows, size_t n, size_t d, float* norms) {
  HWY_DYNAMIC_DISPATCH(SquaredNormsTarget)(rows, n, d, norms);
}

void LowerToSquaredDistances(const float* rows, size_t n, size_t d, const float* const* from,
                             size_t n_from, float* distances) {
  HWY_DYNAMIC_DISPATCH(LowerTarget)(rows, n, d, from, n_from, distances);
}

void FindNearest(const float* rows, size_t n, size_t d, const float* const* from, size_t n_from,
                 float* distances, size_t* nearest) {
  std::fill_n(distances, n, std::numeric_limits<float>::infinity());
  HWY_DYNAMIC_DISPATCH(NearestTarget)(rows, n, d, from, n_from, distances, nearest);
}

}  // namespace rkv
#endif  // HWY_ONCE
