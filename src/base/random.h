// Seeded random numbers that are the same on every platform.
#ifndef RETENTIVEKV_BASE_RANDOM_H_
#define RETENTIVEKV_BASE_RANDOM_H_

#include <cmath>
#include <cstdint>
#include <numbers>

namespace rkv {

// SplitMix64 (Steele, Lea, Flood 2014). Not thread-safe, not for cryptography.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t NextU64() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }

  // Uniform in [0, 1).
  double NextDouble() { return static_cast<double>(NextU64() >> 11) * 0x1p-53; }

  // Uniform in [0, n). REQUIRES: n > 0. The bias of the modulo is below n / 2^64.
  uint64_t NextBelow(uint64_t n) { return NextU64() % n; }

  // Standard normal (Box-Muller).
  double NextGaussian() {
    const double u = 1.0 - NextDouble();
    return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * NextDouble());
  }

 private:
  uint64_t state_;
};

}  // namespace rkv

#endif  // RETENTIVEKV_BASE_RANDOM_H_
