// Seeded random numbers that are the same on every platform.
#ifndef RETENTIVEKV_APPS_RKV_EVAL_RANDOM_H_
#define RETENTIVEKV_APPS_RKV_EVAL_RANDOM_H_

#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <utility>

namespace rkv::app {

class EvalRandom {
 public:
  explicit EvalRandom(uint64_t seed) : engine_(seed) {}

  // Uniform in [0, n). REQUIRES: n > 0. Not a standard distribution, which differs between
  // libraries.
  size_t Below(size_t n) { return static_cast<size_t>(engine_() % n); }
  int Between(int low, int high) {
    return low + static_cast<int>(Below(static_cast<size_t>(high) - static_cast<size_t>(low) + 1));
  }

  template <typename T>
  void Shuffle(std::span<T> values) {
    for (size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[Below(i)]);
  }

 private:
  std::mt19937_64 engine_;
};

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_EVAL_RANDOM_H_
