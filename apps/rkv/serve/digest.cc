#include "serve/digest.h"

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <array>
#include <random>
#include <vector>

namespace rkv::app {

std::string Sha256(std::string_view bytes) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> hash{};
  unsigned int size = 0;
  EVP_Digest(bytes.data(), bytes.size(), hash.data(), &size, EVP_sha256(), nullptr);
  std::string hex;
  for (unsigned int i = 0; i < size; ++i) hex += fmt::format("{:02x}", hash[i]);
  return hex;
}

std::string RandomHex(size_t n_bytes) {
  std::random_device device;
  std::string hex;
  for (size_t i = 0; i < n_bytes; ++i) hex += fmt::format("{:02x}", device() & 0xFF);
  return hex;
}

bool EqualSecrets(std::string_view a, std::string_view b) {
  const std::string left = Sha256(a);
  return CRYPTO_memcmp(left.data(), Sha256(b).data(), left.size()) == 0;
}

bool DecodeBase64(std::string_view text, std::string& bytes) {
  static const std::array<int8_t, 256> kValues = [] {
    std::array<int8_t, 256> values{};
    values.fill(-1);
    constexpr std::string_view kDigits =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < kDigits.size(); ++i) {
      values[static_cast<unsigned char>(kDigits[i])] = static_cast<int8_t>(i);
    }
    return values;
  }();
  bytes.clear();
  bytes.reserve(text.size() / 4 * 3);
  uint32_t group = 0;
  size_t n_digits = 0;
  size_t n_padding = 0;
  for (const char c : text) {
    if (c == '\r' || c == '\n') continue;
    if (c == '=') {
      ++n_padding;
      continue;
    }
    const int8_t value = kValues[static_cast<unsigned char>(c)];
    if (value < 0 || n_padding > 0) return false;
    group = group << 6 | static_cast<uint32_t>(value);
    if (++n_digits % 4 == 0) {
      bytes += static_cast<char>(group >> 16);
      bytes += static_cast<char>(group >> 8);
      bytes += static_cast<char>(group);
    }
  }
  const size_t rest = n_digits % 4;
  if (rest == 1 || n_padding > 2 || (n_padding > 0 && (rest + n_padding) % 4 != 0)) return false;
  if (rest >= 2) bytes += static_cast<char>(group >> (rest == 2 ? 4 : 10));
  if (rest == 3) bytes += static_cast<char>(group >> 2);
  return true;
}

}  // namespace rkv::app
