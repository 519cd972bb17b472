// Flags as their users write them: those of llama.cpp, config files, completion.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "base/file.h"
#include "support/process.h"
#include "support/test_models.h"

namespace rkv {
namespace {

namespace fs = std::filesystem;

ProcessResult Rkv(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), RKV_BINARY_DIR "/apps/rkv");
  return RunProcess(arguments);
}

// A short answer of a small model of random weights.
ProcessResult RunQwen(std::vector<std::string> arguments) {
  for (const char* more : {"run", "-m", "MODEL", "-p", "x", "-n", "8", "--chat-template", "none"}) {
    arguments.push_back(std::string(more) == "MODEL" ? TestModelPath("qwen2-d64") : more);
  }
  std::rotate(arguments.begin(), arguments.end() - 9, arguments.end());
  return Rkv(std::move(arguments));
}

std::string TempPath(const std::string& name) {
  const auto* info = testing::UnitTest::GetInstance()->current_test_info();
  return testing::TempDir() + "flags-" + info->name() + "-" + name;
}

std::string Write(const std::string& name, const std::string& text) {
  const std::string path = TempPath(name);
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

// For as long as it lives.
class Environment {
 public:
  Environment(const char* name, const std::string& value) : name_(name) {
    ::setenv(name, value.c_str(), 1);
  }
  ~Environment() { ::unsetenv(name_); }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  const char* name_;
};

// What is said, but for the note that an answer was cut by -n.
std::string WithoutCutNote(const std::string& text) {
  return std::regex_replace(text, std::regex("note: the answer was stopped after[^\n]*\n"), "");
}

TEST(CliFlagsTest, HelpComesWithAndWithoutDashes) {
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{}, {"help"}, {"--help"}, {"-h"}}) {
    const ProcessResult run = Rkv(arguments);
    EXPECT_EQ(run.exit_code, 0) << run.err;
    EXPECT_NE(run.out.find("serve"), std::string::npos);
    EXPECT_NE(run.out.find("saves 80 %"), std::string::npos);
  }
  const ProcessResult help = Rkv({"help", "run"});
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_EQ(help.out, Rkv({"run", "--help"}).out);
  EXPECT_NE(help.out.substr(0, 200).find("saves 80 %"), std::string::npos) << help.out;
  const ProcessResult unknown = Rkv({"help", "cat"});
  EXPECT_EQ(unknown.exit_code, 2);
  EXPECT_NE(unknown.err.find("did you mean chat"), std::string::npos) << unknown.err;
}

TEST(CliFlagsTest, ABudgetAloneSavesAndSaysSo) {
  for (const char* budget : {"20%", "20 %"}) {
    const ProcessResult run = RunQwen({"--budget", budget});
    EXPECT_EQ(run.exit_code, 0) << run.err;
    EXPECT_NE(run.err.find("policy retentive, budget 20%"), std::string::npos) << run.err;
    EXPECT_NE(run.err.find("cache: holds "), std::string::npos) << run.err;
    EXPECT_NE(run.err.find(" % saved)"), std::string::npos) << run.err;
  }
  EXPECT_EQ(RunQwen({"--budget", "2MB"}).exit_code, 0);
  EXPECT_EQ(RunQwen({"--budget", "64mib", "--policy", "H2O"}).exit_code, 0);
  const ProcessResult full = RunQwen({"--policy", "full", "--budget", "20%"});
  EXPECT_EQ(full.exit_code, 2);
  EXPECT_NE(full.err.find("such as retentive"), std::string::npos) << full.err;
}

