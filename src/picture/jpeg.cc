// <jpeglib.h> needs FILE, and <jerror.h> needs <jpeglib.h>.
#include <cstdio>
//
#include <jpeglib.h>
//
#include <fmt/format.h>
#include <jerror.h>

#include <algorithm>
#include <csetjmp>

#include "base/bytes.h"
#include "picture/decoder.h"
#include "picture/exif.h"
#include "picture/row_scaler.h"

namespace rkv {

namespace {

// libjpeg reports errors by a jump, which runs no destructors. Functions that it leaves or returns
// to therefore have only members and plain numbers.
class JpegReader {
 public:
  JpegReader(std::string_view bytes, const Deadline* deadline) : deadline_(deadline) {
    info_.err = jpeg_std_error(&errors_.base);
    errors_.base.error_exit = [](j_common_ptr info) { Self(info).Fail(); };
    errors_.base.emit_message = [](j_common_ptr info, int level) {
      if (level < 0) Self(info).Warn();
    };
    errors_.base.output_message = [](j_common_ptr) {};
    errors_.reader = this;
    progress_.base.progress_monitor = [](j_common_ptr info) { Self(info).Watch(); };
    if (setjmp(jump_) != 0) return;
    jpeg_create_decompress(&info_);
    created_ = true;
    info_.progress = &progress_.base;
    jpeg_mem_src(&info_, reinterpret_cast<const unsigned char*>(bytes.data()),
                 static_cast<unsigned long>(bytes.size()));
    if (deadline != nullptr) {
      info_.mem->max_memory_to_use = static_cast<long>(deadline->limits().max_bytes);
    }
  }
  ~JpegReader() {
    if (created_) jpeg_destroy_decompress(&info_);
  }
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;

  bool ReadHeader() {
    if (!created_ || setjmp(jump_) != 0) return false;
    return jpeg_read_header(&info_, TRUE) == JPEG_HEADER_OK;
  }

  // Decodes at 1/2, 1/4 or 1/8 of the size if the result is not smaller than `size`.
  bool Start(const PictureSize& size) {
    if (setjmp(jump_) != 0) return false;
    const bool inks = info_.jpeg_color_space == JCS_CMYK || info_.jpeg_color_space == JCS_YCCK;
    info_.out_color_space = inks ? JCS_CMYK : JCS_RGB;
    info_.do_block_smoothing = FALSE;  // It would guess missing data.
    info_.scale_num = 1;
    for (info_.scale_denom = 8; info_.scale_denom > 1; info_.scale_denom /= 2) {
      jpeg_calc_output_dimensions(&info_);
      if (info_.output_width >= static_cast<JDIMENSION>(size.width) &&
          info_.output_height >= static_cast<JDIMENSION>(size.height)) {
        break;
      }
    }
    return jpeg_start_decompress(&info_) == TRUE;
  }

  // The next row, in `out_color_space`.
  bool ReadRow(uint8_t* row) {
    if (setjmp(jump_) != 0) return false;
    JSAMPROW rows[] = {row};
    return jpeg_read_scanlines(&info_, rows, 1) == 1;
  }

  // REQUIRES: the last call returned false.
  Status Error() {
    if (out_of_time_) return deadline_->Error();
    if (too_many_scans_) {
      return BadFile(
          fmt::format("is a JPEG file of more than {} scans", deadline_->limits().max_scans));
    }
    if (cut_off_ || errors_.base.msg_code == JERR_INPUT_EOF ||
        errors_.base.msg_code == JERR_INPUT_EMPTY) {
      return CutOff();
    }
    if (errors_.base.msg_code == JERR_NO_BACKING_STORE ||
        errors_.base.msg_code == JERR_OUT_OF_MEMORY) {
      return BadFile("needs too much memory to be decoded; scale it down");
    }
    char text[JMSG_LENGTH_MAX] = "there is no picture in it";
    if (errors_.base.msg_code != 0) {
      errors_.base.format_message(reinterpret_cast<j_common_ptr>(&info_), text);
    }
    return Damaged("JPEG", text);
  }

  const jpeg_decompress_struct& info() const { return info_; }

 private:
  struct ErrorManager {
    jpeg_error_mgr base{};
    JpegReader* reader = nullptr;
  };
  struct ProgressManager {
    jpeg_progress_mgr base{};
  };

  static JpegReader& Self(j_common_ptr info) {
    return *reinterpret_cast<ErrorManager*>(info->err)->reader;
  }

