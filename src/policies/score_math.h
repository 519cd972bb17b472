// Mathematics that several policies share.
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

// Converts to float, clamped to the finite range.
inline float ToScore(double score) {
  constexpr double kMaxScaled = std::numeric_limits<float>::max();
  return static_cast<float>(std::clamp(score, -kMaxScaled, kMaxScaled));
}

// The factor per query for a decaying sum over about the last `queries` queries.
// REQUIRES: queries >= 1.
inline double DecayOver(size_t queries) { return 1.0 - 1.0 / static_cast<double>(queries); }

// 0 up to `low`, 1 from `high`, and smooth between.
inline double SmoothStep(double low, double high, double x) {
  const double t = std::clamp((x - low) / (high - low), 0.0, 1.0);
  return t * t * (3.0 - 2.0 * t);
}

// Weight of the attention observed so far, 0 to 1, by ScoreContext::room and text_share. Past
// attention predicts nothing for pictures, and when most tokens must be forgotten it would displace
// them. In a conversation of text alone its weight is 1 at any room.
inline double AttentionPart(double room, double text_share) {
  return text_share * std::max(SmoothStep(0.2, 0.6, room), SmoothStep(0.5, 1.0, text_share));
}

// Puts every text token above every other one, each group in the order of its attention (>= 0).
// Text keeps its attention. Others get -1 / attention, which grows with it and stays below 0. So
// scores of different heads are comparable if their attention is.
inline float TextFirst(Modality modality, float attention) {
  if (modality == Modality::kText) return attention;
  return -1.0f / std::max(attention, std::numeric_limits<float>::min());
}

}  // namespace rkv

#endif  // RETENTIVEKV_POLICIES_SCORE_MATH_H_
