// How large pictures are read: vision encoders take time and memory by tokens, and pictures come as
// large as cameras make them.
#ifndef RETENTIVEKV_LLAMA_PICTURE_SIZE_H_
#define RETENTIVEKV_LLAMA_PICTURE_SIZE_H_

#include "llama/token.h"
#include "retentivekv/picture.h"
#include "retentivekv/status.h"

namespace rkv {

class Model;

// What a picture of a size comes to.
struct PictureTokens {
  size_t n_tokens = 0;
  Position n_positions = 0;
  size_t n_pieces = 0;  // that the model cuts it into
};

// Asks mtmd, without pixels.
Result<PictureTokens> CountPictureTokens(const Model& model, const PictureSize& size);

struct PicturePlan {
  PictureSize size;  // to decode it at
  PictureTokens tokens;
  bool fewer_tokens = false;  // than the picture has at its own size
};

// The largest size with the picture's shape whose tokens are within ModelOptions::image_max_tokens.
Result<PicturePlan> PlanPicture(const Model& model, const PictureSize& size);

}  // namespace rkv

#endif  // RETENTIVEKV_LLAMA_PICTURE_SIZE_H_