TEST(CliFlagsTest, WithoutABudgetNothingIsCompressedAndThatIsSaid) {
  const ProcessResult run = RunQwen({"--policy", "streaming"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_NE(run.err.find("no --budget, so policy streaming compresses nothing"), std::string::npos)
      << run.err;
  const ProcessResult plain = RunQwen({});
  EXPECT_EQ(plain.err.find("compresses nothing"), std::string::npos) << plain.err;
  EXPECT_NE(plain.err.find("of f16 rows and "), std::string::npos) << plain.err;
  EXPECT_NE(plain.err.find("KiB of tables; policy full, no budget"), std::string::npos);
  EXPECT_EQ(plain.err.find('%'), std::string::npos) << plain.err;
}

TEST(CliFlagsTest, TheModelIsCalledByItsName) {
  const ProcessResult run = RunQwen({});
  EXPECT_TRUE(std::regex_search(run.err, std::regex("model: random qwen2 [0-9.]+[KM] F16\n")))
      << run.err;
}

std::set<std::string> FlagsOfLlama() {
  std::set<std::string> flags;
  const std::string path = SourcePath(".deps/llama.cpp/common/arg.cpp");
  if (!fs::exists(path)) return flags;
  const std::string text = *ReadFile(path, "source");
  const std::regex options(R"(common_arg\(\s*\{([^}]*)\}(?:,\s*\{([^}]*)\})?)");
  const std::regex flag("\"(-[^\"]+)\"");
  for (std::sregex_iterator it(text.begin(), text.end(), options), end; it != end; ++it) {
    const std::string names = (*it)[1].str() + (*it)[2].str();
    for (std::sregex_iterator name(names.begin(), names.end(), flag); name != end; ++name) {
      flags.insert((*name)[1]);
    }
  }
  return flags;
}

// Every flag that llama.cpp's programs know is ours, or is refused by its name.
TEST(CliFlagsTest, NoFlagOfLlamaIsReadAsAnother) {
  const std::set<std::string> flags = FlagsOfLlama();
  if (flags.empty()) GTEST_SKIP() << "llama.cpp's source is not there";
  EXPECT_GT(flags.size(), 300u);
  std::vector<std::string> arguments = {"run"};
  const std::string help = Rkv({"run", "--help"}).out + Rkv({"serve", "--help"}).out;
  const auto ours = [&help](const std::string& name) {
    return std::regex_search(help, std::regex("[ ,]" + name + "[ ,:;\n]"));
  };
  for (const std::string& name : flags) {
    if (!ours(name) && name.size() > 2 && name != "--version") arguments.push_back(name);
  }
  const ProcessResult run = Rkv(arguments);
  EXPECT_EQ(run.exit_code, 2);
  EXPECT_EQ(run.out, "");
  for (size_t i = 1; i < arguments.size(); ++i) {
    EXPECT_NE(run.err.find("'" + arguments[i] + "' is a flag of "), std::string::npos)
        << arguments[i];
  }
}

TEST(CliFlagsTest, ShortFlagsOfSeveralLettersAreNames) {
  const struct {
    std::vector<std::string> arguments;
    const char* says;
  } cases[] = {
      {{"run", "-hf", "ggml-org/x"}, "pass files with -m and -mm"},
      {{"run", "-fa", "on", "-p", "x"}, "'-fa' is a flag of llama.cpp"},
      {{"run", "-st", "-p", "x"}, "rkv run for single answers"},
      {{"run", "-cnv"}, "use rkv chat for a conversation"},
      {{"run", "-fa=on"}, "'-fa' is a flag of llama.cpp"},
      {{"run", "--flash-attn", "on"}, "leave the flag out"},
      {{"run", "-temp", "0"}, "did you mean --temp?"},
      {{"run", "-hx"}, "unknown flag '-hx'"},
      {{"run", "-path"}, "unknown flag '-path'"},
      {{"run", "--bugdet", "20%", "-p", "x"}, "unknown flag '--bugdet'; did you mean --budget?"},
      {{"run", "--polcy", "h2o"}, "did you mean --policy?"},
      {{"run", "--context-size", "5"}, "did you mean --ctx-size?"},
      {{"rnu", "-p", "x"}, "did you mean run?"},
      {{"run", "-p", "x", "one", "two"}, "unexpected argument: one two"},
      {{"bench", "-st"}, "rkv bench does not have"},
      {{"run", "--port", "1"}, "'--port' is a flag of rkv serve"},
  };
  for (const auto& c : cases) {
    const ProcessResult run = Rkv(c.arguments);
    EXPECT_EQ(run.exit_code, 2) << c.says << run.err;
    EXPECT_NE(run.err.find(c.says), std::string::npos) << c.says << "\n" << run.err;
    EXPECT_EQ(run.out, "");
  }
  // In their order.
  const std::string err = Rkv({"run", "--bbb", "--aaa"}).err;
  EXPECT_LT(err.find("--bbb"), err.find("--aaa")) << err;
  EXPECT_LT(err.find("--bbb"), err.size());
}

TEST(CliFlagsTest, ValuesMayLookLikeFlags) {
  const std::string report = TempPath("report.json");
  // A byte is a token of this model, but for some pairs of letters that are not in these.
  for (const char* prompt : {"-hf", "--keep", "-mm", "--bugdet"}) {
    const ProcessResult run = Rkv({"run", "-m", TestModelPath("qwen2-d64"), "--chat-template",
                                   "none", "-p", prompt, "-n", "1", "--kv-report", report});
    EXPECT_EQ(run.exit_code, 0) << run.err;
    const auto json = nlohmann::json::parse(*ReadFile(report, "report"));
    EXPECT_EQ(json["kv"]["tokens_seen"], std::string(prompt).size()) << prompt;
  }
}

TEST(CliFlagsTest, NumbersMeanWhatTheyMeanInLlama) {
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"-s", "-1"},
        {"-s", "4294967295"},
        {"-t", "-1"},
        {"-t", "0"},
        {"-tb", "1"},
        {"-tb", "-1"},
        {"-c", "0"},
        {"-ngl", "0"},
        {"-ngl", "auto"},
        {"-t1"},
        {"--temperature", "0"},
        {"--prio", "0"},
        {"--poll", "0"},
        {"-C", "0x1", "-t", "1"},
        {"-Cr", "0-0", "--cpu-strict", "1", "-t", "1"},
        {"--mlock"},
        {"--no-mmap"},
        {"-lm", "mmap"},
        {"--numa", "distribute"},
        {"--override-kv", "qwen2.rope.freq_base=float:500"}}) {
    const ProcessResult run = RunQwen(arguments);
    EXPECT_EQ(run.exit_code, 0) << testing::PrintToString(arguments) << run.err;
    EXPECT_EQ(WithoutCutNote(run.err).find("note"), std::string::npos) << run.err;
  }
  EXPECT_EQ(RunQwen({"-n", "-2", "-c", "12", "--ignore-eos"}).exit_code, 0);
  const struct {
    std::vector<std::string> arguments;
    const char* says;
  } wrong[] = {
      {{"-s", "x"}, "'x' is not a seed"},
      {{"-s", "4294967296"}, "not a seed"},
      {{"-t", "-3"}, "--threads"},
      {{"-tb", "b"}, "'b' is not a number of threads"},
      {{"-ngl", "many"}, "'many' is not a number of layers"},
      {{"-C", "0xg"}, "'0xg' is not a mask"},
      {{"-C", "0"}, "'0' is not a mask"},
      {{"-Cr", "3-1"}, "'3-1' is not a range"},
      {{"-Cr", "511-511"}, "CPU 511"},
      {{"--numa", "all"}, "distribute"},
      {{"-lm", "fast"}, "mmap+mlock"},
      {{"--prio", "9"}, "--prio"},
      {{"-l", "5"}, "15043+1"},
      {{"-l", "900000+1"}, "900000"},
      {{"--samplers", "top_k;top_quark"}, "unknown sampler 'top_quark'"},
      {{"--sampler-seq", "kz"}, "unknown letter 'z'"},
      {{"--rope-scaling", "longrope"}, "--rope-scaling"},
      {{"--rope-scale", "0"}, "'0' is not a number above 0"},
      {{"--lora-scaled", "file"}, "FILE:SCALE"},
      {{"--override-kv", "a=b"}, "KEY=TYPE:VALUE"},
      {{"--grammar", ""}, "the grammar is empty"},
      {{"--grammar", "root ::= ("}, "GBNF"},
      {{"--grammar", std::string(10'000, '(')}, "nested"},
  };
  for (const auto& c : wrong) {
    const ProcessResult run = RunQwen(c.arguments);
    EXPECT_EQ(run.exit_code, 2) << testing::PrintToString(c.arguments) << run.err;
    EXPECT_NE(run.err.find(c.says), std::string::npos) << c.says << "\n" << run.err;
    EXPECT_EQ(run.out, "");
  }
}

TEST(CliFlagsTest, ANoteTellsOfFlagsThatDoNothing) {
  const ProcessResult gpu = RunQwen({"-ngl", "all"});
  EXPECT_EQ(gpu.exit_code, 0) << gpu.err;
  EXPECT_NE(gpu.err.find("-ngl does nothing"), std::string::npos) << gpu.err;
  const ProcessResult far = RunQwen({"-c", "100000"});
  EXPECT_EQ(far.exit_code, 0) << far.err;
  EXPECT_NE(far.err.find("was trained for 32768 positions"), std::string::npos) << far.err;
  const ProcessResult stretched =
      RunQwen({"-c", "100000", "--rope-scaling", "yarn", "--rope-scale", "4"});
  EXPECT_EQ(WithoutCutNote(stretched.err).find("note"), std::string::npos) << stretched.err;
}

TEST(CliFlagsTest, SamplersAndGrammarsReachTheAnswer) {
  const std::string grammar = Write("yes.gbnf", "root ::= \"yes\" | \"no\"\n");
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"--grammar-file", grammar},
        {"--grammar", "root ::= \"yes\" | \"no\"", "--temp", "0"}}) {
    const ProcessResult run = RunQwen(arguments);
    EXPECT_EQ(run.exit_code, 0) << run.err;
    EXPECT_TRUE(run.out == "yes\n" || run.out == "no\n") << run.out;
  }
  EXPECT_EQ(RunQwen({"-l", "65+1000", "--ignore-eos", "--temp", "0"}).out, "AAAAAAAA\n");
  EXPECT_EQ(
      RunQwen({"-l", "65+1000,66+900", "--ignore-eos", "--temp", "0", "--presence-penalty", "500"})
          .out.substr(0, 2),
      "AB");
  EXPECT_EQ(RunQwen({"-l", "65+1000", "--ignore-eos", "--temp", "0", "-r", "AAA"}).out, "\n");
  EXPECT_EQ(RunQwen({"--grammar-file", "/no/such/grammar"}).exit_code, 1);
  EXPECT_EQ(RunQwen({"--grammar-file", Write("empty.gbnf", "")}).exit_code, 2);
}

