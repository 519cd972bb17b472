// Squared distances between rows, compiled once per SIMD target. Near rows use sums of squared
// differences, others dot products.
#include "kernels/distance.h"

#include <algorithm>
#include <iterator>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/distance.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// After foreach_target.h, which re-includes this file once per target.
#include "hwy/highway.h"
#include "kernels/simd-inl.h"

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

// A tile shares the loads of its rows and points. Chunks keep the sums short, hence exact.
constexpr size_t kChunk = 256;

// Bound on the difference of |a|^2 + |b|^2 - 2 a b from |a - b|^2, as a share of |a|^2 + |b|^2.
constexpr float kTileError = 4e-6f;

// sums[r][f] = rows[r] from[f]
template <size_t kTileRows, size_t kTileFrom>
HWY_INLINE void DotTile(const float* const* HWY_RESTRICT rows,
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
      for (size_t f = 0; f < kTileFrom; ++f) point[f] = InRegister(hn::LoadU(df, from[f] + i));
      for (size_t r = 0; r < kTileRows; ++r) {
        const auto x = InRegister(hn::LoadU(df, rows[r] + i));
        for (size_t f = 0; f < kTileFrom; ++f) acc[r][f] = hn::MulAdd(x, point[f], acc[r][f]);
      }
    }
#if HWY_TARGET == HWY_SCALAR
    for (size_t r = 0; r < kTileRows; ++r) {
      for (size_t f = 0; f < kTileFrom; ++f) sums[r][f] += hn::GetLane(acc[r][f]);
    }
#else
    float four[4];
    if constexpr (kTileRows == 4) {
      for (size_t f = 0; f < kTileFrom; ++f) {
        StoreSumsOfFour(acc[0][f], acc[1][f], acc[2][f], acc[3][f], four);
        for (size_t r = 0; r < 4; ++r) sums[r][f] += four[r];
      }
    } else {
      static_assert(kTileRows == 1 && kTileFrom == 4);
      StoreSumsOfFour(acc[0][0], acc[0][1], acc[0][2], acc[0][3], four);
      for (size_t f = 0; f < 4; ++f) sums[0][f] += four[f];
    }
#endif
  }
  for (; i < d; ++i) {
    for (size_t r = 0; r < kTileRows; ++r) {
      for (size_t f = 0; f < kTileFrom; ++f) sums[r][f] += rows[r][i] * from[f][i];
    }
  }
}

// Calls take(i, f, row, point, norms, dot) for every pair of a row and a point: their numbers,
// addresses, sum of squared norms, and dot product.
template <size_t kTileRows, size_t kTileFrom, typename Take>
HWY_INLINE void ForPairsTiled(const NormedRows& rows, size_t d, const NormedPoints& from,
                              const Take& take) {
  constexpr size_t kBlock = 24;  // Points that stay in the first cache while rows pass.
  for (size_t block = 0; block < from.n; block += kBlock) {
    const size_t block_end = std::min(from.n, block + kBlock);
    for (size_t i = 0; i < rows.n; i += kTileRows) {
      // Beyond the end, the last row or point is repeated.
      const float* tile_rows[kTileRows];
      for (size_t r = 0; r < kTileRows; ++r) {
        tile_rows[r] = rows.data + std::min(i + r, rows.n - 1) * d;
      }
      for (size_t f = block; f < block_end; f += kTileFrom) {
        const float* tile_from[kTileFrom];
        for (size_t g = 0; g < kTileFrom; ++g) {
          tile_from[g] = from.data[std::min(f + g, block_end - 1)];
        }
        float dots[kTileRows][kTileFrom];
        DotTile(tile_rows, tile_from, d, dots);
        for (size_t r = 0; r < std::min(kTileRows, rows.n - i); ++r) {
          for (size_t g = 0; g < std::min(kTileFrom, block_end - f); ++g) {
            take(i + r, f + g, tile_rows[r], tile_from[g], rows.norms[i + r] + from.norms[f + g],
                 dots[r][g]);
          }
        }
      }
    }
  }
}

template <typename Take>
HWY_INLINE void ForPairs(const NormedRows& rows, size_t d, const NormedPoints& from,
                         const Take& take) {
  if (rows.n == 1) {
    ForPairsTiled<1, 4>(rows, d, from, take);
  } else if (from.n == 1) {
    ForPairsTiled<4, 1>(rows, d, from, take);
  } else {
    ForPairsTiled<4, kRegisterSums / 4>(rows, d, from, take);
  }
}

