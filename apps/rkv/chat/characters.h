// Characters of UTF-8, as they are typed and as a terminal shows them.
#ifndef RETENTIVEKV_APPS_RKV_CHAT_CHARACTERS_H_
#define RETENTIVEKV_APPS_RKV_CHAT_CHARACTERS_H_

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace rkv::app {

// The character that `text`, which is not empty, begins with, and in `length` how many bytes it
// takes. Bytes that are not UTF-8 are U+FFFD, one by one. Nothing if `text` is only the beginning
// of a character.
std::optional<wchar_t> FirstCharacter(std::string_view text, size_t& length);

std::wstring Widen(std::string_view utf8);
std::string Narrow(std::wstring_view text);

// A text that others wrote, such as an answer, as it may be sent to a terminal: without control
// characters, which could do anything to it. Line breaks and tabs stay, carriage returns go, others
// are shown as the pictures that Unicode has of them.
std::string Printable(std::string_view text);

// Makes the C library know UTF-8 in whatever locale the user is, so that it can tell how wide a
// character is.
void UseUtf8();

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_CHAT_CHARACTERS_H_
