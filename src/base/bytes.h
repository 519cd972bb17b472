// Little-endian serialisation into a growing buffer, and its bounds-checked reverse.
#ifndef RETENTIVEKV_BASE_BYTES_H_
#define RETENTIVEKV_BASE_BYTES_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>

namespace rkv {

static_assert(std::endian::native == std::endian::little, "saved files are little-endian");

class ByteWriter {
 public:
  template <typename T>
  void Write(const T& value) {
    static_assert(std::is_arithmetic_v<T> || std::is_enum_v<T>, "write structs field by field");
    WriteRaw(&value, sizeof(value));
  }
  void WriteString(std::string_view s) {
    Write<uint64_t>(s.size());
    WriteRaw(s.data(), s.size());
  }
  void WriteRaw(const void* data, size_t n_bytes) {
    buffer_.append(static_cast<const char*>(data), n_bytes);
  }

  const std::string& buffer() const { return buffer_; }

 private:
  std::string buffer_;
};

// Reads the bytes of a ByteWriter, without owning them. Reading past the end yields zeros and
// clears ok(). Check ok() before trusting sizes, and at the end.
class ByteReader {
 public:
  explicit ByteReader(std::string_view bytes) : bytes_(bytes) {}

  template <typename T>
  T Read() {
    static_assert(std::is_arithmetic_v<T> || std::is_enum_v<T>, "read structs field by field");
    T value{};
    ReadRaw(&value, sizeof(value));
    return value;
  }
  std::string ReadString() {
    const uint64_t size = Read<uint64_t>();
    if (size > remaining()) {
      ok_ = false;
      return {};
    }
    std::string s(bytes_.substr(offset_, size));
    offset_ += size;
    return s;
  }
  bool ReadBool() {
    const uint8_t value = Read<uint8_t>();
    if (value > 1) ok_ = false;
    return value == 1;
  }
  // A count of things that take at least `min_bytes_each`: a damaged count cannot make the caller
  // allocate more than the file could fill.
  uint64_t ReadCount(size_t min_bytes_each) {
    const uint64_t count = Read<uint64_t>();
    if (count > remaining() / min_bytes_each) {
      ok_ = false;
      return 0;
    }
    return count;
  }
  void ReadRaw(void* data, size_t n_bytes) {
    if (n_bytes > remaining()) {
      ok_ = false;
      std::memset(data, 0, n_bytes);
      return;
    }
    std::memcpy(data, bytes_.data() + offset_, n_bytes);
    offset_ += n_bytes;
  }

  bool ok() const { return ok_; }
  void Fail() { ok_ = false; }
  size_t remaining() const { return bytes_.size() - offset_; }

 private:
  std::string_view bytes_;
  size_t offset_ = 0;
  bool ok_ = true;
};

// The number in n bytes from `at` on; bytes behind the end are zeros.
inline uint64_t BigEndian(std::string_view bytes, size_t at, size_t n) {
  uint64_t value = 0;
  for (size_t i = at; i < at + n; ++i) {
    value = value << 8 | (i < bytes.size() ? static_cast<uint8_t>(bytes[i]) : 0u);
  }
  return value;
}

inline uint64_t LittleEndian(std::string_view bytes, size_t at, size_t n) {
  uint64_t value = 0;
  for (size_t i = at + n; i > at; --i) {
    value = value << 8 | (i <= bytes.size() ? static_cast<uint8_t>(bytes[i - 1]) : 0u);
  }
  return value;
}

// 64-bit non-cryptographic hash (multiply-xorshift over 8-byte words): detects damage and tells
// pictures apart; not for adversaries.
uint64_t Hash64(std::string_view bytes, uint64_t seed = 0);

}  // namespace rkv

#endif  // RETENTIVEKV_BASE_BYTES_H_
