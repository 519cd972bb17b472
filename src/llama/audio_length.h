// How long an audio file says that it is: decoders allocate for that before they read a sample.
#ifndef RETENTIVEKV_LLAMA_AUDIO_LENGTH_H_
#define RETENTIVEKV_LLAMA_AUDIO_LENGTH_H_

#include <string_view>

namespace rkv {

// Whether the first bytes are those of a WAV, FLAC or MP3 file. mtmd takes what they say for audio
// too, and everything else for a picture.
bool IsAudioFile(std::string_view bytes);

// Seconds of a WAV, FLAC or MP3 file by what its headers claim: the longest that any of the
// decoders, which are tried one after the other, could find in it. Infinite if they claim no sample
// rate. 0 for other files, and for MP3 files without a Xing or Info header, which last as long as
// their frames.
double ClaimedSeconds(std::string_view bytes);

}  // namespace rkv

#endif  // RETENTIVEKV_LLAMA_AUDIO_LENGTH_H_
