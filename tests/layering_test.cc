// The tree keeps its own rules: which room may include which, and who may know llama.cpp.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "support/test_models.h"

namespace rkv {
namespace {

namespace fs = std::filesystem;

struct Include {
  fs::path file;
  std::string target;
};

std::vector<Include> IncludesUnder(const std::string& folder) {
  const std::regex pattern("^\\s*#\\s*include\\s*[<\"]([^>\"]+)[>\"]");
  std::vector<Include> includes;
  for (const auto& entry : fs::recursive_directory_iterator(SourcePath(folder))) {
    const std::string extension = entry.path().extension().string();
    if (extension != ".cc" && extension != ".h" && extension != ".cpp") continue;
    std::ifstream file(entry.path());
    for (std::string line; std::getline(file, line);) {
      std::smatch match;
      if (std::regex_search(line, match, pattern)) includes.push_back({entry.path(), match[1]});
    }
  }
  EXPECT_GT(includes.size(), 5u) << folder;
  return includes;
}

bool IsTest(const fs::path& file) { return file.string().ends_with("_test.cc"); }

bool IsLlamaHeader(const std::string& target) {
  const std::string name = fs::path(target).filename().string();
  return target == name && (name.starts_with("llama") || name.starts_with("ggml") ||
                            name.starts_with("gguf") || name.starts_with("mtmd"));
}

// What each room may include besides itself.
const std::map<std::string, std::set<std::string>> kAllowed = {
    {"base", {}},
    {"kernels", {"base"}},
    {"rows", {"base", "kernels"}},
    {"policies", {"base", "kernels"}},
    {"cache", {"base", "kernels", "rows", "policies"}},
    {"picture", {"base"}},
    {"llama", {"base", "kernels", "rows", "policies", "cache", "picture"}},
    {"engine", {"base", "kernels", "rows", "policies", "cache", "picture", "llama"}},
};

TEST(LayeringTest, RoomsIncludeOnlyWhatIsBelow) {
  for (const Include& include : IncludesUnder("src")) {
    if (IsTest(include.file)) continue;
    const std::string room = include.file.parent_path().filename().string();
    ASSERT_TRUE(kAllowed.contains(room)) << include.file;
    const std::string target = include.target.substr(0, include.target.find('/'));
    if (!kAllowed.contains(target) || target == include.target || target == room) continue;
    EXPECT_TRUE(kAllowed.at(room).contains(target))
        << include.file << " includes " << include.target;
  }
}

TEST(LayeringTest, OnlyTheLlamaRoomKnowsLlama) {
  for (const Include& include : IncludesUnder("src")) {
    if (include.file.parent_path().filename() == "llama" || IsTest(include.file)) continue;
    EXPECT_FALSE(IsLlamaHeader(include.target)) << include.file << " includes " << include.target;
  }
}

TEST(LayeringTest, OnlyThePictureRoomDecodesPictures) {
  const std::set<std::string> decoders = {"spng.h", "jpeglib.h", "gif_lib.h", "webp/decode.h"};
  for (const char* folder : {"src", "apps"}) {
    for (const Include& include : IncludesUnder(folder)) {
      EXPECT_NE(include.target, "stb_image.h") << include.file;
      if (include.file.parent_path().filename() == "picture") continue;
      EXPECT_FALSE(decoders.contains(include.target)) << include.file;
    }
  }
}

TEST(LayeringTest, PublicHeadersStandAlone) {
  for (const Include& include : IncludesUnder("include")) {
    // The C interface is about a llama_context.
    if (IsLlamaHeader(include.target)) {
      EXPECT_EQ(include.file.filename(), "retentivekv.h");
      continue;
    }
    const std::string target = include.target.substr(0, include.target.find('/'));
    EXPECT_TRUE(target == "retentivekv" || target == include.target)
        << include.file << " includes " << include.target;
  }
}

TEST(LayeringTest, ApplicationsUseThePublicInterface) {
  for (const char* folder : {"apps", "examples"}) {
    for (const Include& include : IncludesUnder(folder)) {
      const std::string target = include.target.substr(0, include.target.find('/'));
      EXPECT_FALSE(kAllowed.contains(target) && target != include.target)
          << include.file << " includes " << include.target;
      EXPECT_FALSE(IsLlamaHeader(include.target)) << include.file;
    }
  }
}

}  // namespace
}  // namespace rkv
