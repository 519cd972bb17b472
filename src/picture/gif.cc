// Decodes the first picture of a GIF file with giflib, row by row, onto the white canvas.
#include <gif_lib.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "picture/decoder.h"
#include "picture/row_scaler.h"

namespace rkv {

namespace {

struct GifDeleter {
  void operator()(GifFileType* gif) const { DGifCloseFile(gif, nullptr); }
};

// Reads a file up to the pixels of its first picture.
class GifReader {
 public:
  static Result<std::unique_ptr<GifReader>> Open(std::string_view bytes) {
    std::unique_ptr<GifReader> reader(new GifReader(bytes));
    int error = 0;
    reader->gif_.reset(DGifOpen(
        reader.get(),
        [](GifFileType* gif, GifByteType* to, int n) {
          return static_cast<GifReader*>(gif->UserData)->Read(to, n);
        },
        &error));
    if (reader->gif_ == nullptr) return reader->Error(error);
    RKV_RETURN_IF_ERROR(reader->SkipToPicture());
    return reader;
  }

  // The canvas, extended if the picture reaches over it.
  PictureSize size() const {
    const GifImageDesc& image = gif_->Image;
    return {std::max(gif_->SWidth, image.Left + image.Width),
            std::max(gif_->SHeight, image.Top + image.Height)};
  }
  const GifImageDesc& image() const { return gif_->Image; }
  int transparent() const { return transparent_; }
  const ColorMapObject* colors() const {
    return gif_->Image.ColorMap != nullptr ? gif_->Image.ColorMap : gif_->SColorMap;
  }

  // The next row of the picture as indexes of colours.
  Status ReadRow(uint8_t* indexes) {
    if (DGifGetLine(gif_.get(), indexes, gif_->Image.Width) == GIF_OK) return OkStatus();
    return Error(gif_->Error);
  }

 private:
  explicit GifReader(std::string_view bytes) : bytes_(bytes) {}

  int Read(GifByteType* to, int n) {
    const size_t size = std::min(static_cast<size_t>(std::max(n, 0)), bytes_.size());
    std::memcpy(to, bytes_.data(), size);
    bytes_.remove_prefix(size);
    ended_ = ended_ || size < static_cast<size_t>(n);
    return static_cast<int>(size);
  }

  Status Error(int code) const {
    if (ended_) return CutOff();
    const char* text = GifErrorString(code);
    return Damaged("GIF", text != nullptr ? text : "there is no picture in it");
  }

  Status SkipToPicture() {
    while (true) {
      GifRecordType type{};
      if (DGifGetRecordType(gif_.get(), &type) != GIF_OK) return Error(gif_->Error);
      if (type == IMAGE_DESC_RECORD_TYPE) break;
      if (type == TERMINATE_RECORD_TYPE) return Damaged("GIF", "there is no picture in it");
      if (type == EXTENSION_RECORD_TYPE) RKV_RETURN_IF_ERROR(ReadExtension());
    }
    if (DGifGetImageDesc(gif_.get()) != GIF_OK) return Error(gif_->Error);
    if (gif_->Image.Width < 1 || gif_->Image.Height < 1) return BadFile("has no pixels");
    if (colors() == nullptr) return Damaged("GIF", "its picture has no colours");
    return OkStatus();
  }

  Status ReadExtension() {
    int kind = 0;
    GifByteType* block = nullptr;
    int code = DGifGetExtension(gif_.get(), &kind, &block);
    while (code == GIF_OK && block != nullptr) {
      GraphicsControlBlock control{};
      if (kind == GRAPHICS_EXT_FUNC_CODE &&
          DGifExtensionToGCB(block[0], block + 1, &control) == GIF_OK) {
        transparent_ = control.TransparentColor;
      }
      code = DGifGetExtensionNext(gif_.get(), &block);
    }
    return code == GIF_OK ? OkStatus() : Error(gif_->Error);
  }

  std::string_view bytes_;  // not yet read
  bool ended_ = false;      // giflib asked for more bytes
  std::unique_ptr<GifFileType, GifDeleter> gif_;
  int transparent_ = NO_TRANSPARENT_COLOR;
};

// The rows of a picture in the order of an interlaced file.
std::vector<int> InterlacedRows(int height) {
  constexpr int kFirst[] = {0, 4, 2, 1};
  constexpr int kStep[] = {8, 8, 4, 2};
  std::vector<int> rows;
  for (int pass = 0; pass < 4; ++pass) {
    for (int row = kFirst[pass]; row < height; row += kStep[pass]) rows.push_back(row);
  }
  return rows;
}

}  // namespace

Result<FileHeader> ReadGifHeader(std::string_view bytes) {
  RKV_ASSIGN_OR_RETURN(const auto reader, GifReader::Open(bytes));
  const GifImageDesc& image = reader->image();
  const PictureSize picture{image.Width, image.Height};
  return FileHeader{.size = reader->size(),
                    .buffer_bytes = image.Interlace ? picture.n_pixels() : uint64_t{0}};
}

Result<std::vector<uint8_t>> DecodeGif(std::string_view bytes, const PictureSize& size,
                                       const Deadline& deadline) {
  RKV_ASSIGN_OR_RETURN(const auto reader, GifReader::Open(bytes));
  const GifImageDesc& image = reader->image();
  const auto width = static_cast<size_t>(image.Width);
  const auto height = static_cast<size_t>(image.Height);
  std::vector<uint8_t> indexes(width * (image.Interlace ? height : 1));
  if (image.Interlace) {
    for (const int row : InterlacedRows(image.Height)) {
      if (deadline.passed()) return deadline.Error();
      RKV_RETURN_IF_ERROR(reader->ReadRow(&indexes[width * static_cast<size_t>(row)]));
    }
  }
  const ColorMapObject& colors = *reader->colors();
  const PictureSize canvas = reader->size();
  RowScaler scaler(canvas, size);
  std::vector<uint8_t> rgb(3 * static_cast<size_t>(canvas.width));
  for (int y = 0; y < canvas.height; ++y) {
    if (deadline.passed()) return deadline.Error();
    std::ranges::fill(rgb, 255);
    const int row = y - image.Top;
    if (row >= 0 && row < image.Height) {
      if (!image.Interlace) RKV_RETURN_IF_ERROR(reader->ReadRow(indexes.data()));
      const uint8_t* from = &indexes[image.Interlace ? width * static_cast<size_t>(row) : 0];
      uint8_t* to = &rgb[3 * static_cast<size_t>(image.Left)];
      for (size_t x = 0; x < width; ++x, to += 3) {
        if (from[x] == reader->transparent()) continue;
        // An index without a colour is black.
        const GifColorType color =
            from[x] < colors.ColorCount ? colors.Colors[from[x]] : GifColorType{0, 0, 0};
        to[0] = color.Red;
        to[1] = color.Green;
        to[2] = color.Blue;
      }
    }
    scaler.AddRow(rgb.data());
  }
  return scaler.Take();
}

}  // namespace rkv
