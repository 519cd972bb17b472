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

// What each room may include besides itself. The laboratory is no part of the library.
const std::map<std::string, std::set<std::string>> kAllowed = {
    {"base", {}},
    {"kernels", {"base"}},
    {"rows", {"base", "kernels"}},
    {"policies", {"base", "kernels"}},
    {"cache", {"base", "kernels", "rows", "policies"}},
    {"picture", {"base"}},
    {"llama", {"base", "kernels", "rows", "policies", "cache", "picture"}},
    {"engine", {"base", "kernels", "rows", "policies", "cache", "picture", "llama"}},
    {"lab", {"base", "kernels", "rows", "policies", "cache", "picture", "llama"}},
};

// The room that a public header belongs to. Only it and the rooms above include the header.
const std::map<std::string, std::string> kOwners = {
    {"status.h", "base"},     {"options.h", "base"},        {"version.h", "base"},
    {"picture.h", "picture"}, {"kv_cache.h", "cache"},      {"inspect.h", "cache"},
    {"chat.h", "llama"},      {"model_options.h", "llama"}, {"retentivekv.h", "llama"},
    {"engine.h", "engine"},
};

bool MayInclude(const std::string& room, const std::string& other) {
  return room == other || kAllowed.at(room).contains(other);
}

// The first folder of an include, or nothing.
std::string FolderOf(const std::string& target) {
  const size_t slash = target.find('/');
  return slash == std::string::npos ? "" : target.substr(0, slash);
}

// The room that an include is of, public headers included; nothing for all that is not ours.
std::string RoomOf(const std::string& target) {
  const std::string folder = FolderOf(target);
  if (folder != "retentivekv") return kAllowed.contains(folder) ? folder : "";
  const auto owner = kOwners.find(target.substr(folder.size() + 1));
  EXPECT_NE(owner, kOwners.end()) << target << " belongs to no room";
  return owner == kOwners.end() ? "" : owner->second;
}

bool KnowsLlama(const fs::path& file) {
  const std::string room = file.parent_path().filename().string();
  return room == "llama" || room == "lab" || file.filename() == "retentivekv.h" || IsTest(file);
}

// The parts of `rkv` that are for the laboratory, and the laboratory.
bool UsesTheLaboratory(const fs::path& file) {
  const std::string path = fs::relative(file, SourcePath("")).generic_string();
  return path.starts_with("src/lab/") || path.starts_with("apps/rkv/bench/") ||
         path.starts_with("apps/rkv/eval/") || path == "apps/rkv/bench.cc" ||
         path == "apps/rkv/make_model.cc";
}

TEST(LayeringTest, RoomsIncludeOnlyWhatIsBelow) {
  for (const Include& include : IncludesUnder("src")) {
    if (IsTest(include.file)) continue;
    const std::string room = include.file.parent_path().filename().string();
    ASSERT_TRUE(kAllowed.contains(room)) << include.file;
    const std::string other = RoomOf(include.target);
    if (other.empty()) continue;
    EXPECT_TRUE(MayInclude(room, other)) << include.file << " includes " << include.target;
  }
}

TEST(LayeringTest, OnlyTheLlamaRoomAndTheLaboratoryIncludeLlama) {
  for (const char* folder : {"src", "include", "apps", "bench", "fuzz"}) {
    for (const Include& include : IncludesUnder(folder)) {
      if (KnowsLlama(include.file)) continue;
      EXPECT_FALSE(IsLlamaHeader(include.target)) << include.file << " includes " << include.target;
    }
  }
}

// Also where llama.cpp's headers are on every compiler's path.
TEST(LayeringTest, NoHeaderOfOursBringsLlamaAlong) {
  std::map<std::string, std::vector<std::string>> targets;  // by what a file is included as
  for (const char* folder : {"src", "include"}) {
    for (const Include& include : IncludesUnder(folder)) {
      targets[fs::relative(include.file, SourcePath(folder)).generic_string()].push_back(
          include.target);
    }
  }
  for (const char* folder : {"src", "apps", "bench", "fuzz"}) {
    for (const Include& include : IncludesUnder(folder)) {
      if (KnowsLlama(include.file)) continue;
      std::set<std::string> seen;
      std::vector<std::string> waiting = {include.target};
      while (!waiting.empty()) {
        const std::string target = waiting.back();
        waiting.pop_back();
        EXPECT_FALSE(IsLlamaHeader(target)) << include.file << " gets it by " << include.target;
        if (seen.insert(target).second && targets.contains(target)) {
          waiting.insert(waiting.end(), targets[target].begin(), targets[target].end());
        }
      }
    }
  }
}

TEST(LayeringTest, OnlyTheLlamaRoomAndTheLaboratoryNameWhatIsLlamas) {
  const std::regex text("\"([^\"\\\\]|\\\\.)*\"|//.*");
  const std::regex name("\\b((llama|mtmd|ggml|gguf)_[a-z]|(LLAMA|MTMD|GGML|GGUF)_[A-Z])\\w*");
  for (const char* folder : {"src", "include", "apps", "bench", "fuzz"}) {
    for (const auto& entry : fs::recursive_directory_iterator(SourcePath(folder))) {
      const std::string extension = entry.path().extension().string();
      if ((extension != ".cc" && extension != ".h") || KnowsLlama(entry.path())) continue;
      std::ifstream file(entry.path());
      for (std::string line; std::getline(file, line);) {
        const std::string code = std::regex_replace(line, text, "");
        std::smatch match;
        EXPECT_FALSE(std::regex_search(code, match, name)) << entry.path() << ": " << line;
      }
    }
  }
}

TEST(LayeringTest, OnlyMeasurementsAndTestsUseTheLaboratory) {
  for (const char* folder : {"src", "include", "apps", "examples"}) {
    for (const Include& include : IncludesUnder(folder)) {
      if (FolderOf(include.target) != "lab" || IsTest(include.file)) continue;
      EXPECT_TRUE(UsesTheLaboratory(include.file))
          << include.file << " includes " << include.target;
    }
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
    const std::string folder = FolderOf(include.target);
    EXPECT_TRUE(folder == "retentivekv" || folder.empty())
        << include.file << " includes " << include.target;
    if (folder.empty()) continue;
    const std::string own = "retentivekv/" + include.file.filename().string();
    EXPECT_TRUE(MayInclude(RoomOf(own), RoomOf(include.target)))
        << include.file << " includes " << include.target;
  }
}

TEST(LayeringTest, ApplicationsUseThePublicInterface) {
  for (const char* folder : {"apps", "examples"}) {
    for (const Include& include : IncludesUnder(folder)) {
      const std::string folder = FolderOf(include.target);
      const bool lab = folder == "lab" && UsesTheLaboratory(include.file);
      EXPECT_TRUE(lab || !kAllowed.contains(folder))
          << include.file << " includes " << include.target;
      EXPECT_FALSE(IsLlamaHeader(include.target)) << include.file;
    }
  }
}

}  // namespace
}  // namespace rkv
