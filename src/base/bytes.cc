#include "base/bytes.h"

namespace rkv {

namespace {

uint64_t Mix(uint64_t h) {
  h ^= h >> 32;
  h *= 0xD6E8FEB86659FD93ull;
  h ^= h >> 32;
  return h;
}

}  // namespace

uint64_t Hash64(std::string_view bytes, uint64_t seed) {
  uint64_t h = Mix(seed ^ (0x9E3779B97F4A7C15ull + bytes.size()));
  while (!bytes.empty()) {
    uint64_t word = 0;
    const size_t n = bytes.size() < sizeof(word) ? bytes.size() : sizeof(word);
    std::memcpy(&word, bytes.data(), n);
    bytes.remove_prefix(n);
    h = Mix(h ^ word) * 0x9E3779B97F4A7C15ull;
  }
  return Mix(h);
}

}  // namespace rkv
