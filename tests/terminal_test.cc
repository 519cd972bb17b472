// rkv chat as somebody at a terminal meets it, and what pipes and drags bring.
#include "support/terminal.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>

#include "base/file.h"
#include "support/process.h"
#include "support/test_models.h"

namespace rkv {
namespace {

namespace fs = std::filesystem;

const std::string kRkv = RKV_BINARY_DIR "/apps/rkv";
const std::string kPrompt = "> ";
constexpr const char* kPasteBegins = "\x1b[200~";
constexpr const char* kPasteEnds = "\x1b[201~";
constexpr const char* kUp = "\x1b[A";

// With the model that the samples' answers are known of.
const std::vector<std::string> kTiny = {"-m", SourcePath("models/reference/tiny-vlm-f16.gguf"),
                                        "-mm",
                                        SourcePath("models/reference/mmproj-tiny-vlm-f16.gguf")};

class TerminalTest : public testing::Test {
 protected:
  TerminalTest() {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }

  std::unique_ptr<TerminalProcess> Chat(std::vector<std::string> flags = {"-n", "1",
                                                                          "--ignore-eos"},
                                        TerminalProcess::Environment environment = {}) {
    std::vector<std::string> arguments = {kRkv, "chat", "-t", "1", "--temp", "0"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    environment.insert(environment.begin(), {{"LC_ALL", "C.UTF-8"}, {"XDG_STATE_HOME", folder_}});
    auto chat = std::make_unique<TerminalProcess>(arguments, environment);
    chat->ReadUntil(kPrompt);
    return chat;
  }

  // Says `keys`, saves the conversation and gives what is in the file.
  std::string Saved(const std::string& keys, TerminalProcess::Environment environment = {},
                    const std::string& name = "saved") {
    const auto chat = Chat({"-n", "1", "--ignore-eos"}, std::move(environment));
    chat->Type(keys);
    chat->Type("\r/save " + folder_ + "/" + name + "\r");
    chat->ReadUntil("saved to");
    chat->Type("/exit\r");
    EXPECT_EQ(chat->Wait(), 0);
    return *ReadFile(folder_ + "/" + name, "conversation");
  }

  const std::string folder_ = testing::TempDir() + "terminal-" +
                              testing::UnitTest::GetInstance()->current_test_info()->name();
};

void ExpectContains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "no '" << part << "' in\n" << text;
}

TEST_F(TerminalTest, EveryCharacterIsKept) {
  const std::string said = "Größe? 日本語 😀 e\u0301 ñ";
  for (const char* locale : {"C.UTF-8", "C", "de_DE.UTF-8"}) {
    ExpectContains(Saved(said, {{"LC_ALL", locale}, {"LANG", locale}}, "für 日本"), said);
    fs::remove(folder_ + "/für 日本");
  }
}

TEST_F(TerminalTest, CharactersAreShownAsTheyAreTyped) {
  const std::string said = "grüße 日本語 e\u0301";
  const auto chat = Chat({"-n", "1", "--ignore-eos"}, {{"LC_ALL", "C"}});
  for (const char byte : said) chat->Type(std::string(1, byte));
  ExpectContains(chat->ReadUntil(said), said);
}

TEST_F(TerminalTest, BytesThatAreNoCharactersAreNoCrash) {
  ExpectContains(Saved("a\xFF\xC3z\xE6\x97"), "a\uFFFD\uFFFDz\uFFFD\uFFFD");
}

TEST_F(TerminalTest, ATabInTextIsACharacter) { ExpectContains(Saved("a\tb"), "a\tb"); }

TEST_F(TerminalTest, EditingMovesByCharacters) {
  ExpectContains(Saved("日本語x\x1b[D\x1b[D\x7f\x01>\x05<"), ">日語x<");
}

TEST_F(TerminalTest, PastedLinesAreOneMessage) {
  const std::string pasted = "  first\tline\nsecond \r\nthird\rfourth\x1b[31m";
  ExpectContains(Saved(kPasteBegins + pasted + kPasteEnds + " end"),
                 "  first\tline\nsecond \nthird\nfourth\x1b[31m end");
}

TEST_F(TerminalTest, PastesAreMarkedWhileALineIsEdited) {
  const auto chat = Chat();
  chat->Type(kPasteBegins + std::string("a\nb") + kPasteEnds);
  const std::string shown = chat->ReadUntil("b");
  EXPECT_EQ(shown.find("\x1b[?2004l"), std::string::npos);  // It waits for Enter.
  chat->Type("\r");
  chat->ReadUntil("\x1b[?2004l");
  ExpectContains(chat->ReadUntil("\x1b[?2004h"), "(stopped after 1 tokens: -n)");
}

TEST_F(TerminalTest, SeveralLinesCanBeTyped) {
  ExpectContains(Saved("one\\\rtwo\x1b\rthree\nfour"), "one\ntwo\nthree\nfour");
  ExpectContains(Saved("\"\"\"a\\\r/exit\r\rb\"\"\""), "a\\\n/exit\n\nb");
}

TEST_F(TerminalTest, WhatWasTypedIsThereInTheNextRun) {
  const std::string said = "Größe\\nvon\\nZ";
  {
    const auto chat = Chat();
    chat->Type("Größe\\\rvon\\\rZ\r");
    chat->ReadUntil("-n)");
    chat->Type("/stats\r/exit\r");
    EXPECT_EQ(chat->Wait(), 0);
  }
  const std::string path = folder_ + "/rkv/history";
  EXPECT_EQ(*ReadFile(path, "history"), said + "\n/stats\n/exit\n");
  struct stat info {};
  ASSERT_EQ(::stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  ExpectContains(Saved(std::string("unsent") + kUp + kUp + kUp), "Größe\nvon\nZ");
  ExpectContains(Saved("\x12Gr\x05!"), "Größe\nvon\nZ!");
}

TEST_F(TerminalTest, NoHistoryIsKeptWithoutOne) {
  const auto chat = Chat({"--no-history"});
  chat->Type("/stats\r/exit\r");
  EXPECT_EQ(chat->Wait(), 0);
  EXPECT_FALSE(fs::exists(folder_ + "/rkv"));
  // Nor is a place that takes none a reason to say so.
  const auto other = Chat({}, {{"XDG_STATE_HOME", "/dev/null"}});
  other->Type("/exit\r");
  EXPECT_EQ(other->ReadAll().find("error"), std::string::npos);
  EXPECT_EQ(other->Wait(), 0);
}

TEST_F(TerminalTest, TabCompletesCommandsAndPaths) {
  const std::string picture = folder_ + "/ein bild ü.png";
  fs::copy_file(SourcePath("models/reference/samples/doc-1.png"), picture);
  fs::create_directories(folder_ + "/einen ordner");
  const auto chat = Chat();
  chat->Type("/im\t" + folder_ + "/ei\t");
  chat->ReadUntil("/image " + folder_ + "/ein");
  chat->Type("\t");  // Both.
  chat->ReadUntil("ein bild ü.png  einen ordner/");
  chat->Type(" \t\r");
  chat->ReadUntil(picture + " will be attached");
  chat->Type("/image '" + folder_ + "/ein \t\r");
  chat->ReadUntil(picture + " will be attached");
}

TEST_F(TerminalTest, APictureThatIsDraggedInIsShown) {
  const std::string picture = folder_ + "/ein bild ü.png";
  fs::copy_file(SourcePath("models/reference/samples/doc-1.png"), picture);
  const auto chat = Chat(kTiny, {{"HOME", folder_}});
  for (const std::string& dragged :
       {picture, "'" + picture + "' ", "\"" + picture + "\"", std::string("~/ein\\ bild\\ ü.png"),
        "file://" + folder_ + "/ein%20bild%20%C3%BC.png\n"}) {
    chat->Type("/clear\r" + (kPasteBegins + dragged + kPasteEnds) + "\r");
    chat->ReadUntil("ü.png will be attached");
  }
  chat->Type("value of W\r");
  chat->ReadUntil("59");
}

TEST_F(TerminalTest, ExitAndQuitLeaveWithAWord) {
  for (const char* word : {"exit", "quit"}) {
    const auto chat = Chat();
    chat->Type(std::string(word) + "\r");
    chat->ReadUntil("leaving");
    EXPECT_EQ(chat->Wait(), 0);
  }
  ExpectContains(Saved("\"\"\"exit\"\"\""), "exit");
}

TEST_F(TerminalTest, TheEndOfInputLeaves) {
  const auto chat = Chat();
  chat->Type("\x04");
  EXPECT_EQ(chat->Wait(), 0);
}

TEST_F(TerminalTest, CtrlCSaysThatItStopsAndTheNextLeaves) {
  const std::vector<std::string> endless = {"-m", TestModelPath("qwen2-d64"), "-mm", "",
                                            "--ignore-eos"};
  const auto chat = Chat(endless);
  chat->Type("hello\r");
  chat->ReadUntil("reading the");
  chat->Type("\x03");
  chat->ReadUntil("stopping; Ctrl-C again leaves at once\r\n");
  chat->ReadUntil("(stopped");
  chat->ReadUntil(kPrompt);
  chat->Type("unsent\x03");
  EXPECT_EQ(chat->Wait(), 130);

  const auto twice = Chat(endless);
  twice->Type("hello\r");
  twice->ReadUntil("reading the");
  twice->Type("\x03");
  twice->ReadUntil("stopping");
  twice->Type("\x03");
  EXPECT_EQ(twice->Wait(), 130);
}

TEST_F(TerminalTest, ATerminalWithoutMovementsHasLines) {
  ExpectContains(Saved("Größe\\\rzwei", {{"TERM", "dumb"}}), "Größe\nzwei");
}

// Of random bytes, some control a terminal.
TEST_F(TerminalTest, AnAnswerControlsNoTerminal) {
  const std::string command = "'" + kRkv + "' run -m '" + TestModelPath("qwen2-d64") +
                              "' -t 1 -p hello --ignore-eos -n 400 -s 1 2> /dev/null";
  const auto is_control = [](unsigned char c) {
    return (c < 0x20 && c != '\n' && c != '\t') || c == 0x7F;
  };
  const std::string piped = RunProcess({"/bin/sh", "-c", command}).out;
  ASSERT_TRUE(std::ranges::any_of(piped, is_control));
  TerminalProcess run({"/bin/sh", "-c", command});
  std::string shown = run.ReadAll();
  std::erase(shown, '\r');  // The terminal's own.
  EXPECT_GE(shown.size(), 100u);
  EXPECT_FALSE(std::ranges::any_of(shown, is_control)) << shown;
  EXPECT_EQ(run.Wait(), 0);
}

class PipeTest : public TerminalTest {
 protected:
  ProcessResult Pipe(const std::string& lines, std::vector<std::string> flags = {}) {
    std::vector<std::string> arguments = {kRkv, "chat", "-t", "1", "--temp", "0"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    return RunProcess(arguments, lines);
  }
};

TEST_F(PipeTest, LinesOfWindowsAreLines) {
  const ProcessResult chat =
      Pipe("\xEF\xBB\xBF/image " + SourcePath("models/reference/samples/doc-1.png") +
               "\r\nvalue of W\r\n/save " + folder_ + "/saved\r\n/exit\r\n/stats\r\n",
           kTiny);
  EXPECT_EQ(chat.exit_code, 0) << chat.err;
  ExpectContains(chat.out, "59\n");
  EXPECT_EQ(chat.out.find("cache:"), std::string::npos);
  EXPECT_EQ(chat.err.find("error"), std::string::npos) << chat.err;
  const std::string saved = *ReadFile(folder_ + "/saved", "conversation");
  ExpectContains(saved, "value of W");
  EXPECT_EQ(saved.find("value of W\r"), std::string::npos);
}

TEST_F(PipeTest, SeveralLinesAreAMessageAsOnATerminal) {
  const std::string save = "\n/save " + folder_ + "/saved\n";
  Pipe("one\\\ntwo" + save, {"-n", "1", "--ignore-eos"});
  ExpectContains(*ReadFile(folder_ + "/saved", "conversation"), "one\ntwo");
  Pipe("\"\"\"a\\\n  /b\n\"\"\"" + save, {"-n", "1", "--ignore-eos"});
  ExpectContains(*ReadFile(folder_ + "/saved", "conversation"), "a\\\n  /b");
}

TEST_F(PipeTest, InputMayEndInALine) {
  const std::string picture = "/image " + SourcePath("models/reference/samples/doc-1.png") + "\n";
  for (const char* question : {"value of W", "\"\"\"value of W", "value of W\\"}) {
    ExpectContains(Pipe(picture + question, kTiny).out, "59\n");
  }
  EXPECT_EQ(Pipe("").exit_code, 0);
}

TEST_F(PipeTest, PathsAreTakenAsTheyAreTyped) {
  const std::string picture = folder_ + "/ein bild ü.png";
  fs::copy_file(SourcePath("models/reference/samples/doc-1.png"), picture);
  std::string lines;
  for (const std::string& typed : {picture, "\"" + picture + "\"", folder_ + "/ein\\ bild\\ ü.png",
                                   "file://" + folder_ + "/ein%20bild%20%C3%BC.png"}) {
    lines += "/clear\n/image " + typed + "\nvalue of W\n";
  }
  EXPECT_EQ(Pipe(lines, kTiny).out, [&] {
    std::string out;
    for (int i = 0; i < 4; ++i) out += picture + " will be attached to the next message\n59\n";
    return out;
  }());
}

TEST_F(PipeTest, TheLastMessageIsAnsweredAgain) {
  const ProcessResult chat =
      Pipe("/regen\n/image " + SourcePath("models/reference/samples/doc-1.png") +
               "\nvalue of W\n/regen\n/regen\n/save " + folder_ + "/saved\n/load " + folder_ +
               "/saved\n/regen\n",
           kTiny);
  EXPECT_EQ(chat.exit_code, 0);
  ExpectContains(chat.out, "59\n59\n59\nsaved");
  ExpectContains(chat.out, "loaded 2 messages");
  EXPECT_EQ(std::ranges::count(chat.err, '\n'), 3) << chat.err;  // The first and last are errors.
}

TEST_F(PipeTest, WhatGotNoNewAnswerIsAskedAgain) {
  const std::string picture = folder_ + "/picture.png";
  const std::string sample = SourcePath("models/reference/samples/doc-1.png");
  fs::copy_file(sample, picture);
  std::vector<std::string> arguments = {RKV_BINARY_DIR "/apps/rkv", "chat", "--temp", "0"};
  arguments.insert(arguments.end(), kTiny.begin(), kTiny.end());
  InteractiveProcess chat(arguments);
  chat.Write("/image " + picture + "\nvalue of W\n/stats\n");
  ExpectContains(chat.ReadUntil("speed: "), "59\n");
  fs::remove(picture);
  chat.Write("/regen\n/stats\n");
  ExpectContains(chat.ReadUntil("speed: "), "tokens     0 seen");
  fs::copy_file(sample, picture);
  chat.Write("/regen\n/stats\n/clear\n/stats\n/exit\n");
  ExpectContains(chat.ReadUntil("speed: "), "59\n");
  EXPECT_EQ(chat.ReadUntil("speed: ").find("speed: "), std::string::npos);  // Nothing was said yet.
  EXPECT_EQ(chat.Wait(), 0);
}

TEST_F(PipeTest, ATextFileGoesBeforeAMessage) {
  std::ofstream(folder_ + "/text") << "\xEF\xBB\xBFwindows\r\nlines\r\n";
  const ProcessResult chat = Pipe(
      "/read " + folder_ + "\n/read " + folder_ + "/text\nand so on\n/save " + folder_ + "/saved\n",
      {"-n", "1", "--ignore-eos"});
  ExpectContains(chat.err, "cannot read the text file '" + folder_ + "'");
  ExpectContains(*ReadFile(folder_ + "/saved", "conversation"), "windows\nlines\n\nand so on");
}

TEST_F(PipeTest, AnAnswerThatIsCutSaysSo) {
  const ProcessResult chat = Pipe("hello\n", {"-n", "2", "--ignore-eos"});
  ExpectContains(chat.out, "(stopped after 2 tokens: -n)\n");
}

}  // namespace
}  // namespace rkv
