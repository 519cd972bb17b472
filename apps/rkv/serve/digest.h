// SHA-256, and random names that cannot be guessed.
#ifndef RETENTIVEKV_APPS_RKV_SERVE_DIGEST_H_
#define RETENTIVEKV_APPS_RKV_SERVE_DIGEST_H_

#include <string>
#include <string_view>

namespace rkv::app {

// 64 hexadecimal digits.
std::string Sha256(std::string_view bytes);

// `n_bytes` random bytes from the system as hexadecimal digits.
std::string RandomHex(size_t n_bytes);

// Compares two texts. The time does not depend on the place of a difference.
bool EqualSecrets(std::string_view a, std::string_view b);

// Decodes base64 text (RFC 4648, with or without padding and line ends). False for other text.
bool DecodeBase64(std::string_view text, std::string& bytes);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_SERVE_DIGEST_H_
