// rkv run: questions from the command line, answers on stdout.
#include <fmt/format.h>
#include <unistd.h>

#include <iostream>
#include <memory>
#include <span>

#include "answer.h"
#include "chat/characters.h"
#include "commands.h"
#include "flags.h"
#include "input.h"
#include "inspect/text.h"
#include "report.h"
#include "terminal.h"

namespace rkv::app {

namespace {

struct RunFlags {
  CommonFlags common;
  bool no_escape = false;
  std::vector<std::string> prompts;
  std::string prompt_file;
};

constexpr size_t kMaxEchoed = 72;  // characters of a question

// The questions in their order. Without any, the whole piped text is one.
Result<std::vector<std::string>> Prompts(const RunFlags& flags) {
  std::vector<std::string> prompts;
  for (const std::string& prompt : flags.prompts) {
    prompts.push_back(flags.no_escape ? prompt : Unescape(prompt));
  }
  std::string file = flags.prompt_file;
  const bool piped = prompts.empty() && file.empty() && ::isatty(STDIN_FILENO) == 0;
  if (piped) file = "-";
  if (!file.empty()) {
    RKV_ASSIGN_OR_RETURN(std::string text, ReadTextFile("prompt", file));
    if (!piped || !text.empty()) prompts.push_back(std::move(text));
  }
  if (!prompts.empty()) return prompts;
  return InvalidArgument("nothing to answer: pass a prompt with -p or -f, or through a pipe");
}

// A question on one line, which identifies its answer among several.
std::string Echoed(std::string_view prompt) {
  std::wstring line = Widen(prompt.substr(0, prompt.find('\n')));
  const bool cut = line.size() > kMaxEchoed;
  if (cut) line.resize(kMaxEchoed);
  return cut || prompt.find('\n') != std::string_view::npos ? Narrow(line) + " ..."
                                                            : std::string(prompt);
}

Status AnswerOne(Engine& engine, Conversation& conversation, const std::string& prompt,
                 std::span<const std::string> media, const RunFlags& flags, AnswerResult& answer) {
  RKV_ASSIGN_OR_RETURN(answer, Ask(engine, conversation, prompt, media, flags.common));
  if (!std::cout) return Internal("cannot write the answer to the output");
  if (answer.stop == StopReason::kCancelled) return Cancelled("interrupted");
  if (answer.stop == StopReason::kContextFull) {
    Tell("note: the context of {} positions is full\n", engine.n_ctx());
  }
  if (answer.stop == StopReason::kMaxTokens) {
    Tell("note: the answer was stopped after {} tokens (-n)\n", answer.n_generated);
  }
  return OkStatus();
}

Status Run(RunFlags& flags) {
  RKV_RETURN_IF_ERROR(StartLogging(flags.common));
  RKV_ASSIGN_OR_RETURN(const CacheOptions cache_options, ParseCacheOptions(flags.common));
  RKV_ASSIGN_OR_RETURN(const std::vector<std::string> prompts, Prompts(flags));
  const Interrupts interrupts;
  RKV_ASSIGN_OR_RETURN(const auto engine, LoadEngine(flags.common));
  RKV_ASSIGN_OR_RETURN(const auto conversation,
                       engine->NewConversation(cache_options, flags.common.system_prompt));
  AnswerResult answer;
  for (size_t turn = 0; turn < prompts.size(); ++turn) {
    const std::vector<std::string> media =
        turn == 0 ? flags.common.media() : std::vector<std::string>();
    if (prompts.size() > 1) std::cout << ForStdout("> " + Echoed(prompts[turn])) << std::endl;
    RKV_RETURN_IF_ERROR(AnswerOne(*engine, *conversation, prompts[turn], media, flags, answer));
  }
  Tell("{}\n", DescribeCache(*conversation));
  const CacheStats stats = conversation->stats();
  if (stats.compressions > 0) Tell("held: {}\n", DescribeBytes(stats));
  Tell("model: {}\n{}\n", engine->model_description(), DescribeSpeed(answer));
  return WriteReport(flags.common.kv_report, *conversation, answer);
}

}  // namespace

void AddRunCommand(CLI::App& program, int& exit_code) {
  CLI::App* command = program.add_subcommand(
      "run", "answer questions and exit; --budget 20% saves 80 % of the KV cache");
  auto flags = std::make_shared<RunFlags>();
  AddCommonFlags(*command, flags->common);
  AddStopFlag(*command, flags->common);
  Repeatable(command
                 ->add_option("-p,--prompt", flags->prompts,
                              "question; several: repeat, one for each turn")
                 ->envname("RKV_PROMPT"))
      ->type_name("TEXT");
  command
      ->add_flag("--no-escape", flags->no_escape,
                 "do not replace escapes such as \\n and \\t in -p")
      ->envname("RKV_NO_ESCAPE");
  command
      ->add_option("-f,--file", flags->prompt_file,
                   "file with the question; -: stdin, the default without -p")
      ->envname("RKV_FILE")
      ->type_name("FILE");
  command->callback([flags, &exit_code] {
    const Status status = Run(*flags);
    exit_code = status.ok() ? 0 : Fail(status);
  });
}

}  // namespace rkv::app
