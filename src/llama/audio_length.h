// How long an audio file says that it is: decoders allocate for that before they read a sample.
#ifndef RETENTIVEKV_LLAMA_AUDIO_LENGTH_H_
#define RETENTIVEKV_LLAMA_AUDIO_LENGTH_H_

#include <string_view>

namespace rkv {

// Seconds of a WAV or FLAC file, or of an MP3 file with a Xing or Info header, by what its headers
// claim; infinite if they claim no sample rate. 0 for other files, and for MP3 files without, whose
// length nobody knows before all of it has been read.
double ClaimedSeconds(std::string_view bytes);

}  // namespace rkv

#endif  // RETENTIVEKV_LLAMA_AUDIO_LENGTH_H_
