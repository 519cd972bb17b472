#include "llama/audio_length.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <string>

namespace rkv {
namespace {

std::string Little(uint64_t value, size_t n) {
  std::string bytes;
  for (size_t i = 0; i < n; ++i, value >>= 8) bytes += static_cast<char>(value);
  return bytes;
}

std::string Big(uint64_t value, size_t n) {
  const std::string little = Little(value, n);
  return {little.rbegin(), little.rend()};
}

std::string Wav(uint64_t format, uint64_t rate, uint64_t channels, uint64_t bits, size_t data_bytes,
                const std::string& chunk = "", uint64_t sub_format = 0) {
  return "RIFF" + Little(0, 4) + "WAVE" + "LIST" + Little(3, 4) + "abc" + '\0' + chunk + "fmt " +
         Little(40, 4) + Little(format, 2) + Little(channels, 2) + Little(rate, 4) + Little(0, 4) +
         Little(65535, 2) + Little(bits, 2) + Little(22, 2) + Little(0, 6) +
         Little(sub_format, 16) + "data" + Little(data_bytes, 4) + std::string(data_bytes, 'x');
}

std::string Flac(uint64_t rate, uint64_t n_samples) {
  return "fLaC" + Big(34, 4) + std::string(10, '\0') +
         Big(rate << 44 | uint64_t{15} << 36 | n_samples, 8) + std::string(16, '\0');
}

// MPEG 1 layer III, 44.1 kHz, or MPEG 2, 22.05 kHz.
std::string Mp3(bool second, uint64_t n_frames) {
  return Big(second ? 0xFFF340C0 : 0xFFFB9000, 4) + std::string(second ? 9 : 32, '\0') + "Xing" +
         Big(1, 4) + Big(n_frames, 4) + std::string(100, '\0');
}

TEST(AudioLengthTest, HeadersTell) {
  EXPECT_DOUBLE_EQ(ClaimedSeconds(Wav(1, 16000, 1, 16, 64000)), 2);
  EXPECT_DOUBLE_EQ(ClaimedSeconds(Wav(3, 48000, 2, 32, 384000)), 1);
  EXPECT_DOUBLE_EQ(ClaimedSeconds(Wav(0x11, 8000, 1, 4, 4000)), 1);
  EXPECT_DOUBLE_EQ(ClaimedSeconds(Wav(0xFFFE, 4000, 2, 4, 4000, "", 2)), 1);
  EXPECT_DOUBLE_EQ(ClaimedSeconds(Wav(0xFFFE, 8000, 2, 16, 32000, "", 1)), 1);
  EXPECT_DOUBLE_EQ(ClaimedSeconds(Flac(44100, 44100 * 3)), 3);
  EXPECT_DOUBLE_EQ(ClaimedSeconds(Flac(96000, 0xFFFFFFFFF)), 68719476735.0 / 96000);
  EXPECT_DOUBLE_EQ(ClaimedSeconds(Mp3(false, 1000)), 1152.0 / 44100 * 1000);
  EXPECT_DOUBLE_EQ(ClaimedSeconds(Mp3(true, 1000)), 576.0 / 22050 * 1000);
}

TEST(AudioLengthTest, WhatIsBeforeOrBehindDoesNotHideIt) {
  const std::string tag = "ID3" + Little(4, 3) + Big(20, 4) + std::string(20, 'x');
  EXPECT_DOUBLE_EQ(ClaimedSeconds(tag + tag + Flac(1000, 5000)), 5);
  EXPECT_DOUBLE_EQ(ClaimedSeconds(tag +
                                  "OggS \x7F"
                                  "FLAC" +
                                  Flac(1000, 5000)),
                   5);
  EXPECT_DOUBLE_EQ(ClaimedSeconds(tag + Mp3(false, 1000)), 1152.0 / 44100 * 1000);
  // Bytes that look like a frame, but are not one.
  EXPECT_DOUBLE_EQ(ClaimedSeconds(Big(0xFFFB9000, 4) + std::string(99, 'x') + Mp3(false, 1000)),
                   1152.0 / 44100 * 1000);
  // Decoders ignore the second `data`, and the field with the number of samples.
  const std::string second = "data" + Little(2, 4) + "xx";
  EXPECT_DOUBLE_EQ(ClaimedSeconds(Wav(1, 1000, 1, 16, 8000) + second), 4);
  EXPECT_DOUBLE_EQ(ClaimedSeconds(Wav(1, 1000, 1, 16, 8000, "fact" + Little(4, 4) + Little(7, 4))),
                   4);
  // Data ends at the end of the file.
  const std::string wav = Wav(1, 1000, 1, 16, 8000);
  EXPECT_DOUBLE_EQ(ClaimedSeconds(wav.substr(0, wav.size() - 4000)), 2);
}

TEST(AudioLengthTest, NothingIsClaimedByOtherFiles) {
  for (const std::string& bytes :
       {std::string(), std::string("RIFF"), std::string("fLaC"), std::string("ID3"),
        std::string("\x89PNG\r\n\x1a\n"), std::string(100, '\xFF'),
        "\xFF\xFB\x90" + std::string(200, '\0'), Wav(1, 8000, 1, 16, 4).substr(0, 30)}) {
    EXPECT_EQ(ClaimedSeconds(bytes), 0);
  }
  EXPECT_TRUE(std::isinf(ClaimedSeconds(Wav(1, 0, 1, 16, 4))));
  EXPECT_DOUBLE_EQ(ClaimedSeconds(Wav(1, 8000, 0, 0, 8000)), 1);
}

TEST(AudioLengthTest, FilesThatEndAnywhereAreRead) {
  for (const std::string& file : {Wav(1, 8000, 1, 16, 4), Flac(8000, 9), Mp3(false, 3)}) {
    for (size_t n = 0; n < file.size(); ++n) EXPECT_GE(ClaimedSeconds(file.substr(0, n)), 0);
  }
}

}  // namespace
}  // namespace rkv
