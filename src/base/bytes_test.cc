#include "base/bytes.h"

#include <gtest/gtest.h>

namespace rkv {
namespace {

TEST(BytesTest, RoundTrip) {
  ByteWriter writer;
  writer.Write<uint32_t>(7);
  writer.WriteString("a picture");
  writer.Write<float>(0.5f);
  ByteReader reader(writer.buffer());
  EXPECT_EQ(reader.Read<uint32_t>(), 7u);
  EXPECT_EQ(reader.ReadString(), "a picture");
  EXPECT_EQ(reader.Read<float>(), 0.5f);
  EXPECT_TRUE(reader.ok());
  EXPECT_EQ(reader.remaining(), 0u);
}

TEST(BytesTest, ReadingPastTheEndFailsAndStaysFailed) {
  ByteReader reader("ab");
  EXPECT_EQ(reader.Read<uint32_t>(), 0u);
  EXPECT_FALSE(reader.ok());
}

TEST(BytesTest, DamagedLengthsDoNotAllocate) {
  ByteWriter writer;
  writer.Write<uint64_t>(uint64_t{1} << 60);
  ByteReader strings(writer.buffer());
  EXPECT_EQ(strings.ReadString(), "");
  EXPECT_FALSE(strings.ok());
  ByteReader counts(writer.buffer());
  EXPECT_EQ(counts.ReadCount(8), 0u);
  EXPECT_FALSE(counts.ok());
}

TEST(BytesTest, HashSeesEveryByteAndTheLength) {
  std::string bytes(100, 'x');
  const uint64_t hash = Hash64(bytes);
  for (char& byte : bytes) {
    byte = 'y';
    EXPECT_NE(Hash64(bytes), hash);
    byte = 'x';
  }
  EXPECT_EQ(Hash64(bytes), hash);
  EXPECT_NE(Hash64(std::string(8, '\0')), Hash64(std::string(9, '\0')));
  EXPECT_NE(Hash64(bytes, 1), hash);
}

}  // namespace
}  // namespace rkv
