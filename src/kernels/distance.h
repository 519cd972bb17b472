// Distances between rows of floats, and the least of them.
#ifndef RETENTIVEKV_KERNELS_DISTANCE_H_
#define RETENTIVEKV_KERNELS_DISTANCE_H_

#include <cstddef>

namespace rkv {

// Bound on the relative error of norms and of least distances, tested against double precision for
// d up to 1024.
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

// nearest[i] = the f with the least |row i - from f|^2, the first of equals, which is
// distances[i]. Rows that are no numbers keep their `nearest`, at an infinite distance.
void FindNearest(const NormedRows& rows, size_t d, const NormedPoints& from, float* distances,
                 size_t* nearest);

// Bound on the relative error of SquaredDistances(), which are products where rows are not near.
inline constexpr double kPairDistanceErrorBound = 1e-3;

// distances[i, f] = |row i - from f|^2. distances: [rows, from].
void SquaredDistances(const NormedRows& rows, size_t d, const NormedPoints& from, float* distances);

// The first of the least of n numbers, none of them NaN. REQUIRES: n > 0.
size_t IndexOfMin(const float* x, size_t n);

}  // namespace rkv

#endif  // RETENTIVEKV_KERNELS_DISTANCE_H_
