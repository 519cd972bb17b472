// Pictures and audio: from files to chunks of embeddings.
#ifndef RETENTIVEKV_LLAMA_MEDIA_H_
#define RETENTIVEKV_LLAMA_MEDIA_H_

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "llama/model.h"
#include "retentivekv/engine.h"

namespace rkv {

// The largest picture or audio file that is read, and the most that those of a turn may take when
// they are decoded.
inline constexpr size_t kMaxMediaBytes = size_t{1} << 30;

// Decodes a picture (PNG, JPEG, BMP, GIF, ...) or audio (WAV, MP3, FLAC). kBadFile for what is
// neither, is damaged, or has more pixels than fit; kInvalidArgument if the model cannot take it.
Result<LlamaPtr<mtmd_bitmap>> DecodeMedia(const Model& model, std::string_view bytes,
                                          std::string_view name);

// What it takes decoded.
uint64_t MediaBytes(const mtmd_bitmap& bitmap);

// One piece of a prompt: text tokens, or a picture or audio clip that is yet to be encoded.
struct PromptChunk {
  std::vector<llama_token> tokens;   // if it is text
  LlamaPtr<mtmd_input_chunk> media;  // if it is not
  size_t n_tokens = 0;
  llama_pos n_positions = 0;  // how far it moves the conversation's position
  bool causal = true;
  std::string key;  // of media: the same for the same piece of the same file
};

// Splits text with one MediaMarker() per bitmap into chunks. `add_special` adds the model's
// beginning-of-sequence token. Fails as Model::Tokenize().
Result<std::vector<PromptChunk>> TokenizePrompt(const Model& model, std::string_view text,
                                                const std::vector<LlamaPtr<mtmd_bitmap>>& media,
                                                bool add_special);

// Runs the vision or audio encoder, unless the model's embedding cache has the chunk: [n_tokens,
// n_embd] embeddings. kCancelled if `watch` stops it.
Result<std::vector<float>> EncodeMedia(const Model& model, const PromptChunk& chunk,
                                       const StepWatch& watch);

// Position of each token of a media chunk that starts at `first`: (t, row, column, 0) for M-RoPE
// models, (position, 0, 0, 0) for others.
std::vector<std::array<llama_pos, 4>> MediaPositions(const Model& model, const PromptChunk& chunk,
                                                     llama_pos first);

// The grid of a media chunk whose first token is `first_token` of the conversation: what mtmd
// reports; one row for audio, and for pictures whose tokens are no grid.
MediaSpan MediaGrid(const PromptChunk& chunk, uint64_t first_token);

}  // namespace rkv

#endif  // RETENTIVEKV_LLAMA_MEDIA_H_
