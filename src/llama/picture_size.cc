// Finds the largest size of a picture within its limit of tokens. mtmd counts the tokens of each
// candidate size.
#include "llama/picture_size.h"

#include <fmt/format.h>
#include <mtmd.h>

#include <algorithm>
#include <limits>

#include "llama/llama_ptr.h"
#include "llama/log.h"
#include "llama/model.h"

namespace rkv {

namespace {

// Models that cut pictures into tiles use no more pixels.
constexpr uint64_t kMaxTiledPixels = 3024 * 3024;
// Other models have up to 56 x 56 pixels in a token. They get some more, since they scale once
// again.
constexpr uint64_t kPixelsOfToken = 96 * 96;
constexpr uint64_t kMinPixels = 1024 * 1024;
// mtmd resizes to at most 65536 pixels a side, and rounds up to whole tokens.
constexpr int kMaxSide = 32768;

// A picture with almost no content, and one that every model scales down.
constexpr PictureSize kSmallPicture{64, 64};
constexpr PictureSize kLargePicture{8192, 8192};

// `size`, scaled to a longer side of `side` pixels.
PictureSize WithLongerSide(const PictureSize& size, int side) {
  const int longer = std::max(size.width, size.height);
  const auto scaled = [&](int n) {
    return static_cast<int>(std::max<int64_t>((int64_t{n} * side + longer / 2) / longer, 1));
  };
  return {.width = scaled(size.width), .height = scaled(size.height)};
}

// The maximum of tokens for a picture.
Result<size_t> MaxTokens(const Model& model) {
  const EngineOptions& options = model.options();
  const int asked = options.image_max_tokens.value_or(kDefaultImageMaxTokens);
  if (asked <= 0) {
    // The model's own limit, which it exceeds for long and thin pictures.
    RKV_ASSIGN_OR_RETURN(const PictureTokens large, CountPictureTokens(model, kLargePicture));
    return large.n_tokens;
  }
  const auto max_tokens = static_cast<size_t>(std::max(asked, options.image_min_tokens));
  if (options.image_max_tokens.has_value()) return max_tokens;
  // A model with tiles has been trained with all of them.
  RKV_ASSIGN_OR_RETURN(const PictureTokens small, CountPictureTokens(model, kSmallPicture));
  RKV_ASSIGN_OR_RETURN(const PictureTokens large, CountPictureTokens(model, kLargePicture));
  const bool any_resolution = large.n_pieces == 1 && 4 * small.n_tokens <= max_tokens;
  return any_resolution ? max_tokens : std::max(max_tokens, large.n_tokens);
}

}  // namespace

Result<PictureTokens> CountPictureTokens(const Model& model, const PictureSize& size) {
  const LlamaPtr<mtmd_bitmap> bitmap(mtmd_bitmap_init(static_cast<uint32_t>(size.width),
                                                      static_cast<uint32_t>(size.height), nullptr));
  const std::string_view marker = mtmd_default_marker();
  const mtmd_input_text text{.text = marker.data(),
                             .text_len = marker.size(),
                             .add_special = false,
                             .parse_special = true};
  const mtmd_bitmap* bitmaps[] = {bitmap.get()};
  const LlamaPtr<mtmd_input_chunks> chunks(mtmd_input_chunks_init());
  const LlamaErrorLog log;
  if (mtmd_tokenize(model.vision(), chunks.get(), &text, bitmaps, 1) != 0) {
    return BadFile(fmt::format("a picture of {} x {} pixels cannot be prepared for the model{}",
                               size.width, size.height, log.Reason()));
  }
  PictureTokens tokens;
  for (size_t i = 0; i < mtmd_input_chunks_size(chunks.get()); ++i) {
    const mtmd_input_chunk* chunk = mtmd_input_chunks_get(chunks.get(), i);
    tokens.n_positions += mtmd_input_chunk_get_n_pos(chunk);
    if (mtmd_input_chunk_get_type(chunk) == MTMD_INPUT_CHUNK_TYPE_TEXT) continue;
    tokens.n_tokens += mtmd_input_chunk_get_n_tokens(chunk);
    ++tokens.n_pieces;
  }
  return tokens;
}

Result<PicturePlan> PlanPicture(const Model& model, const PictureSize& size) {
  RKV_ASSIGN_OR_RETURN(const size_t max_tokens, MaxTokens(model));
  RKV_ASSIGN_OR_RETURN(const PictureTokens own, CountPictureTokens(model, size));
  PicturePlan plan{.size = size, .tokens = own};
  if (own.n_tokens > max_tokens) {
    // The model's own minimum is always allowed.
    int low = std::min(std::max(size.width, size.height), kSmallPicture.width);
    plan.size = WithLongerSide(size, low);
    RKV_ASSIGN_OR_RETURN(plan.tokens, CountPictureTokens(model, plan.size));
    const size_t allowed = std::max(max_tokens, plan.tokens.n_tokens);
    for (int high = std::max(size.width, size.height); high - low > 1;) {
      const int side = low + (high - low) / 2;
      const PictureSize tried = WithLongerSide(size, side);
      RKV_ASSIGN_OR_RETURN(const PictureTokens tokens, CountPictureTokens(model, tried));
      if (tokens.n_tokens <= allowed) {
        low = side;
        plan.size = tried;
        plan.tokens = tokens;
      } else {
        high = side;
      }
    }
    plan.fewer_tokens = plan.tokens.n_tokens < own.n_tokens;
    // A model with equally many tokens for every size gets all pixels.
    if (!plan.fewer_tokens) plan = {.size = size, .tokens = own};
  }
  const uint64_t useful = plan.tokens.n_pieces > 1
                              ? kMaxTiledPixels
                              : std::max(kMinPixels, kPixelsOfToken * plan.tokens.n_tokens);
  const PictureSize fitting = FitPicture(plan.size, useful, kMaxSide);
  if (fitting == plan.size) return plan;
  plan.size = fitting;
  RKV_ASSIGN_OR_RETURN(plan.tokens, CountPictureTokens(model, fitting));
  return plan;
}

}  // namespace rkv