TEST(CliFlagsTest, SystemPromptsComeFromFiles) {
  const std::string file = Write("system.txt", "Be brief.\n");
  const auto seen = [](const std::string& flag, const std::string& value) {
    const std::string report = TempPath("report.json");
    const ProcessResult run = RunQwen({flag, value, "--kv-report", report});
    EXPECT_EQ(run.exit_code, 0) << run.err;
    return nlohmann::json::parse(*ReadFile(report, "report"))["timings"]["prompt_n"].get<int>();
  };
  EXPECT_EQ(seen("-sysf", file), seen("-sys", "Be brief."));
  EXPECT_EQ(RunQwen({"-sysf", "/no/such/file"}).exit_code, 1);
}

TEST(CliConfigTest, FlagsComeBeforeTheEnvironmentBeforeTheFile) {
  const std::string file = Write("rkv.ini",
                                 "# for every command\n"
                                 "budget = 50%\n"
                                 "seed = 3\n"
                                 "[run]\n"
                                 "budget = 40%\n"
                                 "ignore-eos = true\n"
                                 "[serve]\n"
                                 "port = 0\n"
                                 "[preset.small]\n"
                                 "budget = \"30%\"\n"
                                 "policy = \"streaming:sinks=2,window=4\"\n");
  const auto budget = [&file](std::vector<std::string> arguments, bool with_file = true) {
    if (with_file) arguments.insert(arguments.end(), {"--config", file});
    const std::string err = RunQwen(std::move(arguments)).err;
    const size_t at = err.find("budget ");
    return at == std::string::npos ? err : err.substr(at + 7, 3);
  };
  EXPECT_EQ(budget({}), "40%");
  EXPECT_EQ(budget({"--preset", "small"}), "30%");
  EXPECT_EQ(budget({"--budget", "60%"}), "60%");
  {
    const Environment environment("RKV_BUDGET", "70%");
    EXPECT_EQ(budget({}), "70%");
    EXPECT_EQ(budget({"--preset", "small"}), "70%");
    EXPECT_EQ(budget({"--budget", "60%"}), "60%");
  }
  {
    const Environment config("RKV_CONFIG", file);
    const Environment preset("RKV_PRESET", "small");
    EXPECT_EQ(budget({}, false), "30%");
  }
  // The user's own file.
  const std::string home = TempPath("home");
  fs::create_directories(home + "/rkv");
  fs::copy_file(file, home + "/rkv/config.ini", fs::copy_options::overwrite_existing);
  const Environment folder("XDG_CONFIG_HOME", home);
  EXPECT_EQ(budget({}, false), "40%");
  EXPECT_EQ(RunQwen({}).out, RunQwen({}).out);  // seed, from the part for every command
}

