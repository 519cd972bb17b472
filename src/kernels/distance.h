// Distances between rows of floats, their minima, and dot products.
#ifndef RETENTIVEKV_KERNELS_DISTANCE_H_
#define RETENTIVEKV_KERNELS_DISTANCE_H_

#include <cstddef>

namespace rkv {

// Bound on the relative error of norms and of minimum distances, tested against double precision
// for d up to 1024.
inline constexpr double kDistanceErrorBound = 2e-6;

// norms[i] = |row i|^2. rows: [n, d].
void SquaredNorms(const float* rows, size_t n, size_t d, float* norms);

// [n, d] side by side, with their SquaredNorms().
struct NormedRows {
  const float* data = nullptr;
  const float* norms = nullptr;
  size_t n = 0;
};

// n points [d] anywhere.
struct NormedPoints {
  const float* const* data = nullptr;
  const float* norms = nullptr;
  size_t n = 0;
};

// distances[i] = min(distances[i], |row i - from f|^2 for every f).
void LowerToSquaredDistances(const NormedRows& rows, size_t d, const NormedPoints& from,
                             float* distances);

// nearest[i] = the f with the minimum |row i - from f|^2, the first of equals; distances[i] = that
// minimum. Rows that are not finite keep their `nearest`, at an infinite distance.
void FindNearest(const NormedRows& rows, size_t d, const NormedPoints& from, float* distances,
                 size_t* nearest);

// Bound on the relative error of SquaredDistances(). Unless rows are near, they are computed from
// norms and dot products.
inline constexpr double kPairDistanceErrorBound = 1e-3;

// distances[i, f] = |row i - from f|^2. distances: [rows, from].
void SquaredDistances(const NormedRows& rows, size_t d, const NormedPoints& from, float* distances);

// dots[i] = row i x, with an error of at most kDotErrorBound |row i| |x|. rows: [n, d], x: [d].
inline constexpr double kDotErrorBound = 2e-6;
void DotProducts(const float* rows, size_t n, size_t d, const float* x, float* dots);

// Index of the minimum of n numbers, the first of equals. None may be NaN. REQUIRES: n > 0.
size_t IndexOfMin(const float* x, size_t n);

}  // namespace rkv

#endif  // RETENTIVEKV_KERNELS_DISTANCE_H_
