// Scales a picture down row by row, by the mean over the area of each new pixel.
#ifndef RETENTIVEKV_PICTURE_ROW_SCALER_H_
#define RETENTIVEKV_PICTURE_ROW_SCALER_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "retentivekv/picture.h"

namespace rkv {

class RowScaler {
 public:
  // REQUIRES: `to` is not larger than `from`, whose sides are below 2^24.
  RowScaler(const PictureSize& from, const PictureSize& to);

  // The next row from the top, RGB [from.width].
  void AddRow(const uint8_t* rgb);
  bool complete() const { return row_ == from_.height; }
  // The result; REQUIRES: complete().
  std::vector<uint8_t> Take() { return std::move(result_); }

 private:
  void AddWeighted(uint64_t weight);
  void FinishRow();

  PictureSize from_;
  PictureSize to_;
  int row_ = 0;                     // rows taken
  int to_row_ = 0;                  // rows finished
  std::vector<uint32_t> narrowed_;  // the row at the new width, times the old width
  std::vector<uint64_t> sums_;      // of narrowed rows, times the old height
  std::vector<uint8_t> result_;
};

}  // namespace rkv

#endif  // RETENTIVEKV_PICTURE_ROW_SCALER_H_