// Calls take(i, f, distance) for every pair of a row and a point that are nearer than limits[i],
// which take() may lower.
template <typename Take>
HWY_INLINE void ForNearer(const NormedRows& rows, size_t d, const NormedPoints& from,
                          const float* limits, const Take& take) {
  ForPairs(rows, d, from,
           [&](size_t i, size_t f, const float* row, const float* point, float norms, float dot)
               HWY_ATTR {
                 // Dot products only exclude far pairs: for near ones they are inexact.
                 if (!(norms - 2.0f * dot < limits[i] + kTileError * norms)) return;
                 const float distance = SquaredDistance<true>(row, point, d);
                 if (distance < limits[i]) take(i, f, distance);
               });
}

void LowerTarget(const NormedRows& rows, size_t d, const NormedPoints& from, float* distances) {
  ForNearer(rows, d, from, distances,
            [distances](size_t i, size_t, float distance) { distances[i] = distance; });
}

void NearestTarget(const NormedRows& rows, size_t d, const NormedPoints& from, float* distances,
                   size_t* nearest) {
  ForNearer(rows, d, from, distances, [=](size_t i, size_t f, float distance) {
    distances[i] = distance;
    nearest[i] = f;
  });
}

void DistancesTarget(const NormedRows& rows, size_t d, const NormedPoints& from, float* distances) {
  // Above this share of the norms, dot products are exact enough.
  constexpr float kFar = 2 * kTileError / static_cast<float>(kPairDistanceErrorBound);
  ForPairs(rows, d, from,
           [&](size_t i, size_t f, const float* row, const float* point, float norms, float dot)
               HWY_ATTR {
                 const float by_products = norms - 2.0f * dot;
                 distances[i * from.n + f] = by_products > kFar * norms
                                                 ? by_products
                                                 : SquaredDistance<true>(row, point, d);
               });
}

void DotsTarget(const float* rows, size_t n, size_t d, const float* x, float* dots) {
  constexpr size_t kTileRows = 4;
  const float* const tile_from[1] = {x};
  for (size_t i = 0; i < n; i += kTileRows) {
    // Beyond the end, the last row is repeated.
    const float* tile_rows[kTileRows];
    for (size_t r = 0; r < kTileRows; ++r) tile_rows[r] = rows + std::min(i + r, n - 1) * d;
    float sums[kTileRows][1];
    DotTile(tile_rows, tile_from, d, sums);
    for (size_t r = 0; r < std::min(kTileRows, n - i); ++r) dots[i + r] = sums[r][0];
  }
}

size_t IndexOfMinTarget(const float* x, size_t n) {
  const hn::ScalableTag<float> df;
  const size_t lanes = hn::Lanes(df);
  auto lanes_min = hn::Set(df, x[0]);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) lanes_min = hn::Min(lanes_min, hn::LoadU(df, x + i));
  float min_x = hn::GetLane(hn::MinOfLanes(df, lanes_min));
  for (; i < n; ++i) min_x = std::min(min_x, x[i]);
  const auto wanted = hn::Set(df, min_x);
  for (i = 0; i + lanes <= n; i += lanes) {
    const intptr_t at = hn::FindFirstTrue(df, hn::Eq(hn::LoadU(df, x + i), wanted));
    if (at >= 0) return i + static_cast<size_t>(at);
  }
  while (i + 1 < n && x[i] != min_x) ++i;
  return i;
}

}  // namespace HWY_NAMESPACE
}  // namespace rkv
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace rkv {

HWY_EXPORT(SquaredNormsTarget);
HWY_EXPORT(LowerTarget);
HWY_EXPORT(NearestTarget);
HWY_EXPORT(DistancesTarget);
HWY_EXPORT(DotsTarget);
HWY_EXPORT(IndexOfMinTarget);

void SquaredNorms(const float* rows, size_t n, size_t d, float* norms) {
  HWY_DYNAMIC_DISPATCH(SquaredNormsTarget)(rows, n, d, norms);
}

void LowerToSquaredDistances(const NormedRows& rows, size_t d, const NormedPoints& from,
                             float* distances) {
  HWY_DYNAMIC_DISPATCH(LowerTarget)(rows, d, from, distances);
}

void FindNearest(const NormedRows& rows, size_t d, const NormedPoints& from, float* distances,
                 size_t* nearest) {
  std::fill_n(distances, rows.n, std::numeric_limits<float>::infinity());
  HWY_DYNAMIC_DISPATCH(NearestTarget)(rows, d, from, distances, nearest);
}

void SquaredDistances(const NormedRows& rows, size_t d, const NormedPoints& from,
                      float* distances) {
  HWY_DYNAMIC_DISPATCH(DistancesTarget)(rows, d, from, distances);
}

void DotProducts(const float* rows, size_t n, size_t d, const float* x, float* dots) {
  HWY_DYNAMIC_DISPATCH(DotsTarget)(rows, n, d, x, dots);
}

size_t IndexOfMin(const float* x, size_t n) { return HWY_DYNAMIC_DISPATCH(IndexOfMinTarget)(x, n); }

}  // namespace rkv
#endif  // HWY_ONCE
