// Decodes files, splits prompts into chunks, and encodes media. Claimed sizes are checked before
// memory is allocated.
#include "llama/media.h"

#include <fmt/format.h>
#include <mtmd-helper.h>
#include <mtmd.h>

#include <cmath>
#include <map>

#include "base/bytes.h"
#include "llama/audio_length.h"
#include "llama/log.h"
#include "llama/model.h"
#include "llama/picture_size.h"
#include "retentivekv/chat.h"
#include "retentivekv/picture.h"

namespace rkv {

namespace {

// Two 64-bit hashes identify a file.
constexpr uint64_t kSecondHashSeed = 0x9E3779B97F4A7C15;

// An hour has 230 MB of samples, and tens of thousands of tokens.
constexpr double kMaxSeconds = 3600;

Status CheckSeconds(double seconds, std::string_view name) {
  if (seconds <= kMaxSeconds) return OkStatus();
  if (std::isinf(seconds)) return BadFile(fmt::format("'{}' has no sample rate", name));
  return BadFile(fmt::format("'{}' lasts {:.0f} minutes; at most {:.0f} are accepted", name,
                             seconds / 60, kMaxSeconds / 60));
}

void SetId(mtmd_bitmap* bitmap, std::string_view bytes) {
  mtmd_bitmap_set_id(bitmap, fmt::format("{:016x}{:016x}-{}", Hash64(bytes),
                                         Hash64(bytes, kSecondHashSeed), bytes.size())
                                 .c_str());
}

Result<DecodedMedia> DecodePicture(const Model& model, std::string_view bytes,
                                   std::string_view name) {
  if (!PictureFormatOf(bytes).has_value() && model.takes_audio()) {
    return BadFile(
        fmt::format("'{}' is neither a readable picture ({}) nor an audio file (WAV, MP3, FLAC)",
                    name, PictureFormats()));
  }
  RKV_ASSIGN_OR_RETURN(const PictureInfo info, ReadPictureInfo(bytes, name));
  if (!model.takes_pictures()) {
    return InvalidArgument(fmt::format("'{}' is a picture, which this model does not take", name));
  }
  RKV_ASSIGN_OR_RETURN(const PicturePlan plan, PlanPicture(model, info.size));
  RKV_ASSIGN_OR_RETURN(const Picture picture, ReadPicture(bytes, name, {}, plan.size));
  DecodedMedia media;
  media.bitmap.reset(mtmd_bitmap_init(static_cast<uint32_t>(picture.size.width),
                                      static_cast<uint32_t>(picture.size.height),
                                      picture.rgb.data()));
  SetId(media.bitmap.get(), bytes);
  media.n_bytes = picture.rgb.size();
  media.is_picture = true;
  media.file_pixels = info.size.n_pixels();
  media.n_positions = plan.tokens.n_positions;
  if (plan.fewer_tokens) {
    media.notice = fmt::format(
        "'{}' is scaled down from {} x {} to {} x {} pixels, {} visual tokens; "
        "--image-max-tokens takes more or fewer",
        name, info.size.width, info.size.height, picture.size.width, picture.size.height,
        plan.tokens.n_tokens);
  }
  return media;
}

Result<DecodedMedia> DecodeAudio(const Model& model, std::string_view bytes,
                                 std::string_view name) {
  if (!model.takes_audio()) {
    return InvalidArgument(fmt::format("'{}' is audio, which this model does not take", name));
  }
  RKV_RETURN_IF_ERROR(CheckSeconds(ClaimedSeconds(bytes), name));
  const LlamaErrorLog log;
  mtmd_helper_bitmap_wrapper decoded = {};
  try {
    // It treats every file with IsAudioFile() as audio, and as nothing else.
    decoded = mtmd_helper_bitmap_init_from_buf(model.vision(),
                                               reinterpret_cast<const unsigned char*>(bytes.data()),
                                               bytes.size(), false, mtmd_helper_init_opt_default());
  } catch (const std::exception&) {
    // The header claims more samples than memory can hold; bitmap stays null.
  }
  DecodedMedia media;
  media.bitmap.reset(decoded.bitmap);
  if (decoded.video_ctx != nullptr) mtmd_helper_video_free(decoded.video_ctx);
  if (media.bitmap == nullptr || !mtmd_bitmap_is_audio(media.bitmap.get())) {
    return BadFile(fmt::format("'{}' is a damaged audio file (WAV, MP3, FLAC)", name));
  }
  SetId(media.bitmap.get(), bytes);
  const uint32_t n_samples = mtmd_bitmap_get_nx(media.bitmap.get());
  if (n_samples < 2) return BadFile(fmt::format("'{}' has no sound in it", name));
  RKV_RETURN_IF_ERROR(CheckSeconds(
      n_samples / static_cast<double>(mtmd_get_audio_sample_rate(model.vision())), name));
  media.n_bytes = mtmd_bitmap_get_n_bytes(media.bitmap.get());
  return media;
}

}  // namespace

std::string_view MediaMarker() { return mtmd_default_marker(); }

Result<DecodedMedia> DecodeMedia(const Model& model, std::string_view bytes,
                                 std::string_view name) {
  if (model.vision() == nullptr) {
    return InvalidArgument(fmt::format(
        "'{}' cannot be read: the model has no vision or audio part; pass its --mmproj file",
        name));
  }
  return IsAudioFile(bytes) ? DecodeAudio(model, bytes, name) : DecodePicture(model, bytes, name);
}

namespace {

Status AppendText(const Model& model, std::string_view text, bool add_special,
                  std::vector<PromptChunk>& chunks) {
  PromptChunk chunk;
  RKV_ASSIGN_OR_RETURN(chunk.tokens, model.Tokenize(text, add_special));
  chunk.n_tokens = chunk.tokens.size();
  chunk.n_positions = static_cast<Position>(chunk.n_tokens);
  if (chunk.n_tokens > 0) chunks.push_back(std::move(chunk));
  return OkStatus();
}

// Appends a picture or clip, including the model's begin and end tokens. A large picture may be cut
// into several pieces; `n_pieces` counts those of each file.
Status AppendMedia(const Model& model, const mtmd_bitmap* bitmap,
                   std::map<std::string, size_t>& n_pieces, std::vector<PromptChunk>& chunks) {
  const std::string_view marker = MediaMarker();
  const mtmd_input_text input{.text = marker.data(),
                              .text_len = marker.size(),
                              .add_special = false,
                              .parse_special = true};
  const LlamaPtr<mtmd_input_chunks> split(mtmd_input_chunks_init());
  const LlamaErrorLog log;
  if (mtmd_tokenize(model.vision(), split.get(), &input, &bitmap, 1) != 0) {
    return BadFile(fmt::format("cannot prepare the picture or audio{}", log.Reason()));
  }
  for (size_t i = 0; i < mtmd_input_chunks_size(split.get()); ++i) {
    const mtmd_input_chunk* part = mtmd_input_chunks_get(split.get(), i);
    PromptChunk chunk;
    chunk.n_tokens = mtmd_input_chunk_get_n_tokens(part);
    chunk.n_positions = mtmd_input_chunk_get_n_pos(part);
    if (mtmd_input_chunk_get_type(part) == MTMD_INPUT_CHUNK_TYPE_TEXT) {
      size_t n = 0;
      const Token* tokens = mtmd_input_chunk_get_tokens_text(part, &n);
      chunk.tokens.assign(tokens, tokens + n);
    } else {
      chunk.media.reset(mtmd_input_chunk_copy(part));
      const char* id = mtmd_input_chunk_get_id(part);
      if (id != nullptr) chunk.key = fmt::format("{}/{}", id, n_pieces[id]++);
      chunk.causal = !mtmd_decode_use_non_causal(model.vision(), part);
    }
    if (chunk.n_tokens > 0) chunks.push_back(std::move(chunk));
  }
  return OkStatus();
}

}  // namespace

Result<std::vector<PromptChunk>> TokenizePrompt(const Model& model, std::string_view text,
                                                std::span<const DecodedMedia> media,
                                                bool add_special) {
  std::vector<PromptChunk> chunks;
  std::map<std::string, size_t> n_pieces;
  for (const DecodedMedia& one : media) {
    const size_t at = text.find(MediaMarker());
    if (at == std::string_view::npos) {
      return Unsupported("the chat template leaves out a picture or clip of the message");
    }
    RKV_RETURN_IF_ERROR(
        AppendText(model, text.substr(0, at), add_special && chunks.empty(), chunks));
    add_special = add_special && chunks.empty();
    RKV_RETURN_IF_ERROR(AppendMedia(model, one.bitmap.get(), n_pieces, chunks));
    text.remove_prefix(at + MediaMarker().size());
  }
  RKV_RETURN_IF_ERROR(AppendText(model, text, add_special, chunks));
  return chunks;
}

Result<std::vector<float>> EncodeMedia(const Model& model, const PromptChunk& chunk,
                                       const StepWatch& watch) {
  if (const std::vector<float>* known = model.embedding_cache().Find(chunk.key)) return *known;
  if (watch.stop && watch.stop()) return Cancelled("encoding was stopped");
  const LlamaErrorLog log;
  const bool audio = mtmd_input_chunk_get_type(chunk.media.get()) == MTMD_INPUT_CHUNK_TYPE_AUDIO;
  EncoderState& state = model.encoder_state();
  state = {.watch = &watch, .n_layers = model.n_encoder_layers(audio)};
  const int rc = mtmd_encode_chunk(model.vision(), chunk.media.get());
  state.watch = nullptr;
  if (state.stopped) return Cancelled("encoding was stopped");
  const float* embeddings = rc == 0 ? mtmd_get_output_embd(model.vision()) : nullptr;
  if (embeddings == nullptr) {
    return Internal(fmt::format("the vision encoder failed{}", log.Reason()));
  }
  std::vector<float> result(embeddings, embeddings + chunk.n_tokens * model.n_embd_input());
  model.embedding_cache().Add(chunk.key, result);
  return result;
}

std::vector<std::array<Position, 4>> MediaPositions(const Model& model, const PromptChunk& chunk,
                                                    Position first) {
  std::vector<std::array<Position, 4>> positions(chunk.n_tokens);
  const mtmd_image_tokens* image = mtmd_input_chunk_get_tokens_image(chunk.media.get());
  for (size_t i = 0; i < positions.size(); ++i) {
    const Position next = first + static_cast<Position>(i);
    if (!model.uses_mrope()) {
      positions[i] = {next, 0, 0, 0};
    } else if (image == nullptr) {  // Audio runs along one axis.
      positions[i] = {next, next, next, 0};
    } else {
      const mtmd_decoder_pos p = mtmd_image_tokens_get_decoder_pos(image, first, i);
      positions[i] = {static_cast<Position>(p.t), static_cast<Position>(p.y),
                      static_cast<Position>(p.x), static_cast<Position>(p.z)};
    }
  }
  return positions;
}

MediaSpan MediaGrid(const PromptChunk& chunk, uint64_t first_token) {
  MediaSpan span{.first_token = first_token,
                 .modality = Modality::kAudio,
                 .rows = 1,
                 .columns = static_cast<uint32_t>(chunk.n_tokens)};
  const mtmd_image_tokens* image = mtmd_input_chunk_get_tokens_image(chunk.media.get());
  if (image == nullptr) return span;
  span.modality = Modality::kImage;
  // Deprecated in favour of positions; but those only have the grid of M-RoPE models.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
  const size_t columns = mtmd_image_tokens_get_nx(image);
  const size_t rows = mtmd_image_tokens_get_ny(image);
#pragma GCC diagnostic pop
  if (columns * rows == chunk.n_tokens) {
    span.rows = static_cast<uint32_t>(rows);
    span.columns = static_cast<uint32_t>(columns);
  }
  return span;
}

}  // namespace rkv
