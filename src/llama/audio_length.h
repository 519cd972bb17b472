// The length that an audio file claims: decoders allocate for it before they read a sample.
#ifndef RETENTIVEKV_LLAMA_AUDIO_LENGTH_H_
#define RETENTIVEKV_LLAMA_AUDIO_LENGTH_H_

#include <string_view>

namespace rkv {

// Whether the first bytes are those of a WAV, FLAC or MP3 file. mtmd decides between audio and
// pictures by the same bytes.
bool IsAudioFile(std::string_view bytes);

// Seconds of a WAV, FLAC or MP3 file according to its headers: the maximum that any decoder could
// find, since mtmd tries one decoder after the other. Infinite if the headers claim no sample rate.
// 0 for other files, and for MP3 files without a Xing or Info header, whose length is that of their
// frames.
double ClaimedSeconds(std::string_view bytes);

}  // namespace rkv

#endif  // RETENTIVEKV_LLAMA_AUDIO_LENGTH_H_
