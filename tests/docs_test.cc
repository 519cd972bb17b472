// The documentation names what exists.
#include <gtest/gtest.h>

#include <filesystem>
#include <regex>
#include <set>
#include <string>

#include "base/file.h"
#include "retentivekv/options.h"
#include "support/process.h"
#include "support/test_models.h"

namespace rkv {
namespace {

namespace fs = std::filesystem;

std::string Text(const std::string& path) { return *ReadFile(SourcePath(path), "document"); }

std::vector<std::string> Documents() {
  std::vector<std::string> documents = {"README.md", "models/reference/README.md",
                                        "bench/README.md"};
  for (const auto& entry : fs::recursive_directory_iterator(SourcePath("docs"))) {
    if (entry.path().extension() == ".md") {
      documents.push_back(fs::relative(entry.path(), SourcePath("")).string());
    }
  }
  return documents;
}

TEST(DocsTest, EveryFlagThatIsNamedExists) {
  std::string known;
  for (const char* command :
       {"run", "chat", "serve", "eval", "bench", "inspect", "make-model", "completion"}) {
    known += RunProcess({RKV_BINARY_DIR "/apps/rkv", command, "--help"}).out;
  }
  known += " --help --version ";
  // Of other programs.
  const std::set<std::string> foreign = {"--install", "--prefix",           "--build", "--preset",
                                         "--target",  "--benchmark_format", "--jinja"};
  const std::regex flag("--[a-z][a-z_-]+");
  int n_checked = 0;
  for (const std::string& document : Documents()) {
    const std::string text = Text(document);
    for (std::sregex_iterator it(text.begin(), text.end(), flag), end; it != end; ++it) {
      if (foreign.contains(it->str())) continue;
      EXPECT_NE(known.find(it->str()), std::string::npos) << document << " names " << it->str();
      ++n_checked;
    }
  }
  EXPECT_GT(n_checked, 20);
}

TEST(DocsTest, EveryPolicyIsDescribed) {
  const std::string text = Text("docs/policies.md");
  for (const PolicyDescription& policy : DescribePolicies()) {
    EXPECT_NE(text.find("| `" + policy.name + "` |"), std::string::npos) << policy.name;
    EXPECT_NE(text.find(policy.summary), std::string::npos) << policy.name;
    for (const auto& option : policy.options) {
      EXPECT_NE(text.find("`" + option.name + "="), std::string::npos) << option.name;
    }
  }
}

TEST(DocsTest, EveryLinkedFileExists) {
  const std::regex link("\\]\\(([^)#:]+)\\)");
  for (const std::string& document : Documents()) {
    const std::string text = Text(document);
    for (std::sregex_iterator it(text.begin(), text.end(), link), end; it != end; ++it) {
      const fs::path target = fs::path(SourcePath(document)).parent_path() / (*it)[1].str();
      EXPECT_TRUE(fs::exists(target)) << document << " links " << (*it)[1].str();
    }
  }
}

// Every test source is in a program, since CMake collects them; this guards the collecting.
TEST(DocsTest, TestsSitBesideTheirSourceOrInTests) {
  for (const auto& entry : fs::recursive_directory_iterator(SourcePath(""))) {
    const std::string path = fs::relative(entry.path(), SourcePath("")).string();
    if (path.starts_with("build") || path.starts_with(".") || !path.ends_with("_test.cc")) continue;
    const bool collected = std::regex_match(
        path,
        std::regex("(src/[a-z]+|apps/rkv/(bench|chat|eval|inspect|serve)|tests)/[a-z0-9_]+\\.cc"));
    EXPECT_TRUE(collected) << path << " is in a folder whose tests are not collected";
  }
}

}  // namespace
}  // namespace rkv
