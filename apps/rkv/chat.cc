// rkv chat: a conversation in the terminal.
#include <fmt/format.h>

#include <iostream>
#include <memory>

#include "answer.h"
#include "commands.h"
#include "flags.h"
#include "inspect/text.h"
#include "report.h"
#include "terminal.h"

namespace rkv::app {

namespace {

constexpr const char* kHelp =
    "  /image PATH   show a picture with the next message\n"
    "  /audio PATH   the same with an audio clip\n"
    "  /stats        what the cache holds\n"
    "  /undo         take back the last message and its answer\n"
    "  /clear        start a new conversation\n"
    "  /save PATH    write the conversation to a file\n"
    "  /load PATH    go on with a saved conversation\n"
    "  /exit         leave (also /quit or Ctrl-D)\n"
    "Ctrl-C stops an answer; at the prompt it leaves.\n";

std::string_view Trim(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

class ChatSession {
 public:
  ChatSession(Engine& engine, const CommonFlags& flags, const MemoryOptions& memory_options)
      : engine_(engine), flags_(flags), memory_options_(memory_options), media_(flags.media()) {}

  Status Start() {
    RKV_ASSIGN_OR_RETURN(conversation_,
                         engine_.NewConversation(memory_options_, flags_.system_prompt));
    return OkStatus();
  }

  // False when the user leaves.
  bool Handle(std::string_view line) {
    line = Trim(line);
    if (line.empty()) return true;
    if (!line.starts_with('/')) {
      TellError(Say(line));
      return true;
    }
    const size_t space = line.find(' ');
    const std::string_view command = line.substr(0, space);
    const std::string argument(space == std::string_view::npos ? std::string_view()
                                                               : Trim(line.substr(space)));
    if (command == "/exit" || command == "/quit") return false;
    TellError(RunCommand(command, argument));
    return true;
  }

 private:
  Status RunCommand(std::string_view command, const std::string& argument) {
    if (command == "/help") return Print(kHelp);
    if (command == "/stats") return Print(Stats());
    if (command == "/undo") return conversation_->Undo();
    if (command == "/clear") {
      media_.clear();
      answer_ = {};
      return Start();
    }
    const bool takes_path =
        command == "/image" || command == "/audio" || command == "/save" || command == "/load";
    if (!takes_path) {
      return InvalidArgument(fmt::format("unknown command '{}'; /help lists them", command));
    }
    if (argument.empty()) return InvalidArgument(fmt::format("{} needs a path", command));
    if (command == "/save") return Save(argument);
    if (command == "/load") return Load(argument);
    media_.push_back(argument);
    return Print(fmt::format("{} will be shown with the next message\n", argument));
  }

  Status Say(std::string_view text) {
    // Files that fail are dropped: the next message should not fail for them again.
    const std::vector<std::string> media = std::exchange(media_, {});
    RKV_RETURN_IF_ERROR(conversation_->AddUserMessage(text, media));
    RKV_ASSIGN_OR_RETURN(answer_, StreamAnswer(engine_, *conversation_, flags_));
    if (answer_.stop == StopReason::kCancelled) return Print("(stopped)\n");
    if (answer_.stop == StopReason::kContextFull) {
      return Print("(the context is full; /clear starts a new conversation)\n");
    }
    return WriteReport(flags_.kv_report, *conversation_, answer_);
  }

  std::string Stats() const {
    return fmt::format("{}\n{}{}\n", DescribeCache(*conversation_),
                       StatsText(conversation_->stats()), DescribeSpeed(answer_));
  }

  Status Save(const std::string& path) {
    RKV_RETURN_IF_ERROR(conversation_->Save(path));
    return Print(fmt::format("saved to {}\n", path));
  }

  Status Load(const std::string& path) {
    RKV_ASSIGN_OR_RETURN(conversation_, engine_.LoadConversation(path));
    media_.clear();
    return Print(fmt::format("loaded {} messages; {}\n", conversation_->messages().size(),
                             DescribeCache(*conversation_)));
  }

  static Status Print(std::string_view text) {
    std::cout << text << std::flush;
    return OkStatus();
  }

  void TellError(const Status& status) {
    if (!status.ok()) Tell("error: {}\n", status.message());
  }

  Engine& engine_;
  const CommonFlags& flags_;
  MemoryOptions memory_options_;
  std::vector<std::string> media_;  // for the next message
  std::unique_ptr<Conversation> conversation_;
  AnswerResult answer_;  // the last one
};

Status Chat(CommonFlags& flags) {
  RKV_RETURN_IF_ERROR(StartLogging(flags));
  RKV_ASSIGN_OR_RETURN(const MemoryOptions memory_options, ParseMemoryOptions(flags));
  const Interrupts interrupts;
  RKV_ASSIGN_OR_RETURN(const auto engine, LoadEngine(flags));
  ChatSession session(*engine, flags, memory_options);
  RKV_RETURN_IF_ERROR(session.Start());
  Tell("{}; /help lists the commands\n", engine->model_description());
  LineReader lines;
  while (const std::optional<std::string> line = lines.Next()) {
    if (!session.Handle(*line)) break;
    if (!std::cout) return Internal("cannot write to the output");
  }
  return OkStatus();
}

}  // namespace

void AddChatCommand(CLI::App& program, int& exit_code) {
  CLI::App* command = program.add_subcommand(
      "chat", "talk in the terminal; --budget 20% saves 80 % of the KV cache");
  auto flags = std::make_shared<CommonFlags>();
  AddCommonFlags(*command, *flags);
  AddStopFlag(*command, *flags);
  command->callback([flags, &exit_code] {
    const Status status = Chat(*flags);
    exit_code = status.ok() ? 0 : Fail(status);
  });
}

}  // namespace rkv::app
