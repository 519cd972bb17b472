// Pictures of the kinds that the bundled model reads, with questions and answers.
#ifndef RETENTIVEKV_APPS_RKV_EVAL_PICTURES_H_
#define RETENTIVEKV_APPS_RKV_EVAL_PICTURES_H_

#include <cstdint>
#include <string>
#include <vector>

namespace rkv::app {

inline constexpr int kPictureSize = 128;  // pixels, both ways

// RGB, row by row.
struct Picture {
  std::vector<uint8_t> pixels = std::vector<uint8_t>(3 * kPictureSize * kPictureSize);
};

std::string PngBytes(const Picture& picture);

struct Question {
  std::string text;
  std::string answer;
};

// Pictures of a conversation, and everything that can be asked about them, in random order.
struct PictureConversation {
  std::vector<Picture> pictures;
  std::vector<Question> questions;
};

// The same seed gives the same bytes. With several pictures, questions name the page.
PictureConversation MakePictureConversation(uint64_t seed, int n_pictures);

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_EVAL_PICTURES_H_