  [[noreturn]] void Fail() { std::longjmp(jump_, 1); }

  // Refuses files for which libjpeg only warns and invents pixels.
  void Warn() {
    switch (errors_.base.msg_code) {
      case JWRN_HIT_MARKER:  // A scan ends before its blocks.
        cut_off_ = true;
        Fail();
      case JWRN_HUFF_BAD_CODE:
      case JWRN_ARITH_BAD_CODE:
      case JWRN_MUST_RESYNC:
      case JWRN_NOT_SEQUENTIAL:
        Fail();
      default:  // e.g. no end mark, or bytes between markers
        break;
    }
  }

  void Watch() {
    if (deadline_ == nullptr) return;
    too_many_scans_ = info_.input_scan_number > deadline_->limits().max_scans;
    out_of_time_ = deadline_->passed();
    if (too_many_scans_ || out_of_time_) Fail();
  }

  const Deadline* deadline_;
  jpeg_decompress_struct info_{};
  ErrorManager errors_;
  ProgressManager progress_;
  std::jmp_buf jump_{};
  bool created_ = false;
  bool cut_off_ = false;
  bool too_many_scans_ = false;
  bool out_of_time_ = false;
};

// The orientation in the first EXIF segment before the pixels.
int JpegOrientation(std::string_view bytes) {
  for (size_t at = 2; at + 4 <= bytes.size();) {
    const auto marker = static_cast<uint8_t>(bytes[at + 1]);
    if (static_cast<uint8_t>(bytes[at]) != 0xFF || marker == 0xDA) break;
    if (marker == 0xFF) {  // filling
      ++at;
      continue;
    }
    const uint64_t length = BigEndian(bytes, at + 2, 2);
    const std::string_view body = bytes.substr(at + 4).substr(0, length < 2 ? 0 : length - 2);
    if (marker == 0xE1 && body.starts_with("Exif")) return ExifOrientation(body);
    at += 2 + std::max<uint64_t>(length, 2);
  }
  return 1;
}

// Inks on white paper; Adobe's files have them inverted.
void RgbOfInks(const uint8_t* cmyk, size_t n, bool inverted, uint8_t* rgb) {
  for (size_t i = 0; i < n; ++i, cmyk += 4, rgb += 3) {
    const int flip = inverted ? 0 : 255;
    const int paper = cmyk[3] ^ flip;
    for (int c = 0; c < 3; ++c) {
      rgb[c] = static_cast<uint8_t>(((cmyk[c] ^ flip) * paper + 127) / 255);
    }
  }
}

}  // namespace

Result<FileHeader> ReadJpegHeader(std::string_view bytes) {
  JpegReader reader(bytes, nullptr);
  if (!reader.ReadHeader()) return reader.Error();
  const jpeg_decompress_struct& info = reader.info();
  FileHeader header;
  header.size = {static_cast<int>(info.image_width), static_cast<int>(info.image_height)};
  header.orientation = JpegOrientation(bytes);
  // Holds the coefficients of all blocks until the last scan.
  if (jpeg_has_multiple_scans(const_cast<jpeg_decompress_struct*>(&info))) {
    for (int i = 0; i < info.num_components; ++i) {
      const jpeg_component_info& component = info.comp_info[i];
      header.buffer_bytes += uint64_t{component.width_in_blocks} * component.height_in_blocks *
                             DCTSIZE2 * sizeof(JCOEF);
    }
  }
  return header;
}

Result<std::vector<uint8_t>> DecodeJpeg(std::string_view bytes, const PictureSize& size,
                                        const Deadline& deadline) {
  JpegReader reader(bytes, &deadline);
  if (!reader.ReadHeader() || !reader.Start(size)) return reader.Error();
  const jpeg_decompress_struct& info = reader.info();
  const bool inks = info.out_color_space == JCS_CMYK;
  const size_t width = info.output_width;
  std::vector<uint8_t> row(width * static_cast<size_t>(info.output_components));
  std::vector<uint8_t> rgb(inks ? 3 * width : 0);
  RowScaler scaler({static_cast<int>(width), static_cast<int>(info.output_height)}, size);
  while (!scaler.complete()) {
    if (!reader.ReadRow(row.data())) return reader.Error();
    if (inks) RgbOfInks(row.data(), width, info.saw_Adobe_marker, rgb.data());
    scaler.AddRow(inks ? rgb.data() : row.data());
  }
  return scaler.Take();
}

}  // namespace rkv
