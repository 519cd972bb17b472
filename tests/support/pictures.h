// Pictures for tests: random pixels from a seed, as BMP files.
#ifndef RETENTIVEKV_TESTS_SUPPORT_PICTURES_H_
#define RETENTIVEKV_TESTS_SUPPORT_PICTURES_H_

#include <cstdint>
#include <fstream>
#include <string>

#include "base/bytes.h"
#include "base/random.h"

namespace rkv {

// A 24-bit BMP.
inline std::string BmpBytes(int width, int height, uint64_t seed) {
  const uint32_t row_bytes = static_cast<uint32_t>(width * 3 + 3) / 4 * 4;
  const uint32_t data_bytes = row_bytes * static_cast<uint32_t>(height);
  ByteWriter bmp;
  bmp.WriteRaw("BM", 2);
  bmp.Write<uint32_t>(54 + data_bytes);
  bmp.Write<uint32_t>(0);
  bmp.Write<uint32_t>(54);
  bmp.Write<uint32_t>(40);
  bmp.Write<int32_t>(width);
  bmp.Write<int32_t>(height);
  bmp.Write<uint16_t>(1);
  bmp.Write<uint16_t>(24);
  for (int i = 0; i < 6; ++i) bmp.Write<uint32_t>(0);
  Random random(seed);
  std::string data(data_bytes, '\0');
  for (char& byte : data) byte = static_cast<char>(random.NextU64());
  bmp.WriteRaw(data.data(), data.size());
  return bmp.buffer();
}

inline std::string WriteTestFile(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
  return path;
}

}  // namespace rkv

#endif  // RETENTIVEKV_TESTS_SUPPORT_PICTURES_H_
