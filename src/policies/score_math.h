// What scorers share.
#ifndef RETENTIVEKV_POLICIES_SCORE_MATH_H_
#define RETENTIVEKV_POLICIES_SCORE_MATH_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>

#include "policies/policy.h"

namespace rkv {

// In double precision, in four partial sums. REQUIRES: a.size() == b.size().
template <typename A, typename B>
double Dot(std::span<const A> a, std::span<const B> b) {
  constexpr size_t kLanes = 4;
  double sums[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= a.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      sums[lane] += static_cast<double>(a[i + lane]) * static_cast<double>(b[i + lane]);
    }
  }
  for (; i < a.size(); ++i) sums[0] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

template <typename T>
double Norm(std::span<const T> x) {
  return std::sqrt(Dot(x, x));
}

// As float, at most the largest one.
inline float ToScore(double score) {
  constexpr double kLargest = std::numeric_limits<float>::max();
  return static_cast<float>(std::clamp(score, -kLargest, kLargest));
}

// The factor per query with which a sum remembers about as many of the last queries.
// REQUIRES: queries >= 1.
inline double DecayOver(size_t queries) { return 1.0 - 1.0 / static_cast<double>(queries); }

// How much the attention seen so far counts, 0 to 1, by ScoreContext::room: nothing where most
// tokens have to be forgotten, since it would cost the others' place; all where most have room.
inline double AttentionPart(double room) {
  constexpr double kNothing = 0.2;
  constexpr double kAll = 0.6;
  const double x = std::clamp((room - kNothing) / (kAll - kNothing), 0.0, 1.0);
  return x * x * (3.0 - 2.0 * x);
}

// Every text token above every other one, both in the order of their attention (>= 0), whatever its
// scale: text keeps its attention, others get -1 / attention, which grows with it and stays below
// 0. So scores of different heads can be compared if their attention can.
inline float TextFirst(Modality modality, float attention) {
  if (modality == Modality::kText) return attention;
  return -1.0f / std::max(attention, std::numeric_limits<float>::min());
}

}  // namespace rkv

#endif  // RETENTIVEKV_POLICIES_SCORE_MATH_H_
