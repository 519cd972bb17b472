#include "eval/pictures.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <string_view>

#include "eval/random.h"

#define STB_IMAGE_WRITE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STBI_WRITE_NO_STDIO
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#include <stb_image_write.h>
#pragma GCC diagnostic pop

namespace rkv::app {

namespace {

using Rgb = std::array<int, 3>;

struct Glyph {
  char character;
  int size;
  int left;
  int top;
  int width;
  int height;
  int advance;
  std::string_view coverage;
};

constexpr Glyph kGlyphs[] = {
#include "eval/glyphs.inc"
};

// The model was trained on characters that stand in cells of 16 x 16 pixels, one pixel off at most.
constexpr int kCell = 16;
constexpr int kCells = kPictureSize / kCell;
constexpr int kDocSize = 12;
constexpr int kMaxItems = 10;  // on a picture

struct Color {
  std::string_view name;
  Rgb rgb;
};
constexpr Color kColors[] = {
    {"red", {220, 30, 30}},  {"green", {20, 150, 40}},  {"blue", {30, 60, 220}},
    {"black", {0, 0, 0}},    {"orange", {240, 140, 0}}, {"purple", {140, 30, 170}},
    {"cyan", {0, 170, 190}}, {"pink", {240, 90, 170}},
};

const Glyph& FindGlyph(char character, int size) {
  return *std::ranges::find_if(kGlyphs, [&](const Glyph& glyph) {
    return glyph.character == character && glyph.size == size;
  });
}

int HexDigit(char c) { return c <= '9' ? c - '0' : c - 'a' + 10; }

Picture Blank(const Rgb& background) {
  Picture picture;
  for (size_t i = 0; i < picture.pixels.size(); ++i) {
    picture.pixels[i] = static_cast<uint8_t>(background[i % 3]);
  }
  return picture;
}

// (x, y) is the upper left corner of the line.
void Draw(Picture& picture, const Glyph& glyph, int x, int y, const Rgb& ink) {
  for (int row = 0; row < glyph.height; ++row) {
    for (int column = 0; column < glyph.width; ++column) {
      const int px = x + glyph.left + column;
      const int py = y + glyph.top + row;
      if (px < 0 || py < 0 || px >= kPictureSize || py >= kPictureSize) continue;
      const auto at = static_cast<size_t>(2 * (row * glyph.width + column));
      const int cover = 16 * HexDigit(glyph.coverage[at]) + HexDigit(glyph.coverage[at + 1]);
      uint8_t* pixel = &picture.pixels[static_cast<size_t>(3 * (py * kPictureSize + px))];
      for (int c = 0; c < 3; ++c) {
        const int mixed = pixel[c] * (255 - cover) + ink[static_cast<size_t>(c)] * cover;
        pixel[c] = static_cast<uint8_t>((mixed + 127) / 255);
      }
    }
  }
}

std::vector<char> Letters(EvalRandom& random) {
  std::vector<char> letters(26);
  std::iota(letters.begin(), letters.end(), 'A');
  random.Shuffle(std::span(letters));
  return letters;
}

struct Item {
  char key;
  std::string value;
};

std::vector<Item> DrawScene(EvalRandom& random, Picture& picture) {
  picture = Blank({random.Between(230, 255), random.Between(230, 255), random.Between(230, 255)});
  const std::vector<char> letters = Letters(random);
  std::vector<int> cells(kCells * (kCells - 1));  // none in the first column
  std::iota(cells.begin(), cells.end(), 0);
  random.Shuffle(std::span(cells));
  std::vector<Item> items(static_cast<size_t>(random.Between(7, kMaxItems)));
  for (size_t i = 0; i < items.size(); ++i) {
    const Glyph& glyph = FindGlyph(letters[i], random.Between(13, 14));
    const int column = 1 + cells[i] % (kCells - 1);
    const int row = cells[i] / (kCells - 1);
    const int x = column * kCell + 8 - glyph.advance / 2 + random.Between(-1, 0);
    const int y = row * kCell + random.Between(-1, 1);
    const Color& color = kColors[random.Below(std::size(kColors))];
    Draw(picture, glyph, x, y, color.rgb);
    items[i] = {.key = letters[i], .value = std::string(color.name)};
  }
  return items;
}

// `tens` are the tens digits that are left in this conversation.
std::vector<Item> DrawDoc(EvalRandom& random, size_t n_items, std::vector<int>& tens,
                          Picture& picture) {
  const int paper = random.Between(236, 255);
  picture = Blank({paper, paper, paper});
  const std::vector<char> letters = Letters(random);
  std::vector<int> places(2 * kCells);  // two columns of lines
  std::iota(places.begin(), places.end(), 0);
  random.Shuffle(std::span(places));
  const int dx = random.Between(0, 1);
  const int dy = random.Between(0, 1);
  std::vector<Item> items(n_items);
  for (size_t i = 0; i < n_items; ++i) {
    const int column = places[i] % 2 * (kCells / 2) + random.Between(0, 1);
    const int y = places[i] / 2 * kCell + dy;
    const int x = column * kCell + dx;
    const Rgb ink = {0, 0, random.Between(0, 80)};
    const Glyph& key = FindGlyph(letters[i], kDocSize);
    Draw(picture, key, x + 4 - key.advance / 2, y, ink);
    items[i] = {.key = letters[i], .value = fmt::format("{}{}", tens.back(), random.Below(10))};
    tens.pop_back();
    int at = x + kCell;
    for (const char digit : items[i].value) {
      const Glyph& glyph = FindGlyph(digit, kDocSize);
      Draw(picture, glyph, at, y, ink);
      at += glyph.advance;
    }
  }
  return items;
}

}  // namespace

std::string PngBytes(const Picture& picture) {
  std::string bytes;
  const auto append = [](void* context, void* data, int size) {
    static_cast<std::string*>(context)->append(static_cast<const char*>(data),
                                               static_cast<size_t>(size));
  };
  stbi_write_png_to_func(append, &bytes, kPictureSize, kPictureSize, 3, picture.pixels.data(),
                         3 * kPictureSize);
  return bytes;
}

PictureConversation MakePictureConversation(uint64_t seed, int n_pictures) {
  EvalRandom random(seed);
  std::vector<bool> is_doc;
  for (int i = 0; i < n_pictures; ++i) is_doc.push_back(random.Below(2) == 0);
  const auto n_docs = static_cast<size_t>(std::ranges::count(is_doc, true));
  std::vector<int> tens(10);
  std::iota(tens.begin(), tens.end(), 0);
  random.Shuffle(std::span(tens));

  PictureConversation conversation;
  for (int i = 0; i < n_pictures; ++i) {
    Picture& picture = conversation.pictures.emplace_back();
    const bool doc = is_doc[static_cast<size_t>(i)];
    const auto n_records = n_docs > 1 ? 10 / n_docs : static_cast<size_t>(random.Between(6, 10));
    const std::vector<Item> items =
        doc ? DrawDoc(random, std::min(n_records, tens.size()), tens, picture)
            : DrawScene(random, picture);
    const std::string page = n_pictures > 1 ? fmt::format("page {} ", i + 1) : "";
    for (const Item& item : items) {
      conversation.questions.push_back(
          {.text = fmt::format("{}{} of {}", page, doc ? "value" : "color", item.key),
           .answer = item.value});
    }
  }
  random.Shuffle(std::span(conversation.questions));
  return conversation;
}

}  // namespace rkv::app