TEST(CliConfigTest, MistakesAreNamed) {
  const struct {
    const char* text;
    const char* says;
  } cases[] = {
      {"bugdet = 20%\n", "'bugdet' is not the name of a flag; did you mean 'budget'?"},
      {"[run]\nport = 1\n", "'port' is not the name of a flag"},
      {"[rnu]\nbudget = 20%\n", "there is no command 'rnu'"},
      {"[run]\nbudget = 0.2\n", "has no unit"},
      {"[run]\npolicy = streaming:sinks=2,window=4\n", "quotation marks"},
      {"[preset.a]\nnonsense = 1\n", "'nonsense' is not the name of a flag"},
      {"[run]\nthreads = many\n", "--threads"},
  };
  for (const auto& c : cases) {
    const ProcessResult run = RunQwen({"--config", Write("wrong.ini", c.text)});
    EXPECT_EQ(run.exit_code, 2) << c.text << run.err;
    EXPECT_NE(run.err.find(c.says), std::string::npos) << c.text << run.err;
  }
  EXPECT_EQ(RunQwen({"--config", "/no/such/file"}).exit_code, 1);
  EXPECT_EQ(RunQwen({"--config", testing::TempDir()}).exit_code, 1);
  const ProcessResult preset =
      RunQwen({"--preset", "big", "--config", Write("none.ini", "seed = 1\n")});
  EXPECT_EQ(preset.exit_code, 2);
  EXPECT_NE(preset.err.find("[preset.big]"), std::string::npos) << preset.err;
  const Environment home("XDG_CONFIG_HOME", "/no/such/folder");
  EXPECT_EQ(RunQwen({"--preset", "big"}).exit_code, 1);
}

