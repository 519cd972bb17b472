// Pictures and audio: from files to chunks of embeddings.
#ifndef RETENTIVEKV_LLAMA_MEDIA_H_
#define RETENTIVEKV_LLAMA_MEDIA_H_

#include <array>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "llama/bridge.h"
#include "llama/llama_ptr.h"
#include "llama/token.h"
#include "retentivekv/kv_cache.h"
#include "retentivekv/status.h"

namespace rkv {

class Model;

// The maximum size of a picture or audio file.
inline constexpr size_t kMaxMediaFileBytes = size_t{1} << 30;
// The maximum of a turn's decoded pictures and clips: an hour of sound at 24 kHz. Pictures count at
// the size that the model reads.
inline constexpr uint64_t kMaxMediaBytes = uint64_t{384} << 20;
inline constexpr uint64_t kMaxPictureBytes = uint64_t{128} << 20;
// The maximum of pixels in the picture files of a turn, together: some seconds of decoding.
inline constexpr uint64_t kMaxTurnPixels = 512 * 1000 * 1000;

// A picture or clip in the form that the model takes.
struct DecodedMedia {
  LlamaPtr<mtmd_bitmap> bitmap;
  uint64_t n_bytes = 0;
  bool is_picture = false;
  uint64_t file_pixels = 0;  // of a picture, before it is scaled down
  Position n_positions = 0;  // of a picture; of audio only known after tokenization
  std::string notice;        // for the user, if the picture is read below its size
};

// Decodes a picture (PictureFormats()) or audio (WAV, MP3, FLAC). kBadFile for other or damaged
// files and for files over the limits; kInvalidArgument if the model cannot take it.
Result<DecodedMedia> DecodeMedia(const Model& model, std::string_view bytes, std::string_view name);

// One piece of a prompt: text tokens, or a picture or audio clip before its encoding.
struct PromptChunk {
  std::vector<Token> tokens;         // of text
  LlamaPtr<mtmd_input_chunk> media;  // null for text
  size_t n_tokens = 0;
  Position n_positions = 0;  // advance of the conversation's position
  bool causal = true;
  std::string key;  // of media: equal for the same piece of the same file

  bool is_media() const { return media != nullptr; }
};

// Splits text with one MediaMarker() for each of `media` into chunks. `add_special` adds the
// model's beginning-of-sequence token. Fails as Model::Tokenize().
Result<std::vector<PromptChunk>> TokenizePrompt(const Model& model, std::string_view text,
                                                std::span<const DecodedMedia> media,
                                                bool add_special);

// Runs the vision or audio encoder unless the model's embedding cache has the chunk. Returns the
// embeddings, [n_tokens, n_embd]. kCancelled if `watch` stops it.
Result<std::vector<float>> EncodeMedia(const Model& model, const PromptChunk& chunk,
                                       const StepWatch& watch);

// Position of each token of a media chunk that starts at `first`: (t, row, column, 0) for M-RoPE
// models, (position, 0, 0, 0) for others.
std::vector<std::array<Position, 4>> MediaPositions(const Model& model, const PromptChunk& chunk,
                                                    Position first);

// The grid of a media chunk whose first token is `first_token` of the conversation, as mtmd reports
// it. One row for audio, and for pictures whose tokens form no grid.
MediaSpan MediaGrid(const PromptChunk& chunk, uint64_t first_token);

}  // namespace rkv

#endif  // RETENTIVEKV_LLAMA_MEDIA_H_
