// Reads the claimed lengths of WAV, FLAC and MP3 files from their headers only. Reads beyond the
// end of a file give 0.
#include "llama/audio_length.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "base/bytes.h"

namespace rkv {

namespace {

double Seconds(uint64_t n_samples, uint64_t rate) {
  if (n_samples == 0) return 0;
  if (rate == 0) return std::numeric_limits<double>::infinity();
  return static_cast<double>(n_samples) / static_cast<double>(rate);
}

// The first block of a FLAC stream, alone, in Ogg or behind tags: STREAMINFO (RFC 9639, 8.2).
double FlacSeconds(std::string_view bytes) {
  double seconds = 0;
  for (size_t at = bytes.find("fLaC"); at != std::string_view::npos;
       at = bytes.find("fLaC", at + 1)) {
    const uint64_t block = BigEndian(bytes, at + 4, 4) & 0x7FFFFFFF;  // type and length
    if (block != 34) continue;
    const uint64_t rate = BigEndian(bytes, at + 18, 4) >> 12;  // 20 bits; 8 more: channels, depth
    seconds = std::max(seconds, Seconds(BigEndian(bytes, at + 21, 5) & 0xFFFFFFFFF, rate));
  }
  return seconds;
}

// Seconds of a frame, if the header of an MPEG audio frame is at `at`.
double MpegFrameSeconds(std::string_view bytes, size_t at) {
  constexpr uint64_t kRates[] = {44100, 48000, 32000};
  const uint64_t header = BigEndian(bytes, at, 4);
  const uint64_t version = header >> 19 & 3;  // 3: MPEG 1; 2: MPEG 2; 0: MPEG 2.5
  const bool layer_3 = (header >> 17 & 3) == 1;
  const uint64_t rate = header >> 10 & 3;
  if (header >> 21 != 0x7FF || version == 1 || rate == 3) return 0;
  return Seconds(layer_3 && version != 3 ? 576 : 1152, kRates[rate] >> (version == 3   ? 0
                                                                        : version == 2 ? 1
                                                                                       : 2));
}

// A Xing or Info header, in the first frame behind a checksum and the side information.
double XingSeconds(std::string_view bytes, std::string_view name) {
  double seconds = 0;
  for (size_t at = bytes.find(name); at != std::string_view::npos; at = bytes.find(name, at + 1)) {
    const bool has_frames = (BigEndian(bytes, at + 4, 4) & 1) != 0;
    if (!has_frames) continue;
    const auto n_frames = static_cast<double>(BigEndian(bytes, at + 8, 4));
    for (const size_t between : {9, 11, 17, 19, 32, 34}) {
      if (at < 4 + between) continue;
      seconds = std::max(seconds, n_frames * MpegFrameSeconds(bytes, at - between - 4));
    }
  }
  return seconds;
}

// https://www.mmsp.ece.mcgill.ca/Documents/AudioFormats/WAVE/WAVE.html
double WavSeconds(std::string_view bytes) {
  uint64_t format = 0, channels = 1, rate = 0, bits = 0, block_bytes = 0;
  for (uint64_t at = 12; at + 8 <= bytes.size();) {
    const std::string_view name = bytes.substr(at, 4);
    const uint64_t size = LittleEndian(bytes, at + 4, 4);
    at += 8;
    if (name == "fmt ") {
      format = LittleEndian(bytes, at, 2);
      channels = std::max<uint64_t>(LittleEndian(bytes, at + 2, 2), 1);
      rate = LittleEndian(bytes, at + 4, 4);
      block_bytes = LittleEndian(bytes, at + 12, 2);
      bits = LittleEndian(bytes, at + 14, 2);
      if (format == 0xFFFE) format = LittleEndian(bytes, at + 24, 2);  // it is extensible
    }
    if (name == "data") {
      const uint64_t n = std::min<uint64_t>(size, bytes.size() - at);
      const bool adpcm = format == 0x02 || format == 0x11;  // two samples in a byte
      const uint64_t frame_bytes = bits % 8 == 0 ? bits / 8 * channels : block_bytes;
      return Seconds(adpcm ? 2 * n / channels : n / std::max<uint64_t>(frame_bytes, 1), rate);
    }
    at += size + size % 2;
  }
  return 0;
}

}  // namespace

bool IsAudioFile(std::string_view bytes) {
  if (bytes.size() < 12) return false;
  const bool sync = BigEndian(bytes, 0, 2) >> 5 == 0x7FF;
  const bool wav = bytes.starts_with("RIFF") && bytes.substr(8).starts_with("WAVE");
  return sync || wav || bytes.starts_with("ID3") || bytes.starts_with("fLaC");
}

double ClaimedSeconds(std::string_view bytes) {
  if (!IsAudioFile(bytes)) return 0;
  const double wav = bytes.starts_with("RIFF") ? WavSeconds(bytes) : 0;
  return std::max(
      {wav, FlacSeconds(bytes), XingSeconds(bytes, "Xing"), XingSeconds(bytes, "Info")});
}

}  // namespace rkv
