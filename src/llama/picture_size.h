// Chooses the size at which pictures are read. Vision encoders take time and memory by tokens, and
// cameras make large pictures.
#ifndef RETENTIVEKV_LLAMA_PICTURE_SIZE_H_
#define RETENTIVEKV_LLAMA_PICTURE_SIZE_H_

#include "llama/token.h"
#include "retentivekv/picture.h"
#include "retentivekv/status.h"

namespace rkv {

class Model;

// The cost of a picture of a given size.
struct PictureTokens {
  size_t n_tokens = 0;
  Position n_positions = 0;
  size_t n_pieces = 0;  // into which the model cuts the picture
};

// Asks mtmd, without any pixels.
Result<PictureTokens> CountPictureTokens(const Model& model, const PictureSize& size);

struct PicturePlan {
  PictureSize size;  // for decoding
  PictureTokens tokens;
  bool fewer_tokens = false;  // than at the picture's own size
};

// The largest size with the picture's shape and no more tokens than
// EngineOptions::image_max_tokens.
Result<PicturePlan> PlanPicture(const Model& model, const PictureSize& size);

}  // namespace rkv

#endif  // RETENTIVEKV_LLAMA_PICTURE_SIZE_H_
