// Decodes UTF-8 strictly: overlong forms, surrogates and numbers beyond Unicode are no characters.
#include "chat/characters.h"

#include <langinfo.h>

#include <clocale>

namespace rkv::app {

namespace {

constexpr wchar_t kReplacement = 0xFFFD;
constexpr wchar_t kControlPictures = 0x2400;  // of U+0000 to U+001F
constexpr wchar_t kDelete = 0x7F;
constexpr wchar_t kDeletePicture = 0x2421;

void Append(wchar_t character, std::string& text) {
  const auto c = static_cast<uint32_t>(character);
  const auto continuation = [c](int shift) {
    return static_cast<char>(0x80 | (c >> shift & 0x3F));
  };
  if (c < 0x80) {
    text += static_cast<char>(c);
    return;
  }
  if (c < 0x800) {
    text += static_cast<char>(0xC0 | c >> 6);
  } else {
    if (c < 0x10000) {
      text += static_cast<char>(0xE0 | c >> 12);
    } else {
      text += static_cast<char>(0xF0 | c >> 18);
      text += continuation(12);
    }
    text += continuation(6);
  }
  text += continuation(0);
}

bool SpeaksUtf8(const char* locale) {
  return std::setlocale(LC_CTYPE, locale) != nullptr &&
         std::string_view(::nl_langinfo(CODESET)) == "UTF-8";
}

// Calls `take` with each character; a truncated character is U+FFFD.
template <typename Take>
void ForEachCharacter(std::string_view text, const Take& take) {
  while (!text.empty()) {
    size_t length = 1;
    take(FirstCharacter(text, length).value_or(kReplacement));
    text.remove_prefix(length);
  }
}

}  // namespace

std::optional<wchar_t> FirstCharacter(std::string_view text, size_t& length) {
  const auto first = static_cast<unsigned char>(text[0]);
  length = 1;
  if (first < 0x80) return first;
  // 0xC0, 0xC1 and bytes above 0xF4 begin no character.
  const size_t whole = first < 0xC2   ? 0
                       : first < 0xE0 ? 2
                       : first < 0xF0 ? 3
                       : first < 0xF5 ? 4
                                      : 0;
  if (whole == 0) return kReplacement;
  uint32_t c = first & (0x7Fu >> whole);
  for (size_t i = 1; i < whole; ++i) {
    if (i == text.size()) return std::nullopt;
    const auto next = static_cast<unsigned char>(text[i]);
    if ((next & 0xC0) != 0x80) return kReplacement;
    c = c << 6 | (next & 0x3Fu);
    // The second byte shows an overlong form, a surrogate, or a number beyond Unicode.
    const bool bad = (first == 0xE0 && next < 0xA0) || (first == 0xED && next > 0x9F) ||
                     (first == 0xF0 && next < 0x90) || (first == 0xF4 && next > 0x8F);
    if (i == 1 && bad) return kReplacement;
  }
  length = whole;
  return static_cast<wchar_t>(c);
}

std::wstring Widen(std::string_view utf8) {
  std::wstring text;
  ForEachCharacter(utf8, [&](wchar_t c) { text += c; });
  return text;
}

std::string Narrow(std::wstring_view text) {
  std::string utf8;
  for (const wchar_t c : text) Append(c, utf8);
  return utf8;
}

std::string Printable(std::string_view text) {
  std::string printable;
  ForEachCharacter(text, [&](wchar_t c) {
    if (c == '\r') return;
    if (c < 0x20 && c != '\n' && c != '\t') c += kControlPictures;
    if (c == kDelete) c = kDeletePicture;
    if (c >= 0x80 && c < 0xA0) c = kReplacement;
    Append(c, printable);
  });
  return printable;
}

void UseUtf8() {
  // The environment's locale knows the characters of its language best; the others exist on every
  // system.
  for (const char* locale : {"", "C.UTF-8", "en_US.UTF-8"}) {
    if (SpeaksUtf8(locale)) return;
  }
}

}  // namespace rkv::app
