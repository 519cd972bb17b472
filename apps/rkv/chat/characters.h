// UTF-8 characters, as users type them and as a terminal shows them.
#ifndef RETENTIVEKV_APPS_RKV_CHAT_CHARACTERS_H_
#define RETENTIVEKV_APPS_RKV_CHAT_CHARACTERS_H_

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace rkv::app {

// The first character of `text`, which must not be empty, and its number of bytes in `length`. A
// byte that is not UTF-8 becomes one U+FFFD. Nothing if `text` is only the beginning of a
// character.
std::optional<wchar_t> FirstCharacter(std::string_view text, size_t& length);

std::wstring Widen(std::string_view utf8);
std::string Narrow(std::wstring_view text);

// Makes a foreign text, such as an answer, safe for a terminal: control characters could do
// anything to it. Keeps line breaks and tabs, removes carriage returns, and replaces other control
// characters by Unicode's pictures of them.
std::string Printable(std::string_view text);

// Sets a UTF-8 locale for the C library, whatever the user's locale, so that it knows the width of
// a character.
void UseUtf8();

}  // namespace rkv::app

#endif  // RETENTIVEKV_APPS_RKV_CHAT_CHARACTERS_H_
