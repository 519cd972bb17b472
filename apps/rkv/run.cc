// rkv run: questions from the command line, answers on stdout.
#include <fmt/format.h>

#include <iostream>
#include <iterator>
#include <memory>

#include "answer.h"
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

Result<std::string> ReadPromptFile(const std::string& path) {
  if (path == "-") return std::string(std::istreambuf_iterator<char>(std::cin), {});
  return ReadInput(path, "prompt file");
}

Status AnswerOne(Engine& engine, Conversation& conversation, const RunFlags& flags,
                 AnswerResult& answer) {
  RKV_ASSIGN_OR_RETURN(answer, StreamAnswer(engine, conversation, flags.common));
  if (!std::cout) return Internal("cannot write the answer to the output");
  if (answer.stop == StopReason::kCancelled) return Cancelled("interrupted");
  if (answer.stop == StopReason::kContextFull) {
    Tell("note: the context of {} positions is full\n", engine.n_ctx());
  }
  return OkStatus();
}

Status Run(RunFlags& flags) {
  RKV_RETURN_IF_ERROR(StartLogging(flags.common));
  RKV_ASSIGN_OR_RETURN(const MemoryOptions memory_options, ParseMemoryOptions(flags.common));
  std::vector<std::string> prompts;
  for (const std::string& prompt : flags.prompts) {
    prompts.push_back(flags.no_escape ? prompt : Unescape(prompt));
  }
  if (!flags.prompt_file.empty()) {
    RKV_ASSIGN_OR_RETURN(std::string text, ReadPromptFile(flags.prompt_file));
    prompts.push_back(std::move(text));
  }
  if (prompts.empty()) return InvalidArgument("nothing to answer: pass a prompt with -p or -f");
  const Interrupts interrupts;
  RKV_ASSIGN_OR_RETURN(const auto engine, LoadEngine(flags.common));
  RKV_ASSIGN_OR_RETURN(const auto conversation,
                       engine->NewConversation(memory_options, flags.common.system_prompt));
  AnswerResult answer;
  for (size_t turn = 0; turn < prompts.size(); ++turn) {
    const std::vector<std::string> media =
        turn == 0 ? flags.common.media() : std::vector<std::string>();
    RKV_RETURN_IF_ERROR(conversation->AddUserMessage(prompts[turn], media));
    if (prompts.size() > 1) std::cout << "> " << prompts[turn] << std::endl;
    RKV_RETURN_IF_ERROR(AnswerOne(*engine, *conversation, flags, answer));
  }
  Tell("{}\n", DescribeCache(*conversation));
  const MemoryStats stats = conversation->stats();
  if (stats.compressions > 0) Tell("held: {}\n", DescribeBytes(stats));
  Tell("{}\n", DescribeSpeed(answer));
  return WriteReport(flags.common.kv_report, *conversation, answer);
}

}  // namespace

void AddRunCommand(CLI::App& program, int& exit_code) {
  CLI::App* command = program.add_subcommand("run", "answer questions and exit");
  auto flags = std::make_shared<RunFlags>();
  AddCommonFlags(*command, flags->common);
  Repeatable(command
                 ->add_option("-p,--prompt", flags->prompts,
                              "question; repeated: the turns of a conversation")
                 ->envname("RKV_PROMPT"))
      ->type_name("TEXT");
  command->add_flag("--no-escape", flags->no_escape, "take \\n, \\t and the like in -p literally")
      ->envname("RKV_NO_ESCAPE");
  command->add_option("-f,--file", flags->prompt_file, "read the question from a file; -: stdin")
      ->envname("RKV_FILE")
      ->type_name("FILE");
  command->callback([flags, &exit_code] {
    const Status status = Run(*flags);
    exit_code = status.ok() ? 0 : Fail(status);
  });
}

}  // namespace rkv::app
