#include "llama/audio_length.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>

namespace rkv {

namespace {

// Zeros where the file ends early.
uint64_t BigEndian(std::string_view bytes, size_t at, size_t n) {
  uint64_t value = 0;
  for (size_t i = at; i < at + n; ++i) {
    value = value << 8 | (i < bytes.size() ? static_cast<uint8_t>(bytes[i]) : 0u);
  }
  return value;
}

uint64_t LittleEndian(std::string_view bytes, size_t at, size_t n) {
  uint64_t value = 0;
  for (size_t i = at + n; i > at; --i) {
    value = value << 8 | (i <= bytes.size() ? static_cast<uint8_t>(bytes[i - 1]) : 0u);
  }
  return value;
}

double Seconds(uint64_t n_samples, uint64_t rate) {
  if (n_samples == 0) return 0;
  if (rate == 0) return std::numeric_limits<double>::infinity();
  return static_cast<double>(n_samples) / static_cast<double>(rate);
}

// An ID3v2 tag, which may stand before FLAC and MP3.
std::string_view SkipTag(std::string_view bytes) {
  constexpr size_t kHeader = 10;
  if (!bytes.starts_with("ID3")) return bytes;
  const uint64_t size = BigEndian(bytes, 6, 4);  // seven bits of each byte
  const uint64_t n =
      (size >> 24 & 127) << 21 | (size >> 16 & 127) << 14 | (size >> 8 & 127) << 7 | (size & 127);
  const bool has_footer = (BigEndian(bytes, 5, 1) & 0x10) != 0;
  return bytes.substr(std::min<uint64_t>(bytes.size(), n + (has_footer ? 2 : 1) * kHeader));
}

// https://www.mmsp.ece.mcgill.ca/Documents/AudioFormats/WAVE/WAVE.html; the decoder believes a fact
// chunk, and takes data to end where the file does.
double WavSeconds(std::string_view bytes) {
  uint64_t format = 0, rate = 0, block_bytes = 1, data_bytes = 0, n_samples = 0;
  for (uint64_t at = 12; at + 8 <= bytes.size();) {
    const std::string_view name = bytes.substr(at, 4);
    const uint64_t size = LittleEndian(bytes, at + 4, 4);
    at += 8;
    if (name == "fmt ") {
      format = LittleEndian(bytes, at, 2);
      rate = LittleEndian(bytes, at + 4, 4);
      block_bytes = std::max<uint64_t>(LittleEndian(bytes, at + 12, 2), 1);
    }
    if (name == "fact") n_samples = LittleEndian(bytes, at, 4);
    if (name == "data") data_bytes = std::min<uint64_t>(size, bytes.size() - at);
    at += size + size % 2;
  }
  // ADPCM has two samples in a byte.
  const bool packed = format == 0x02 || format == 0x11;
  if (n_samples == 0) n_samples = packed ? 2 * data_bytes : data_bytes / block_bytes;
  return Seconds(n_samples, rate);
}

// The first block is STREAMINFO (RFC 9639, 8.2).
double FlacSeconds(std::string_view bytes) {
  constexpr size_t kRate = 18;  // 20 bits; channels and depth are 8 more
  const uint64_t rate = BigEndian(bytes, kRate, 4) >> 12;
  const uint64_t n_samples = BigEndian(bytes, kRate + 3, 5) & 0xFFFFFFFFFull;
  return Seconds(n_samples, rate);
}

double Mp3Seconds(std::string_view bytes) {
  constexpr std::array<uint64_t, 4> kRates = {44100, 48000, 32000, 0};
  for (size_t at = 0; at + 4 <= bytes.size(); ++at) {
    at = bytes.find('\xFF', at);
    if (at == std::string_view::npos) return 0;
    const uint64_t header = BigEndian(bytes, at, 4);
    const uint64_t version = header >> 19 & 3;  // 3: MPEG 1; 2: MPEG 2; 0: MPEG 2.5
    const uint64_t layer = header >> 17 & 3;
    const uint64_t rate = kRates[header >> 10 & 3];
    if (header >> 21 != 0x7FF || version == 1 || layer != 1 || rate == 0) continue;
    // The side information, whose size depends on version and channels, is before it.
    const std::string_view frame = bytes.substr(at, 64);
    const size_t tag = std::min(frame.find("Xing"), frame.find("Info"));
    if (tag == std::string_view::npos) return 0;
    const bool has_frames = (BigEndian(frame, tag + 4, 4) & 1) != 0;
    const uint64_t n_samples = has_frames ? BigEndian(frame, tag + 8, 4) * 1152 : 0;
    return version == 3 ? Seconds(n_samples, rate)
                        : Seconds(n_samples / 2, rate >> (version == 2 ? 1 : 2));
  }
  return 0;
}

}  // namespace

double ClaimedSeconds(std::string_view bytes) {
  if (bytes.starts_with("RIFF") && bytes.substr(std::min<size_t>(bytes.size(), 8), 4) == "WAVE") {
    return WavSeconds(bytes);
  }
  const std::string_view audio = SkipTag(bytes);
  if (audio.starts_with("fLaC")) return FlacSeconds(audio);
  const bool sync = BigEndian(audio, 0, 2) >> 5 == 0x7FF;
  return bytes.starts_with("ID3") || sync ? Mp3Seconds(audio) : 0;
}

}  // namespace rkv
