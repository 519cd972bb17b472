// The programs as their users run them.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>
#include <sstream>

#include "base/file.h"
#include "support/pictures.h"
#include "support/process.h"
#include "support/prose.h"
#include "support/stock.h"
#include "support/test_models.h"

namespace rkv {
namespace {

namespace fs = std::filesystem;

const std::string kSamples = SourcePath("models/reference/samples/");

ProcessResult Rkv(std::vector<std::string> arguments, const std::string& input = "") {
  arguments.insert(arguments.begin(), RKV_BINARY_DIR "/apps/rkv");
  return RunProcess(arguments, input);
}

// With the model that the samples' answers are known of.
ProcessResult RkvTiny(std::vector<std::string> arguments, const std::string& input = "") {
  for (const char* part : {"-m", "tiny-vlm-f16.gguf", "-mm", "mmproj-tiny-vlm-f16.gguf"}) {
    arguments.push_back(*part == '-' ? part : SourcePath("models/reference/") + part);
  }
  return Rkv(std::move(arguments), input);
}

std::string TempPath(const std::string& name) {
  const auto* info = testing::UnitTest::GetInstance()->current_test_info();
  return testing::TempDir() + "cli-" + info->name() + "-" + name;
}

std::string Trim(std::string text) {
  const auto space = [](unsigned char c) { return std::isspace(c) != 0; };
  text.erase(text.begin(), std::find_if_not(text.begin(), text.end(), space));
  text.erase(std::find_if_not(text.rbegin(), text.rend(), space).base(), text.end());
  return text;
}

TEST(CliRunTest, AnswersAboutAPictureWithTheBundledModel) {
  const ProcessResult run = Rkv({"run", "--image", SourcePath("models/reference/sample.png"), "-p",
                                 "What is the track?", "--temp", "0"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(run.out, "Maria\n");
  EXPECT_NE(run.err.find("policy full, no budget"), std::string::npos);
  EXPECT_EQ(run.err.find('\r'), std::string::npos);  // No progress in a pipe.
}

TEST(CliRunTest, SeveralQuestionsAreAConversation) {
  const std::string report = TempPath("report.json");
  const ProcessResult run = RkvTiny(
      {"run", "--image", kSamples + "doc-1.png", "-p", "value of W", "-p", "value of Z", "--temp",
       "0", "--policy", "streaming:sinks=2", "--budget", "95%", "--kv-report", report});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(run.out, "> value of W\n59\n> value of Z\n27\n");
  const auto json = nlohmann::json::parse(*ReadFile(report, "report"));
  EXPECT_EQ(json["kv"]["policy"], "streaming:sinks=2");
  EXPECT_EQ(json["kv"]["budget"], "95%");
  EXPECT_LE(json["kv"]["held_bytes"], json["kv"]["budget_bytes"]);
  EXPECT_EQ(json["kv"]["tokens_seen"].get<int>(),
            json["kv"]["tokens_exact"].get<int>() + json["kv"]["tokens_evicted"].get<int>());
}

TEST(CliRunTest, ABudgetThatEvictedNothingSaysSo) {
  const ProcessResult run = Rkv({"run", "-p", "value of W", "--temp", "0", "-n", "2", "--policy",
                                 "streaming", "--budget", "500t"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_NE(run.err.find("no tokens evicted"), std::string::npos) << run.err;
}

TEST(CliRunTest, FlagsComeFromTheEnvironmentToo) {
  ::setenv("RKV_BUDGET", "nonsense", 1);
  const ProcessResult refused = Rkv({"run", "-p", "x"});
  const ProcessResult overridden =
      Rkv({"run", "-p", "color of S", "-n", "1", "--policy", "streaming", "--budget", "64t"});
  ::unsetenv("RKV_BUDGET");
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_EQ(overridden.exit_code, 0) << overridden.err;
}

TEST(CliRunTest, PromptsComeFromFilesAndPipes) {
  const std::string file = WriteTestFile(TempPath("prompt.txt"), "color of S");
  const std::string picture = kSamples + "scene-1.png";
  EXPECT_EQ(RkvTiny({"run", "--image", picture, "-f", file, "--temp", "0"}).out, "pink\n");
  EXPECT_EQ(RkvTiny({"run", "--image", picture, "-f", "-", "--temp", "0"}, "color of S").out,
            "pink\n");
  EXPECT_EQ(RkvTiny({"run", "-f", "/no/such/prompt"}).exit_code, 1);
}

TEST(CliRunTest, WithoutAPromptAPipeIsOne) {
  const std::string picture = kSamples + "scene-1.png";
  const auto ask = [&](const std::string& input, std::vector<std::string> extra = {}) {
    extra.insert(extra.begin(), {"run", "--image", picture, "--temp", "0"});
    return RkvTiny(extra, input);
  };
  EXPECT_EQ(ask("color of S\n").out, "pink\n");
  EXPECT_EQ(ask("\xEF\xBB\xBF"
                "color of S\r\n")
                .out,
            "pink\n");  // a file of Windows
  EXPECT_EQ(ask("not read", {"-p", "color of S"}).out, "pink\n");
  const ProcessResult nothing = ask("");
  EXPECT_EQ(nothing.exit_code, 2);
  EXPECT_NE(nothing.err.find("through a pipe"), std::string::npos) << nothing.err;
  // Bytes that are no text are an answer or an error of the model's.
  EXPECT_LE(ask(std::string("a\0\xFF"
                            "b",
                            4),
                {"-n", "1"})
                .exit_code,
            1);
}

TEST(CliRunTest, ALongQuestionIsNotRepeatedWhole) {
  const std::string file = WriteTestFile(TempPath("prompt.txt"), "value of W\nvalue of Z");
  const ProcessResult run = RkvTiny(
      {"run", "--image", kSamples + "doc-1.png", "-p", "value of W", "-f", file, "--temp", "0"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_NE(run.out.find("> value of W\n59\n> value of W ...\n"), std::string::npos) << run.out;
}

TEST(CliRunTest, AnAnswerThatIsCutSaysSo) {
  const std::vector<std::string> model = {
      "run", "-m", TestModelPath("qwen2-d64"), "-p", "hello", "--ignore-eos", "-n", "3"};
  const ProcessResult run = Rkv(model);
  EXPECT_NE(run.err.find("note: the answer was stopped after 3 tokens (-n)\n"), std::string::npos)
      << run.err;
}

TEST(CliRunTest, PromptsKnowEscapes) {
  const auto seen = [](std::vector<std::string> extra) {
    std::vector<std::string> arguments = {"run",
                                          "-m",
                                          TestModelPath("qwen2-d64"),
                                          "-p",
                                          "A\\nB",
                                          "-n",
                                          "1",
                                          "--chat-template",
                                          "none",
                                          "--kv-report",
                                          TempPath("report")};
    arguments.insert(arguments.end(), extra.begin(), extra.end());
    EXPECT_EQ(Rkv(arguments).exit_code, 0);
    return nlohmann::json::parse(*ReadFile(TempPath("report"), "report"))["kv"]["tokens_seen"];
  };
  EXPECT_EQ(seen({}), 3);  // A byte is a token of this model.
  EXPECT_EQ(seen({"--no-escape"}), 4);
}

TEST(CliRunTest, SeedsMakeSamplingRepeatable) {
  const auto text = [](const std::string& seed) {
    return Rkv({"run", "-m", TestModelPath("qwen2-d64"), "-p", "x", "-n", "24", "--ignore-eos",
                "-s", seed})
        .out;
  };
  EXPECT_EQ(text("5"), text("5"));
  EXPECT_NE(text("5"), text("6"));
}

struct WrongUsage {
  std::vector<std::string> arguments;
  std::string says;
};

TEST(CliRunTest, WrongUsageExitsWith2AndSaysWhat) {
  const WrongUsage cases[] = {
      {{"run", "-p", "x", "--budget", "-1"}, "budget '-1'"},
      {{"run", "-p", "x", "--budget", "0.2"}, "has no unit"},
      {{"run", "-p", "x", "--budget", "50%", "--policy", "full"},
       "policy 'full' keeps every token"},
      {{"run", "-p", "x", "--policy", "streaming", "--budget", "2t"}, "smallest possible"},
      {{"run", "-p", "x", "--policy", "nonsense"}, "full, retentive"},
      {{"run", "-p", "x", "--policy", "streaming:sink=1"}, "sinks"},
      {{"run", "-p", "x", "--policy", "streaming:sinks=1.5"}, "whole number"},
      {{"run", "-p", "x", "--policy", "streaming:sinks=1,sinks=2"}, "given twice"},
      {{"run", "-p", "x", "--temp", "nan"}, "'nan' is not a number from 0"},
      {{"run", "-p", "x", "--temp", "-1"}, "--temp"},
      {{"run", "-p", "x", "--top-p", "nan"}, "--top-p"},
      {{"run"}, "-p"},
      {{"run", "-p", "x", "y"}, "unexpected argument: y"},
      {{"bench", "-n", "1", "y"}, "unexpected argument: y"},
      {{"eval", "--budgets", "30%", "no-such-suite"}, "unknown suite"},
      {{"run", "-p", "x", "-n", "0"}, "--predict"},
      {{"run", "-p", "x", "-t", "-3"}, "--threads"},
      {{"run", "-p", "x", "--no-such-flag"}, "--no-such-flag"},
      {{"run", "-p", "x", "--chat-template", "nonsense"}, "chatml"},
      {{"run", "-p", "x", "-m", TestModelPath("qwen2-d64"), "--image", kSamples + "doc-1.png"},
       "--mmproj"},
      {{"no-such-command"}, "no-such-command"},
      {{"make-model", "no-such-arch", "-o", "/tmp/x"}, "qwen2vl"},
      {{"bench", "--make", "no-such-model"}, "llava-1.5-7b"},
      {{"bench", "-o", "xml"}, "md, csv, json"},
      {{"bench", "-p", "0", "-n", "0"}, "nothing to measure"},
      {{"bench", "-d", "4-1"}, "-d is '4-1'"},
      {{"bench", "-ctk", "f16,q8_0", "-ctv", "f16"}, "paired"},
      {{"bench", "--policies", "nonsense"}, "full, retentive"},
  };
  for (const WrongUsage& wrong : cases) {
    const ProcessResult run = Rkv(wrong.arguments);
    EXPECT_EQ(run.exit_code, 2) << testing::PrintToString(wrong.arguments) << run.err;
    EXPECT_NE(run.err.find(wrong.says), std::string::npos) << run.err;
    EXPECT_EQ(run.out, "");
  }
}

TEST(CliRunTest, FailuresExitWith1AndSayWhat) {
  const std::string text = WriteTestFile(TempPath("text.png"), "not a picture");
  const WrongUsage cases[] = {
      {{"run", "-p", "x", "-m", "/no/such/model.gguf"}, "does not exist"},
      {{"run", "-p", "x", "-m", text}, "not a readable GGUF"},
      {{"run", "-p", "x", "--image", text}, "text.png"},
      {{"run", "-p", "x", "--image", "/no/such.png"}, "/no/such.png"},
      {{"run", "-p", "x", "-m", TestModelPath("mamba")}, "recurrent"},
      {{"run", "-p", "x", "-m", TestModelPath("qwen2vl-d64"), "-mm", TestMmprojPath("qwen2vl-d80")},
       "mmproj"},
      {{"run", "-p", std::string(300, 'x'), "-c", "100"}, "100"},
      {{"run", "-p", "color of S", "-n", "1", "--kv-report", "/dev/null/report"},
       "/dev/null/report"},
      {{"run", "-p", "x", "-n", "1", "--log-file", "/dev/null/log"}, "/dev/null/log"},
      {{"run", "-p", "x", "-n", "1", "--log-file", TempPath("none") + "/log"}, "no folder"},
  };
  for (const WrongUsage& wrong : cases) {
    const ProcessResult run = Rkv(wrong.arguments);
    EXPECT_EQ(run.exit_code, 1) << testing::PrintToString(wrong.arguments) << run.err;
    EXPECT_NE(run.err.find(wrong.says), std::string::npos) << run.err;
  }
}

TEST(CliRunTest, HelpAndVersion) {
  const ProcessResult version = Rkv({"--version"});
  EXPECT_EQ(version.exit_code, 0);
  EXPECT_NE(version.out.find("llama.cpp 0."), std::string::npos);
  const ProcessResult help = Rkv({"run", "--help"});
  EXPECT_EQ(help.exit_code, 0);
  for (const PolicyDescription& policy : DescribePolicies()) {
    EXPECT_NE(help.out.find(policy.summary), std::string::npos) << policy.name;
  }
}

TEST(CliChatTest, CommandsAndErrorsInOneConversation) {
  const std::string saved = TempPath("conversation");
  const std::string script = "/image " + kSamples + "doc-1.png\n" +
                             "value of W\n"
                             "/image /no/such.png\n"
                             "value of Z\n"  // Fails for the picture,
                             "value of Z\n"  // and goes on without it.
                             "/save " +
                             saved + "\n" +
                             "/save /dev/null/x\n"
                             "/nonsense\n"
                             "value of Q\n"
                             "/undo\n"
                             "/stats\n"
                             "/clear\n"
                             "/load " +
                             saved + "\n" + "/load " + kSamples + "doc-1.png\n" +
                             "value of O\n"
                             "/exit\n"
                             "value of W\n";
  const ProcessResult chat = RkvTiny({"chat", "--temp", "0"}, script);
  EXPECT_EQ(chat.exit_code, 0) << chat.err;
  for (const char* expected :
       {"59\n", "27\n", "18\n", "42\n", "saved to", "loaded 4 messages", "cache: holds", "  bytes ",
        "f16 ", "  tokens ", "  states ", "  time ", "speed: read"}) {
    EXPECT_NE(chat.out.find(expected), std::string::npos) << expected << " in\n" << chat.out;
  }
  for (const char* expected :
       {"/no/such.png", "/dev/null/x", "unknown command '/nonsense'", "not a saved conversation"}) {
    EXPECT_NE(chat.err.find(expected), std::string::npos) << expected << " in\n" << chat.err;
  }
  EXPECT_EQ(chat.out.find("59\n", chat.out.find("42\n")), std::string::npos);  // /exit left.
}

TEST(CliChatTest, AFullDiskOnSaveIsAnError) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "this system has no /dev/full";
  const ProcessResult chat = RkvTiny({"chat", "--temp", "0", "--image", kSamples + "doc-1.png"},
                                     "value of W\n/save /dev/full\nvalue of Z\n");
  EXPECT_EQ(chat.exit_code, 0);
  EXPECT_NE(chat.err.find("No space left"), std::string::npos) << chat.err;
  EXPECT_NE(chat.out.find("27\n"), std::string::npos) << chat.out;
}

TEST(CliChatTest, CtrlCStopsTheAnswerAndNotTheProgram) {
  InteractiveProcess chat(
      {RKV_BINARY_DIR "/apps/rkv", "chat", "--ignore-eos", "-m", TestModelPath("qwen2-d64")});
  chat.Write("hello\n/stats\n");
  EXPECT_FALSE(chat.ReadUntil("a").empty());
  chat.Signal(SIGINT);
  EXPECT_NE(chat.ReadUntil("(stopped)").find("(stopped)"), std::string::npos);
  EXPECT_NE(chat.ReadUntil("cache: holds").find("cache: holds"), std::string::npos);
  chat.Write("/exit\n");
  EXPECT_EQ(chat.Wait(), 0);
}

TEST(CliRunTest, CtrlCExitsWith130) {
  InteractiveProcess run({RKV_BINARY_DIR "/apps/rkv", "run", "--ignore-eos", "-m",
                          TestModelPath("qwen2-d64"), "-p", "hello"});
  EXPECT_FALSE(run.ReadUntil("a").empty());
  run.Signal(SIGINT);
  EXPECT_EQ(run.Wait(), 130);
}

TEST(CliRunTest, AReaderThatGoesAwayIsNotACrash) {
  const ProcessResult run =
      RunProcess({"/bin/sh", "-c",
                  "'" RKV_BINARY_DIR "/apps/rkv' run -m '" + TestModelPath("qwen2-d64") +
                      "' -p hello --ignore-eos | head -c 20 > /dev/null"});
  EXPECT_EQ(run.exit_code, 0);
  EXPECT_NE(run.err.find("error: "), std::string::npos) << run.err;
}

TEST(CliRunTest, TheDemoGivesTheAnswersOfTheFullCache) {
  const auto ask = [](const std::vector<std::string>& cache) {
    std::vector<std::string> arguments = {"run", "--image",
                                          SourcePath("models/reference/sample.png"), "--temp", "0"};
    for (const char* question : {"What is the track?", "Which score is given?",
                                 "What does desk say?", "Read the width."}) {
      arguments.insert(arguments.end(), {"-p", question});
    }
    arguments.insert(arguments.end(), cache.begin(), cache.end());
    return Rkv(arguments).out;
  };
  const std::string full = ask({"--policy", "full"});
  EXPECT_NE(full.find("Karin"), std::string::npos) << full;
  EXPECT_EQ(ask({"--policy", "retentive", "--budget", "15%"}), full);
  EXPECT_NE(ask({"--policy", "streaming", "--budget", "50%"}), full);
}

TEST(CliRunTest, OutputsThatTakeNothingAreNoCrash) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "this system has no /dev/full";
  const std::string run =
      "'" RKV_BINARY_DIR "/apps/rkv' run -m '" + TestModelPath("qwen2-d64") + "' -p hello -n 2 ";
  const auto exit_code = [](const std::string& command) {
    return RunProcess({"/bin/sh", "-c", command}).exit_code;
  };
  EXPECT_EQ(exit_code(run + "2> /dev/full"), 0);
  EXPECT_EQ(exit_code(run + "2>&-"), 0);
  EXPECT_EQ(exit_code(run + "--policy nonsense 2> /dev/full"), 2);
  EXPECT_EQ(exit_code(run + "-m /no/such.gguf 2> /dev/full"), 1);
  EXPECT_EQ(exit_code(run + "> /dev/full"), 1);
  EXPECT_EQ(exit_code(run + "--help > /dev/full"), 1);
  const std::string chat = "echo hello | '" RKV_BINARY_DIR "/apps/rkv' chat -n 2 -m '" +
                           TestModelPath("qwen2-d64") + "' ";
  EXPECT_EQ(exit_code(chat + "> /dev/full"), 1);
  EXPECT_EQ(exit_code(chat + "2> /dev/full"), 0);
}

TEST(CliRunTest, OfAFlagGivenTwiceTheLastCounts) {
  const auto tokens = [](const std::vector<std::string>& n) {
    std::vector<std::string> arguments = {
        "run", "--temp", "0", "--ignore-eos", "-m", TestModelPath("qwen2-d64"), "-p", "hello"};
    arguments.insert(arguments.end(), n.begin(), n.end());
    return Rkv(arguments).out;
  };
  EXPECT_EQ(tokens({"-n", "9", "-n", "2"}), tokens({"-n", "2"}));
  EXPECT_NE(tokens({"-n", "9", "-n", "2"}), tokens({"-n", "9"}));
  // Of lists, all count, as with llama-bench.
  const ProcessResult bench =
      Rkv({"bench", "-m", TestModelPath("qwen2-d64"), "-p", "0", "-n", "1", "-n", "2,3", "-r", "7",
           "-r", "1", "-ctk", "f16", "--policies", "full", "-o", "json"});
  ASSERT_EQ(bench.exit_code, 0) << bench.err;
  const auto rows = nlohmann::json::parse(bench.out)["results"];
  ASSERT_EQ(rows.size(), 6u);
  EXPECT_EQ(rows[5]["test"], "tg3");
  EXPECT_EQ(rows[5]["samples_ns"].size(), 1u);
}

TEST(CliEvalTest, DeferredComparesPoliciesWithFull) {
  const std::string out = TempPath("eval");
  const ProcessResult run =
      Rkv({"eval", "deferred", "--quick", "--policies", "streaming,streaming:sinks=2,window=3",
           "--budgets", "90%,300B", "--conversations", "1", "--controls", "-o", "md,json,csv",
           "--out", out});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(run.out, "");
  EXPECT_EQ(run.err, "");
  const auto json = nlohmann::json::parse(*ReadFile(out + "/eval-deferred.json", "results"));
  EXPECT_EQ(json["conversations"], 1);
  EXPECT_NE(json["version"].get<std::string>().find("llama.cpp"), std::string::npos);
  for (const char* regime : {"known", "unknown"}) {
    const auto& rows = json["regimes"][regime]["rows"];
    ASSERT_GE(rows.size(), 5u) << rows;
    EXPECT_EQ(rows[0]["label"], "full");
    EXPECT_GE(rows[0]["accuracy"], 0.9);
    EXPECT_EQ(rows[0]["kl"], 0.0);
    EXPECT_EQ(rows[1]["policy"], "streaming:sinks=1,window=1");
    EXPECT_EQ(rows[1]["budget"], "90%");
    EXPECT_GT(rows[1]["kl"], 0.0);
    EXPECT_LE(rows[1]["kept"], 0.91);
    EXPECT_LE(rows[1]["accuracy_95"][0], rows[1]["accuracy"]);
    EXPECT_GE(rows[1]["accuracy_95"][1], rows[1]["accuracy"]);
    EXPECT_NE(rows[2]["refused"].get<std::string>().find("too small"), std::string::npos);
    EXPECT_EQ(rows[3]["policy"], "streaming:sinks=2,window=3");
  }
  const std::string table = *ReadFile(out + "/eval-deferred.md", "results");
  for (const char* expected : {"| full |", "| streaming |", "q8_0 full cache",
                               "refused: ", "--budgets 90%,300B", "seed 1"}) {
    EXPECT_NE(table.find(expected), std::string::npos) << expected << " in\n" << table;
  }
  const std::string csv = *ReadFile(out + "/eval-deferred.csv", "results");
  EXPECT_NE(csv.find("deferred,known,\"full\",\"full\",none,"), std::string::npos) << csv;
}

// What continuous integration runs: the bars are those of --quick.
TEST(CliEvalTest, QuickRunsOfPictureSuitesReachTheirBars) {
  if (const char* why = WhyNoQuality()) GTEST_SKIP() << why;
  for (const char* suite : {"deferred", "pages", "turns"}) {
    const std::string out = TempPath(fmt::format("eval-{}", suite));
    const ProcessResult run = Rkv({"eval", suite, "--quick", "-o", "json,svg", "--out", out});
    EXPECT_EQ(run.exit_code, 0) << suite << run.err;
    const auto json =
        nlohmann::json::parse(*ReadFile(fmt::format("{}/eval-{}.json", out, suite), "results"));
    for (const auto& [name, regime] : json["regimes"].items()) {
      const auto& rows = regime["rows"];
      EXPECT_EQ(rows[0]["missed"], 0.0);
      for (const auto& row : rows) {
        if (row["label"] != "random") continue;
        EXPECT_EQ(row["headroom"], 0.0);
        EXPECT_GT(row["missed"], 0.1) << suite << name;  // Half of the tokens and more are gone.
        EXPECT_LT(row["missed"], 1.0);
        EXPECT_GT(row["retentive_minus_this_95"][0], 0.0);
      }
    }
  }
}

TEST(CliEvalTest, ABarThatIsMissedIsAnError) {
  // A generated model knows nothing.
  const ProcessResult run =
      Rkv({"eval", "text-kv", "-m", TestModelPath("qwen2-d64"), "--quick", "--context", "600",
           "--text", WriteTestFile(TempPath("text.txt"), Prose(1, 60)), "--policies", "streaming"});
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_NE(run.err.find("expected at least 0.9"), std::string::npos) << run.err;
  EXPECT_NE(run.out.find("| quarter 1 | quarter 2 |"), std::string::npos) << run.out;
}

TEST(CliEvalTest, ResumedRunsGiveTheSame) {
  const std::string journal = TempPath("journal.jsonl");
  std::filesystem::remove(journal);
  const auto rows = [&](const std::string& policies, const std::string& conversations) {
    const ProcessResult run =
        Rkv({"eval", "deferred", "--policies", policies, "--budgets", "60%", "--conversations",
             conversations, "-o", "json", "--resume", journal});
    EXPECT_EQ(run.exit_code, conversations == "3" ? 0 : 2) << run.err;
    return run.exit_code == 0 ? nlohmann::json::parse(run.out)["regimes"] : nlohmann::json();
  };
  const auto first = rows("streaming", "3");
  ASSERT_FALSE(first.is_null());
  EXPECT_EQ(first["known"]["rows"][0]["by_seed"]["2"]["measured"], 8.0);
  const auto size = std::filesystem::file_size(journal);
  EXPECT_EQ(rows("streaming", "3"), first);  // The seconds too: nothing is measured again.
  EXPECT_EQ(std::filesystem::file_size(journal), size);
  const auto more = rows("streaming,random", "3");
  for (const char* what : {"kl", "seconds", "by_question"}) {
    EXPECT_EQ(more["known"]["rows"][1][what], first["known"]["rows"][1][what]);
  }
  EXPECT_GT(std::filesystem::file_size(journal), size);
  EXPECT_TRUE(rows("streaming", "2").is_null());
}

TEST(CliEvalTest, DataIsTheUsersOwn) {
  const std::string samples = SourcePath("models/reference/samples");
  const ProcessResult run = RkvTiny({"eval", "--data", samples, "--policies", "streaming",
                                     "--budgets", "30%", "--conversations", "2", "-o", "json"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const auto json = nlohmann::json::parse(run.out);
  EXPECT_EQ(json["suite"], "data");
  for (const char* regime : {"known", "unknown"}) {
    const auto& rows = json["regimes"][regime]["rows"];
    EXPECT_EQ(rows[0]["accuracy"], 1.0);  // generated, and what the file says
    EXPECT_EQ(rows[0]["kl"], 0.0);
    EXPECT_LT(rows[1]["accuracy"], 0.7);
    EXPECT_GT(rows[1]["kl"], 0.5);
  }
  const std::string bad = WriteTestFile(TempPath("bad.jsonl"), "\n{\"image\": \"no.png\"}\n");
  const ProcessResult wrong = RkvTiny({"eval", "--data", bad});
  EXPECT_EQ(wrong.exit_code, 1);
  EXPECT_NE(wrong.err.find("bad.jsonl:2: there is no picture"), std::string::npos) << wrong.err;
}

TEST(CliEvalTest, TextKlComparesDistributions) {
  const std::string text = WriteTestFile(TempPath("text.txt"), Prose(1, 40));
  const std::string then = WriteTestFile(TempPath("then.txt"), Prose(2, 40));
  const ProcessResult run =
      Rkv({"eval", "text-kl", "-m", TestModelPath("qwen2-d64"), "--quick", "--context", "200",
           "--text", text, "--then", then, "--policies", "streaming", "-o", "json"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const auto json = nlohmann::json::parse(run.out);
  for (const char* regime : {"continue", "change"}) {
    const auto& rows = json["regimes"][regime]["rows"];
    ASSERT_EQ(rows.size(), 3u);
    EXPECT_EQ(rows[0]["accuracy"], 1.0);
    EXPECT_EQ(rows[0]["kl"], 0.0);
    EXPECT_EQ(rows[0]["measured"], 64.0);
    EXPECT_GT(rows[2]["kl"], rows[1]["kl"]);
  }
  const ProcessResult whole =
      Rkv({"eval", "text-kl", "-m", TestModelPath("qwen2-d64"), "--conversations", "2", "--context",
           "200", "--text", text, "--then", then, "--policies", "full", "--plain", "-o", "json"});
  ASSERT_EQ(whole.exit_code, 0) << whole.err;
  size_t n_stock = 0;
  const auto all = nlohmann::json::parse(whole.out);
  for (const auto& row : all["regimes"]["change"]["rows"]) {
    if (!row["label"].get<std::string>().starts_with("llama.cpp")) continue;
    ++n_stock;
    EXPECT_LT(row["kl"], 1e-3);
    EXPECT_GT(row["accuracy"], 0.95);
    EXPECT_EQ(row["measured"], 512.0);
  }
  EXPECT_EQ(n_stock, 2u);
}

// KL to the full cache of each policy and budget, by regime; loose bounds on what the documentation
// shows in full.
using KlTable = std::map<std::string, std::map<std::string, double>>;
KlTable KlOf(const nlohmann::json& regime) {
  KlTable table;
  for (const auto& row : regime["rows"]) {
    if (!row.contains("kl") || row["budget"] == "none") continue;
    EXPECT_TRUE(row["kl"].is_number()) << row;  // A KL that is no number is written as null.
    table[row["label"]][row["budget"]] = row["kl"];
  }
  return table;
}

// `budgets` from the largest down.
void ExpectRetentiveIsAhead(const KlTable& table, const std::vector<std::string>& budgets) {
  ASSERT_GE(table.size(), 3u);
  const auto& ours = table.at("retentive");
  for (const auto& [policy, kl] : table) {
    for (size_t i = 0; i + 1 < budgets.size(); ++i) {
      EXPECT_LE(kl.at(budgets[i]), kl.at(budgets[i + 1]) + 0.01) << policy;
      if (policy != "retentive") {
        EXPECT_LT(ours.at(budgets[i + 1]), kl.at(budgets[i + 1])) << policy;
      }
    }
  }
}

TEST(CliEvalTest, RetentiveKeepsWhatIsAskedLater) {
  if (const char* why = WhyNoQuality()) GTEST_SKIP() << why;
  const ProcessResult run =
      Rkv({"eval", "deferred", "--conversations", "6", "--budgets", "50%,20%,10%,5%,2.5%",
           "--policies", "retentive,random,streaming,snapkv", "-o", "json"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const auto json = nlohmann::json::parse(run.out);
  for (const char* regime : {"known", "unknown"}) {
    const auto& rows = json["regimes"][regime]["rows"];
    ExpectRetentiveIsAhead(KlOf(json["regimes"][regime]), {"50%", "20%", "10%"});
    for (const auto& row : rows) {
      if (row["label"] != "retentive") continue;
      EXPECT_GE(row["accuracy"].get<double>(), 0.85 * rows[0]["accuracy"].get<double>())
          << regime << " at " << row["budget"];
    }
  }
}

TEST(CliEvalTest, RetentiveKeepsProseOfRealWeights) {
  if (const char* why = WhyNoQuality()) GTEST_SKIP() << why;
  if (const char* why = WhyNoRealWeights()) GTEST_SKIP() << why;
  const ProcessResult run =
      Rkv({"eval", "text-kl", "-m", SmolLm2Path(), "--quick", "--context", "640", "--policies",
           "retentive,random,streaming,snapkv", "--budgets", "20%", "-o", "json"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const auto json = nlohmann::json::parse(run.out);
  for (const char* regime : {"continue", "change"}) {
    ExpectRetentiveIsAhead(KlOf(json["regimes"][regime]), {"20%"});
  }
}

// Of generated weights: the answers mean nothing, but the rows and their parts are those of any
// model.
TEST(CliEvalTest, TextsOfSeveralKindsAreAskedForInThreeWays) {
  const std::string a = WriteTestFile(TempPath("first.txt"), Prose(1, 80));
  std::string lines = Prose(2, 80);
  std::ranges::replace(lines, '.', '\n');  // as in a table, no sentence ends
  const std::string b = WriteTestFile(TempPath("second.txt"), lines);
  const ProcessResult run = Rkv({"eval",
                                 "text-kv",
                                 "-m",
                                 TestModelPath("qwen2-d64"),
                                 "--context",
                                 "800",
                                 "--pairs",
                                 "4",
                                 "--conversations",
                                 "2",
                                 "--text",
                                 a,
                                 "--text",
                                 b,
                                 "--policies",
                                 "streaming",
                                 "--plain",
                                 "--budgets",
                                 "20%",
                                 "-o",
                                 "json"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const auto json = nlohmann::json::parse(run.out);
  const std::string second = "text " + std::filesystem::path(b).stem().string();
  const std::map<std::string, std::pair<double, size_t>> regimes = {
      {"literal", {16, 4}}, {"paraphrased", {16, 4}}, {"distractors", {4, 2}}};
  for (const auto& [regime, expected] : regimes) {
    const auto& [measured, n_quarters] = expected;
    const auto& rows = json["regimes"][regime]["rows"];
    std::map<std::string, nlohmann::json> by_label;
    for (const auto& row : rows) by_label[row["label"]] = row;
    EXPECT_EQ(by_label["full"]["measured"], measured);
    EXPECT_EQ(by_label["full"]["by_family"].size(), n_quarters + 2) << regime;
    EXPECT_EQ(by_label["full"]["by_family"][second]["measured"], measured / 2);
    for (const char* stock : {"llama.cpp, flash attention", "llama.cpp, no flash attention"}) {
      EXPECT_LT(by_label[stock]["kl"], 1e-3) << regime << stock;
      EXPECT_EQ(by_label[stock]["kept"], 1.0);
      EXPECT_EQ(by_label[stock]["measured"], measured);
    }
    EXPECT_LT(by_label["q8_0 full cache"]["kl"], by_label["q2 full cache"]["kl"]);
    EXPECT_GT(by_label["streaming"]["kl"], by_label["llama.cpp, flash attention"]["kl"]);
  }
}

TEST(CliEvalTest, WrongUsageExitsWith2AndSaysWhat) {
  const WrongUsage cases[] = {
      {{"eval"}, "suite"},
      {{"eval", "no-such-suite"}, "deferred, pages, turns, text-kv, text-kl, data"},
      {{"eval", "data"}, "--data"},
      {{"eval", "text-kv", "-m", TestModelPath("qwen2-d64"), "--data", "x.jsonl"}, "--text"},
      {{"eval", "deferred", "-s", "1,2"}, "is not random"},
      {{"eval", "deferred", "--plain"}, "--controls"},
      {{"eval", "text-kv", "-m", TestModelPath("qwen2-d64"), "--context", "50"}, "--context"},
      {{"eval", "text-kl", "-m", TestModelPath("qwen2-d64"), "-s", "1,2"}, "is not random"},
      {{"eval", "deferred", "--policies", "nonsense"}, "nonsense"},
      {{"eval", "deferred", "--policies", "streaming:sink=1"}, "sink"},
      {{"eval", "deferred", "--budgets", "0.2"}, "has no unit"},
      {{"eval", "deferred", "--budgets", "50%,,20%"}, "budget"},
      {{"eval", "deferred", "--conversations", "0"}, "--conversations"},
      {{"eval", "deferred", "-o", "xml"}, "xml"},
      {{"eval", "text-kl"}, "-m"},
      {{"eval", "text-kl", "-m", TestModelPath("qwen2-d64"), "--context", "100000"}, "--context"},
  };
  for (const WrongUsage& wrong : cases) {
    const ProcessResult run = Rkv(wrong.arguments);
    EXPECT_EQ(run.exit_code, 2) << testing::PrintToString(wrong.arguments) << run.err;
    EXPECT_NE(run.err.find(wrong.says), std::string::npos) << run.err;
    EXPECT_EQ(run.out, "");
  }
  EXPECT_EQ(Rkv({"eval", "deferred", "--quick", "--conversations", "1", "--out", "/dev/null/x"})
                .exit_code,
            1);
  EXPECT_EQ(
      Rkv({"eval", "text-kl", "-m", TestModelPath("qwen2-d64"), "--text", "/no/such"}).exit_code,
      1);
}

// --- rkv inspect ------------------------------------------------------------------------------

// About a sample picture, which has 8 x 8 cells.
ProcessResult InspectSample(std::vector<std::string> extra) {
  std::vector<std::string> arguments = {
      "inspect", "--image", kSamples + "doc-1.png", "-p", "value of W", "--temp", "0", "-t", "1"};
  arguments.insert(arguments.end(), extra.begin(), extra.end());
  return RkvTiny(arguments);
}

TEST(CliBenchTest, StockAndOursAreInOneTable) {
  const std::string plot = TempPath("plot.svg");
  std::vector<std::string> arguments = {"bench", "-m", TestModelPath("qwen2-d64"), "--plot", plot};
  for (const char* more : {"-p", "16", "-n", "4", "-d", "0,64", "-t", "1", "-r", "2", "-o", "json",
                           "-ctk", "f16", "--budgets", "50%", "--batch", "2", "--random-depth"}) {
    arguments.emplace_back(more);
  }
  const ProcessResult run = Rkv(arguments);
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const auto json = nlohmann::json::parse(run.out);
  ASSERT_EQ(json["results"].size(), 2u * 2 * 3);
  for (const auto& row : json["results"]) {
    const double median = row["median_ts"];
    EXPECT_GE(median, row["min_ts"]);
    EXPECT_LE(median, row["max_ts"]);
    EXPECT_EQ(row["samples_ts"].size(), 2u);
    EXPECT_EQ(row["random_depth"], true);
    EXPECT_EQ(row["n_conversations"], 2);
    EXPECT_EQ(row["stock_ratio"].is_number(), true);
    EXPECT_EQ(row["bytes_per_token"].is_number(), row["n_gen"] == 4);
    EXPECT_GT(row["peak_bytes"], row["kv_bytes"]);
  }
  EXPECT_TRUE(ReadFile(plot, "plot")->starts_with("<svg"));
}

// Four rows: full and within a budget, with as many clients as each of them holds.
void ExpectServeRows(const nlohmann::json& json, double min_ratio) {
  ASSERT_EQ(json["results"].size(), 4u);
  const auto& rows = json["results"];
  for (size_t i = 0; i < 4; ++i) {
    const auto& row = rows[i];
    SCOPED_TRACE(row.dump(1));
    const bool full = i % 2 == 0;
    EXPECT_EQ(row["policy"], full ? "full" : "retentive");
    EXPECT_EQ(row["n_conversations"], rows[i < 2 ? 0 : 1]["conversations_held"]);
    EXPECT_EQ(row["samples_ts"].size(), 2u);
    EXPECT_GT(row["median_ts"], 0);
    EXPECT_EQ(row["full_ratio"].is_number(), true);
    EXPECT_LE(row["peak_kv_bytes"], row["memory_bytes"]);
    // Whoever has more clients than it holds parks some of them, and nobody else does.
    EXPECT_EQ(row["conversations_restored"] > 0, full && i > 1);
  }
  EXPECT_GT(rows[0]["conversations_held"], 0);
  EXPECT_GE(rows[1]["conversations_held_ratio"], min_ratio);
}

TEST(CliBenchTest, ServersHoldMoreConversationsWithinABudget) {
  const std::string parked = TempPath("parked");
  const ProcessResult run = Rkv({"bench", "--serve", "-d", "0", "-n", "4", "-r", "2", "-t", "1",
                                 "-o", "json", "--park", parked});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  ExpectServeRows(nlohmann::json::parse(run.out), 4.5);
  EXPECT_TRUE(fs::is_empty(parked));
}

TEST(CliBenchTest, ServersTakeTextAndATableComesOut) {
  const std::vector<std::string> arguments = {
      "bench",     "--serve", "-m",       TestModelPath("qwen2-d64"),
      "-d",        "96",      "-n",       "2",
      "-r",        "2",       "-t",       "1",
      "--budgets", "50%",     "--memory", "8MiB"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), arguments.begin(), arguments.end());
    return Rkv(more);
  };
  const ProcessResult json = with({"-o", "json"});
  ASSERT_EQ(json.exit_code, 0) << json.err;
  ExpectServeRows(nlohmann::json::parse(json.out), 1.5);
  const ProcessResult table = with({"-o", "md"});
  EXPECT_NE(table.out.find("| held x full |"), std::string::npos) << table.out << table.err;
  EXPECT_EQ(table.out.find("x stock"), std::string::npos);
}

TEST(CliBenchTest, WrongUsageOfServeExitsWith2AndSaysWhat) {
  const std::string model = TestModelPath("qwen2-d64");
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"--memory", "1GiB"}, "--serve"},
      {{"--serve", "--plot", "x.svg"}, "--plot"},
      {{"--serve", "-m", model}, "-d 512"},
      {{"--serve", "-m", model, "-d", "64", "--memory", "7"}, "--memory"},
      {{"--serve", "-m", model, "-d", "64", "--memory", "1KiB"}, "the server has 1.0 KiB"},
      {{"--serve", "-m", model, "-d", "64", "-np", "2"}, "raise --parallel"},
      {{"--serve", "-m", model, "--image", kSamples + "doc-1.png"}, "--mmproj"},
  };
  for (auto [arguments, said] : cases) {
    arguments.insert(arguments.begin(), {"bench", "-t", "1"});
    const ProcessResult run = Rkv(arguments);
    EXPECT_EQ(run.exit_code, 2) << said;
    EXPECT_NE(run.err.find(said), std::string::npos) << said << "\n" << run.err;
  }
}

TEST(CliBenchTest, ModelsOfReleasedShapesAreNamedInHelp) {
  const ProcessResult help = Rkv({"bench", "--help"});
  EXPECT_EQ(help.exit_code, 0);
  for (const char* name : {"qwen2-1.5b", "qwen3-vl-4b", "llava-1.5-7b"}) {
    EXPECT_NE(help.out.find(name), std::string::npos);
  }
}

TEST(CliInspectTest, JsonAgreesWithItsStats) {
  for (const std::vector<std::string>& cache :
       {std::vector<std::string>{"--policy", "retentive", "--budget", "10%"},
        {"--policy", "h2o", "--budget", "40%", "--absorb", "clusters", "--split", "pooled"},
        {"--policy", "streaming", "--budget", "60%"}}) {
    std::vector<std::string> arguments = cache;
    arguments.insert(arguments.end(), {"-o", "json"});
    const ProcessResult run = InspectSample(arguments);
    ASSERT_EQ(run.exit_code, 0) << run.err;
    const auto json = nlohmann::json::parse(run.out);
    const size_t n_tokens = json["kv"]["tokens_seen"];
    EXPECT_EQ(json["tokens"], n_tokens);
    EXPECT_EQ(json["turns"][0]["question"], "value of W");
    EXPECT_EQ(json["media"][0]["rows"], 8);
    EXPECT_EQ(json["media"][0]["columns"], 8);
    EXPECT_GT(json["answer_tokens"], 0);
    std::map<std::string, uint64_t> rows;  // by rung
    uint64_t exact_rows = 0;
    double max_absorbed = 0;
    size_t n_states = 0;
    for (const auto& head : json["heads"]) {
      ASSERT_EQ(head["rung"].size(), n_tokens);
      ASSERT_EQ(head["root"].size(), n_tokens);
      ASSERT_EQ(head["share"].size(), n_tokens);
      uint64_t exact = 0;
      double absorbed = 0;
      double softmax = 0;
      double mass = 0;
      for (size_t token = 0; token < n_tokens; ++token) {
        if (!head["rung"][token].is_null()) {
          ++exact;
          const std::string rung = json["rungs"][head["rung"][token].get<size_t>()];
          ++rows[rung.substr(0, rung.find('/'))];  // by the type of K
          EXPECT_TRUE(head["root"][token].is_null());
        } else if (!head["root"][token].is_null()) {
          ++absorbed;
        }
        softmax += head["share"][token].get<double>();
      }
      for (const auto& state : head["states"]) {
        softmax += state["share"].get<double>();
        mass += state["mass"].get<double>();
      }
      // What was read of states that joined others during the answer is in no state.
      EXPECT_NEAR(softmax, 1, head["states"].empty() ? 0.001 : 0.5);
      EXPECT_NEAR(mass, absorbed, 0.01);
      n_states += head["states"].size();
      exact_rows += exact;
      max_absorbed = std::max(max_absorbed, absorbed);
    }
    const uint64_t n_heads = json["heads"].size();
    EXPECT_EQ((exact_rows + n_heads - 1) / n_heads, json["kv"]["tokens_exact"]);
    EXPECT_NEAR(max_absorbed, json["kv"]["tokens_absorbed"].get<double>(), 1);
    EXPECT_EQ(n_states, json["kv"]["states"]);
    for (const auto& [rung, type] : json["kv"]["types"].items()) {
      EXPECT_EQ(rows[rung], type["rows"]) << rung;
    }
  }
}

TEST(CliInspectTest, TextHasAMapOfThePicture) {
  const ProcessResult run =
      InspectSample({"--policy", "retentive", "--budget", "10%", "-p", "value of Z"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_NE(run.out.find("picture 1: 8 x 8 cells"), std::string::npos) << run.out;
  EXPECT_NE(run.out.find("> value of Z\n"), std::string::npos) << run.out;
  std::istringstream lines(run.out);
  const std::regex row("  [FB842a-c~.]{8} +[0-9.]{8} +[0-9.]{8}");
  int n_rows = 0;
  for (std::string line; std::getline(lines, line);) n_rows += std::regex_match(line, row) ? 1 : 0;
  EXPECT_EQ(n_rows, 8) << run.out;
  for (const char* expected :
       {"policy retentive, budget 10%", "metadata", "compression", "    all"}) {
    EXPECT_NE(run.out.find(expected), std::string::npos) << expected << " in\n" << run.out;
  }
}

TEST(CliInspectTest, DrawingsAreWritten) {
  const std::string png = TempPath("map.png");
  const std::string svg = TempPath("map.svg");
  const ProcessResult run = InspectSample({"--policy", "streaming", "--budget", "60%", "--layer",
                                           "1", "--head", "0", "--png", png, "--svg", svg});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_NE(run.out.find("layer 1, KV head 0"), std::string::npos) << run.out;
  EXPECT_TRUE(ReadFile(svg, "drawing")->ends_with("</svg>\n"));
  // The drawing is a picture that can be shown to the model.
  const ProcessResult again =
      Rkv({"run", "--image", png, "-p", "value of W", "-n", "1", "-t", "1"});
  EXPECT_EQ(again.exit_code, 0) << again.err;
}

TEST(CliInspectTest, SavedConversationsAndTextAlone) {
  const std::string saved = TempPath("conversation");
  const std::string picture = kSamples + "doc-1.png";
  RkvTiny({"chat", "--temp", "0", "--policy", "streaming", "--budget", "60%", "--image", picture,
           "-t", "1"},
          "value of W\n/save " + saved + "\n");
  const std::string png = TempPath("map.png");
  const ProcessResult run =
      RkvTiny({"inspect", "--load", saved, "--image", picture, "--png", png, "-t", "1"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_NE(run.out.find("a saved conversation has no trace"), std::string::npos) << run.out;
  EXPECT_NE(run.out.find("picture 1: 8 x 8 cells"), std::string::npos) << run.out;
  EXPECT_EQ(run.out.find("read in the answer"), std::string::npos) << run.out;
  EXPECT_TRUE(fs::exists(png));
  EXPECT_EQ(RkvTiny({"inspect", "--load", saved, "--png", png, "-t", "1"}).exit_code, 2);

  const ProcessResult text = RkvTiny({"inspect", "-p", "value of W", "-n", "4", "-t", "1"});
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_EQ(text.out.find("picture 1"), std::string::npos) << text.out;
  EXPECT_NE(text.out.find("    all"), std::string::npos) << text.out;
}

TEST(CliInspectTest, WrongUsageExitsWith2AndFailuresWith1) {
  const WrongUsage wrong[] = {
      {{"--layer", "99"}, "layers 0 to 3"},
      {{"--layer", "-1"}, "--layer"},
      {{"--head", "99"}, "KV heads 0 to 1"},
      {{"--picture", "2", "--png", TempPath("x.png")}, "only picture 1"},
      {{"--picture", "0", "--svg", TempPath("x.svg")}, "only picture 1"},
      {{"-o", "xml"}, "xml"},
      {{"--load", "x"}, "-p is not possible with it"},
  };
  for (const WrongUsage& usage : wrong) {
    const ProcessResult run = InspectSample(usage.arguments);
    EXPECT_EQ(run.exit_code, 2) << testing::PrintToString(usage.arguments) << run.err;
    EXPECT_NE(run.err.find(usage.says), std::string::npos) << run.err;
    EXPECT_EQ(run.out, "");
  }
  EXPECT_EQ(Rkv({"inspect"}).exit_code, 2);
  const ProcessResult blind =
      Rkv({"inspect", "-p", "color of S", "-n", "1", "--png", TempPath("x.png")});
  EXPECT_EQ(blind.exit_code, 2);
  EXPECT_NE(blind.err.find("need a picture"), std::string::npos) << blind.err;
  EXPECT_EQ(Rkv({"inspect", "--load", "/no/such/file"}).exit_code, 1);
  for (const char* flag : {"--png", "--svg", "--kv-report"}) {
    const ProcessResult run = InspectSample({flag, "/dev/null/x"});
    EXPECT_EQ(run.exit_code, 1) << flag;
    EXPECT_NE(run.err.find("/dev/null/x"), std::string::npos) << run.err;
  }
}

// --- against llama.cpp's own programs ---------------------------------------------------------

// What a program of llama.cpp's writes. These print through a thread of their own and sometimes end
// before it has printed everything, so a text that `ours` starts with, but is not, is asked for
// again.
std::string StockText(const std::vector<std::string>& arguments, const std::string& ours) {
  std::string text;
  for (int attempt = 0; attempt < 10; ++attempt) {
    const ProcessResult stock = RunProcess(arguments);
    EXPECT_EQ(stock.exit_code, 0) << stock.err;
    text = Trim(stock.out);
    if (text == ours || !ours.starts_with(text)) break;
  }
  return text;
}

TEST(CliStockTest, BundledPicturesGetTheTextOfLlamaMtmdCli) {
  const std::string stock = RKV_LLAMA_DIR "/bin/llama-mtmd-cli";
  if (!fs::exists(stock)) GTEST_SKIP() << "this llama.cpp has no llama-mtmd-cli";
  const std::string reference = SourcePath("models/reference/");
  std::ifstream samples(kSamples + "samples.jsonl");
  int n_compared = 0;
  for (std::string line; std::getline(samples, line);) {
    const auto sample = nlohmann::json::parse(line);
    const std::string picture = kSamples + sample["images"][0].get<std::string>();
    for (const size_t turn : {size_t{0}, sample["turns"].size() - 1}) {
      const std::string question = sample["turns"][turn]["question"];
      const ProcessResult ours =
          RkvTiny({"run", "--policy", "full", "--image", picture, "-p", question, "--temp", "0"});
      const std::string expected =
          StockText({stock, "-m", reference + "tiny-vlm-f16.gguf", "--mmproj",
                     reference + "mmproj-tiny-vlm-f16.gguf", "--image", picture, "-p", question,
                     "--temp", "0", "--jinja", "-t", "2"},
                    Trim(ours.out));
      EXPECT_EQ(Trim(ours.out), expected) << picture << " " << question;
      EXPECT_EQ(Trim(ours.out), sample["turns"][turn]["answer"]);
      ++n_compared;
    }
  }
  EXPECT_EQ(n_compared, 12);
}

// The weights as f16: with the Q4_1 of the shipped file, stock llama.cpp with and without flash
// attention part ways after some tokens of such a text (docs/conformance.md).
TEST(CliStockTest, SmolLm2GetsTheTextOfLlamaCompletion) {
  const std::string stock = RKV_LLAMA_DIR "/bin/llama-completion";
  if (!fs::exists(stock)) GTEST_SKIP() << "this llama.cpp has no llama-completion";
  const std::string model = TestModelPath("smollm2-f16");
  if (WhyNoRealWeights() != nullptr) GTEST_SKIP() << WhyNoRealWeights();
  // A little over 2,000 tokens.
  const std::string prompt = Prose(5, 112) + "In short, this text is about";
  const std::string file = WriteTestFile(TempPath("prompt.txt"), prompt);
  const ProcessResult ours = Rkv({"run", "-m", model, "-f", file, "-n", "64", "--temp", "0",
                                  "--chat-template", "none", "--policy", "full"});
  ASSERT_EQ(ours.exit_code, 0) << ours.err;
  EXPECT_GT(Trim(ours.out).size(), 100u);
  const std::string expected =
      StockText({stock, "-m", model, "-f", file, "-n", "64", "--temp", "0", "-no-cnv",
                 "--no-display-prompt", "-fa", "on", "-c", "4096", "-t", "2"},
                Trim(ours.out));
  EXPECT_EQ(Trim(ours.out), expected);
}

// --- examples ---------------------------------------------------------------------------------

TEST(ExampleTest, AttachWritesWhatStockLlamaWrites) {
  const std::string attach = RKV_BINARY_DIR "/examples/example_attach";
  const std::string model = TestModelPath("qwen2-d64");
  const std::string prompt = Prose(9, 15);
  const ProcessResult ours = RunProcess({attach, model, prompt});
  ASSERT_EQ(ours.exit_code, 0) << ours.err;

  // The prompt is longer than the context that rkv_attach leaves llama.cpp. Logits of this model
  // differ by some 5e-3 from stock's (docs/conformance.md), those of two tokens by four times
  // as much.
  EXPECT_EQ(ours.out, StockLlama(model).Continue(prompt, 32, nullptr, ours.out, 2e-2));
  EXPECT_FALSE(ours.out.empty());
}

// With trained weights, after a text where no token of stock's leads by less than 0.7.
TEST(ExampleTest, AttachWritesWhatStockLlamaWritesWithTrainedWeights) {
  const std::string attach = RKV_BINARY_DIR "/examples/example_attach";
  const std::string model = TestModelPath("smollm2-f16");
  if (WhyNoRealWeights() != nullptr) GTEST_SKIP() << WhyNoRealWeights();
  const std::string prompt = Prose(7, 15);
  const ProcessResult ours = RunProcess({attach, model, prompt});
  ASSERT_EQ(ours.exit_code, 0) << ours.err;
  EXPECT_GT(Trim(ours.out).size(), 50u);
  EXPECT_EQ(ours.out, StockLlama(model).Continue(prompt, 32));
}

TEST(ExampleTest, AttachEvictsWithABudgetAndNamesMistakes) {
  const std::string attach = RKV_BINARY_DIR "/examples/example_attach";
  const ProcessResult streaming =
      RunProcess({attach, TestModelPath("qwen2-d64"), Prose(9, 15), "streaming", "64t"});
  EXPECT_EQ(streaming.exit_code, 0) << streaming.err;
  EXPECT_NE(streaming.err.find("tokens evicted"), std::string::npos);
  EXPECT_EQ(streaming.err.find(" 0 of"), std::string::npos) << streaming.err;
  const ProcessResult wrong = RunProcess({attach, TestModelPath("qwen2-d64"), "x", "nonsense"});
  EXPECT_EQ(wrong.exit_code, 1);
  EXPECT_NE(wrong.err.find("full, retentive"), std::string::npos) << wrong.err;
  const ProcessResult mamba = RunProcess({attach, TestModelPath("mamba"), "x"});
  EXPECT_EQ(mamba.exit_code, 1);
  EXPECT_NE(mamba.err.find("recurrent"), std::string::npos) << mamba.err;
}

TEST(ExampleTest, ChatAnswersThroughTheLibrary) {
  const std::string reference = SourcePath("models/reference/");
  const ProcessResult chat =
      RunProcess({RKV_BINARY_DIR "/examples/example_chat", reference + "tiny-vlm-f16.gguf",
                  reference + "mmproj-tiny-vlm-f16.gguf", kSamples + "scene-1.png", "color of S",
                  "color of R"});
  EXPECT_EQ(chat.exit_code, 0) << chat.err;
  EXPECT_NE(chat.out.find("color of S\npink\n"), std::string::npos) << chat.out;
}

}  // namespace
}  // namespace rkv
