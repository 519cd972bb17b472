// Included ahead of llama.cpp's sources, whose AMX kernels GCC before 11.5, 12.4 and 13.3 breaks:
// its _tile_loadconfig() tells the compiler of the first 8 of the 64 bytes that it reads, so the
// stores to the others are left out as dead, and the first multiplication with AMX ends in a
// segmentation fault (GCC bug 114098). This one tells of all.
#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 14
#include <immintrin.h>

struct __attribute__((may_alias)) RkvTileConfig {
  unsigned char bytes[64];
};

static inline __attribute__((always_inline)) void RkvLoadTileConfig(const void* config) {
  __asm__ volatile("ldtilecfg\t%X0" ::"m"(*(const struct RkvTileConfig*)config));
}

#define _tile_loadconfig(config) RkvLoadTileConfig(config)
#endif
