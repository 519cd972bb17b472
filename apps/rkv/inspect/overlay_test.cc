// Overlays of a small cell map: shapes, pixels and SVG.
#include "inspect/overlay.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <regex>
#include <string>

namespace rkv::app {
namespace {

constexpr uint8_t kGone = HeadInspection::kForgotten;

// A picture of 2 x 3 cells after one token of text, in two heads with different rungs.
Inspection SmallInspection() {
  Inspection inspection;
  inspection.shape.layers = {{.n_head = 2, .n_kv_head = 2, .d_k = 64, .d_v = 64}};
  inspection.rungs = ParseLadder("f16,q4_0")->rungs;
  inspection.media = {{.first_token = 1, .modality = Modality::kImage, .rows = 2, .columns = 3}};
  inspection.stats.tokens_seen = 7;
  inspection.answer_tokens = 2;
  HeadInspection head;
  head.rung = {0, 0, 1, kGone, kGone, 1, 0};
  head.root = {-1, -1, -1, 2, -1, -1, -1};
  head.share = {0.25f, 0.5f, 0, 0, 0, 0.125f, 0};
  head.states = {{.root = 2, .mass = 1, .share = 0.125f}};
  inspection.heads.push_back(head);
  head.kv_head = 1;
  head.rung = {0, 0, 0, kGone, kGone, 1, kGone};
  head.root = {-1, -1, -1, 2, 0, -1, -1};
  inspection.heads.push_back(head);
  return inspection;
}

Raster White(int width, int height) {
  return {.width = width,
          .height = height,
          .pixels = std::vector<uint8_t>(static_cast<size_t>(3 * width * height), 255)};
}

CellMap MapOf(const HeadFilter& filter) {
  const Inspection inspection = SmallInspection();
  return MakeCellMap(inspection, inspection.media[0], filter);
}

Overlay OverlayOf(const CellMap& map) { return MakeOverlay(map, 30, 20, "a < b & c", true); }

TEST(OverlayTest, SmallPicturesAreEnlargedAndLargeOnesAreNot) {
  const CellMap map = MapOf({});
  const Overlay small = OverlayOf(map);
  EXPECT_EQ(small.picture_width, 540);  // 18 times
  EXPECT_EQ(small.picture_height, 360);
  EXPECT_EQ(small.width, 540);
  EXPECT_GT(small.height, 400);  // The legend.
  EXPECT_LT(small.height, 700);
  EXPECT_EQ(MakeOverlay(map, 1000, 700, "", true).picture_width, 1000);
  const Overlay tall = MakeOverlay(map, 1, 5000, "", true);
  EXPECT_EQ(tall.picture_width, 1);
  EXPECT_EQ(tall.picture_height, 5000);
  EXPECT_EQ(tall.width, 512);
  DrawOverlay(tall, White(1, 5000));
}

TEST(OverlayTest, ACellHasTheColorOfItsRung) {
  EXPECT_EQ(PrecisionColor(1), (Rgb{253, 231, 37}));
  EXPECT_EQ(PrecisionColor(0), (Rgb{68, 1, 84}));
  const Overlay overlay = OverlayOf(MapOf({.layer = 0, .kv_head = 0}));
  const Raster drawn = DrawOverlay(overlay, White(30, 20));
  ASSERT_EQ(drawn.width, overlay.width);
  ASSERT_EQ(drawn.height, overlay.height);
  const auto tinted = [&](double precision, int x, int y) {
    const Rgb color = PrecisionColor(precision);
    for (size_t c = 0; c < 3; ++c) {
      EXPECT_NEAR(drawn.at(x, y)[c], 0.45 * 255 + 0.55 * color[c], 1) << x << ' ' << y;
    }
  };
  tinted(1.0, 60, 60);    // f16
  tinted(0.5, 240, 60);   // q4_0
  tinted(0.0, 60, 240);   // forgotten
  tinted(0.5, 240, 240);  // q4_0
  tinted(1.0, 420, 240);  // f16
}

TEST(OverlayTest, CellsThatWereReadAreOutlinedByTheirShare) {
  const Overlay overlay = OverlayOf(MapOf({.layer = 0, .kv_head = 0}));
  std::vector<Shape> frames;
  for (const Shape& shape : overlay.shapes) {
    if (shape.kind == Shape::Kind::kFrame && shape.y < 360) frames.push_back(shape);
  }
  ASSERT_EQ(frames.size(), 2u);
  EXPECT_EQ(frames[0].x, 0);
  EXPECT_EQ(frames[0].y, 0);
  EXPECT_EQ(frames[1].x, 180);
  EXPECT_EQ(frames[1].y, 180);
  EXPECT_NEAR((frames[0].thickness - 1) / (frames[1].thickness - 1), 4, 1e-6);
  const Raster drawn = DrawOverlay(overlay, White(30, 20));
  EXPECT_GT(drawn.at(3, 90)[0], 200);  // red
  EXPECT_LT(drawn.at(3, 90)[1], 60);
}

TEST(OverlayTest, AbsorbedCellsLeadToTheirRoots) {
  const Overlay overlay = OverlayOf(MapOf({.layer = 0, .kv_head = 1}));
  const auto line = std::ranges::find(overlay.shapes, Shape::Kind::kLine, &Shape::kind);
  ASSERT_NE(line, overlay.shapes.end());
  EXPECT_EQ(line->x, 450);  // from cell 2
  EXPECT_EQ(line->y, 90);
  EXPECT_EQ(line->x + line->width, 270);  // to cell 1
  EXPECT_EQ(line->y + line->height, 90);
  // The root of cell 3 is text.
  EXPECT_TRUE(std::ranges::any_of(overlay.shapes, [](const Shape& shape) {
    return shape.kind == Shape::Kind::kText && shape.text == "t0" && shape.y > 180;
  }));
}

TEST(OverlayTest, PngDecodesToWhatWasDrawn) {
  const Raster drawn = DrawOverlay(OverlayOf(MapOf({})), White(30, 20));
  const auto decoded = DecodePicture(EncodePng(drawn), "drawn");
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(decoded->width, drawn.width);
  EXPECT_EQ(decoded->height, drawn.height);
  EXPECT_EQ(decoded->pixels, drawn.pixels);
  EXPECT_FALSE(DecodePicture("no picture", "some.png").ok());
}

// A JPEG that is stored sideways is drawn upright, and embedded in the form that viewers show.
TEST(OverlayTest, PicturesAreUpright) {
  std::ifstream file(RKV_SOURCE_DIR "/tests/data/pictures/wide-exif6.jpg", std::ios::binary);
  const std::string bytes(std::istreambuf_iterator<char>(file), {});
  const auto picture = DecodePicture(bytes, "wide");
  ASSERT_TRUE(picture.ok()) << picture.status().message();
  EXPECT_EQ(picture->width, 256);
  EXPECT_EQ(picture->height, 128);
  const std::string svg = SvgOverlay(OverlayOf(MapOf({})), *picture, bytes);
  EXPECT_NE(svg.find("href=\"data:image/png;base64,"), std::string::npos);
}

TEST(OverlayTest, SvgIsWellFormed) {
  const Raster picture = White(30, 20);
  const CellMap map = MapOf({});
  for (const std::string& file : {EncodePng(picture), std::string("BM, say")}) {
    const std::string svg = SvgOverlay(OverlayOf(map), picture, file);
    EXPECT_NE(svg.find("href=\"data:image/png;base64," + Base64(EncodePng(picture)) + "\""),
              std::string::npos);
    EXPECT_NE(svg.find("a &lt; b &amp; c"), std::string::npos);
    EXPECT_NE(svg.find("<title>row 2, column 3: f16 in 50 % of heads; forgotten in 50 % of heads;"),
              std::string::npos);
    // Tags are closed in the order in which they were opened.
    const std::regex tag("<(/?)([a-zA-Z]+)(?: [a-z][A-Za-z0-9:-]*=\"[^\"<&]*\")*(/?)>");
    std::vector<std::string> open;
    size_t n_tags = 0;
    const std::string body = svg.substr(svg.find("<svg"));
    for (std::sregex_iterator it(body.begin(), body.end(), tag), end; it != end; ++it) {
      ++n_tags;
      if ((*it)[3] == "/") continue;
      if ((*it)[1] != "/") {
        open.push_back((*it)[2]);
      } else {
        ASSERT_FALSE(open.empty());
        EXPECT_EQ(open.back(), (*it)[2]);
        open.pop_back();
      }
    }
    EXPECT_TRUE(open.empty());
    EXPECT_EQ(n_tags, static_cast<size_t>(std::ranges::count(body, '<')));
  }
}

TEST(OverlayTest, Base64OfEveryLength) {
  EXPECT_EQ(Base64(""), "");
  EXPECT_EQ(Base64("f"), "Zg==");
  EXPECT_EQ(Base64("fo"), "Zm8=");
  EXPECT_EQ(Base64("foo"), "Zm9v");
  EXPECT_EQ(Base64("\xff\xfe\xfd"), "//79");
}

}  // namespace
}  // namespace rkv::app
