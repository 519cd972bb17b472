#ifndef RETENTIVEKV_BASE_CLOCK_H_
#define RETENTIVEKV_BASE_CLOCK_H_

#include <chrono>

namespace rkv {

// Measures wall time from its construction or last Restart().
class Stopwatch {
 public:
  void Restart() { start_ = Clock::now(); }
  double Seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

}  // namespace rkv

#endif  // RETENTIVEKV_BASE_CLOCK_H_
