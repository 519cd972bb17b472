// Damage to saved bytes.
#ifndef RETENTIVEKV_TESTS_SUPPORT_DAMAGE_H_
#define RETENTIVEKV_TESTS_SUPPORT_DAMAGE_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "base/random.h"

namespace rkv {

// Number of ways of Overwrite().
inline constexpr uint64_t kOverwrites = 4;

// Changes what stands at `at`. The ways, in order: a random bit of a byte is flipped, the byte
// becomes a random one, or 4 or 8 bytes become `value`.
inline void Overwrite(std::string& bytes, size_t at, uint64_t way, uint64_t value, Random& random) {
  if (way == 0) {
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << random.NextBelow(8)));
  } else if (way == 1) {
    bytes[at] = static_cast<char>(random.NextBelow(256));
  } else {
    std::memcpy(bytes.data() + at, &value, way == 2 ? sizeof(uint32_t) : sizeof(value));
  }
}

}  // namespace rkv

#endif  // RETENTIVEKV_TESTS_SUPPORT_DAMAGE_H_