std::string Bash(const std::string& script) {
  const ProcessResult run = RunProcess({"bash", "-c", script});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(run.err, "");
  return run.out;
}

// What bash completes the last of `words` to.
std::string Completed(const std::string& script, const std::string& words) {
  return Bash("source '" + script + "'; COMP_WORDS=(" + words +
              "); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); compopt() { :; }; _rkv; "
              "echo \"${COMPREPLY[@]}\"");
}

TEST(CliCompletionTest, BashCompletesCommandsFlagsAndValues) {
  const ProcessResult printed = Rkv({"completion", "bash"});
  ASSERT_EQ(printed.exit_code, 0) << printed.err;
  const std::string script = Write("rkv.bash", printed.out);
  Bash("bash -n '" + script + "'");
  EXPECT_EQ(Completed(script, "rkv ru"), "run\n");
  EXPECT_EQ(Completed(script, "rkv run --bud"), "--budget\n");
  EXPECT_EQ(Completed(script, "rkv run --policy ret"), "retentive\n");
  EXPECT_EQ(Completed(script, "rkv serve --por"), "--port\n");
  EXPECT_EQ(Completed(script, "rkv run --por"), "\n");
  EXPECT_EQ(Completed(script, "rkv completion z"), "zsh\n");
  const std::string model = Write("a model.gguf", "");
  EXPECT_EQ(Completed(script, "rkv run -m '" + model.substr(0, model.size() - 3) + "'"),
            model + "\n");
}

TEST(CliCompletionTest, OtherShellsGetTheirs) {
  const ProcessResult zsh = Rkv({"completion", "zsh"});
  EXPECT_EQ(zsh.exit_code, 0);
  EXPECT_TRUE(zsh.out.starts_with("#compdef rkv\n"));
  const ProcessResult fish = Rkv({"completion", "fish"});
  EXPECT_EQ(fish.exit_code, 0);
  EXPECT_NE(fish.out.find("-l budget"), std::string::npos);
  for (const auto& [shell, script] :
       {std::pair<std::string, std::string>("zsh", zsh.out), {"fish", fish.out}}) {
    if (std::system(("command -v " + shell + " >/dev/null").c_str()) != 0) continue;
    const ProcessResult checked = RunProcess({shell, "-n", Write(shell, script)});
    EXPECT_EQ(checked.exit_code, 0) << checked.err;
    EXPECT_EQ(checked.err, "");
  }
  EXPECT_EQ(Rkv({"completion", "tcsh"}).exit_code, 2);
  EXPECT_EQ(Rkv({"completion"}).exit_code, 2);
}

}  // namespace
}  // namespace rkv
