#include "serve/digest.h"

#include <gtest/gtest.h>

namespace rkv::app {
namespace {

TEST(DigestTest, Sha256OfKnownTexts) {
  EXPECT_EQ(Sha256(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(DigestTest, RandomNamesDiffer) {
  EXPECT_EQ(RandomHex(16).size(), 32u);
  EXPECT_NE(RandomHex(16), RandomHex(16));
  EXPECT_TRUE(EqualSecrets("key", "key"));
  EXPECT_FALSE(EqualSecrets("key", "keys"));
}

TEST(Base64Test, DecodesWhatTheRfcShows) {
  const std::pair<const char*, const char*> cases[] = {{"", ""},
                                                       {"Zg==", "f"},
                                                       {"Zm8=", "fo"},
                                                       {"Zm9v", "foo"},
                                                       {"Zg", "f"},
                                                       {"Zm9vYg==", "foob"},
                                                       {"Zm9vYmE=", "fooba"},
                                                       {"Zm9v\r\nYmFy", "foobar"},
                                                       {"//79", "\xFF\xFE\xFD"}};
  for (const auto& [text, expected] : cases) {
    std::string bytes;
    EXPECT_TRUE(DecodeBase64(text, bytes)) << text;
    EXPECT_EQ(bytes, expected) << text;
  }
}

TEST(Base64Test, RefusesWhatIsNone) {
  for (const char* text :
       {"Z", "Zg=", "Zg===", "Zm9v=", "=", "Zg==Zg==", "Zm 9v", "Zm9v-_", "\xC3\xA4"}) {
    std::string bytes;
    EXPECT_FALSE(DecodeBase64(text, bytes)) << text;
  }
}

}  // namespace
}  // namespace rkv::app
