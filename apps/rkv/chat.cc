// rkv chat: a conversation in the terminal.
#include <fmt/format.h>

#include <algorithm>
#include <iostream>
#include <memory>

#include "answer.h"
#include "chat/history.h"
#include "chat/paths.h"
#include "commands.h"
#include "flags.h"
#include "input.h"
#include "inspect/text.h"
#include "line_reader.h"
#include "report.h"
#include "terminal.h"

namespace rkv::app {

namespace {

struct ChatCommand {
  std::string_view name;
  std::string_view argument;
  std::string_view help;
};

constexpr ChatCommand kCommands[] = {
    {"/image", "PATH", "attach a picture to the next message"},
    {"/audio", "PATH", "attach an audio clip to the next message"},
    {"/read", "PATH", "insert a text file before the next message"},
    {"/regen", "", "answer the last message again"},
    {"/stats", "", "show the bytes and tokens of the cache"},
    {"/undo", "", "take back the last message and its answer"},
    {"/clear", "", "start a new conversation"},
    {"/save", "PATH", "write the conversation to a file"},
    {"/load", "PATH", "continue a saved conversation"},
    {"/help", "", "show this list"},
    {"/exit", "", "leave (also /quit, exit, quit or Ctrl-D)"},
    {"/quit", "", ""},
};

constexpr std::string_view kMoreHelp =
    "Several lines: end a line with \\, press Alt+Enter or Ctrl-J, or put \"\"\" before and after "
    "them.\n"
    "Pasted lines are one message. A picture's path alone, as drag and drop gives it, means "
    "/image.\n"
    "Tab completes commands and paths. Up and Ctrl-R find earlier lines.\n"
    "Ctrl-C stops an answer; pressed twice, or at the prompt, it leaves.\n";

std::string Help() {
  std::string text;
  for (const ChatCommand& command : kCommands) {
    if (command.help.empty()) continue;
    const std::string usage = fmt::format("{} {}", command.name, command.argument);
    text += fmt::format("  {:<14}{}\n", usage, command.help);
  }
  return text.append(kMoreHelp);
}

const ChatCommand* FindCommand(std::string_view name) {
  const auto* command = std::ranges::find(kCommands, name, &ChatCommand::name);
  return command == std::end(kCommands) ? nullptr : command;
}

std::string_view Trim(std::string_view text) {
  constexpr std::string_view kSpace = " \t\n";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

// Completes commands and the paths after them; elsewhere a tab is a character.
std::optional<Completion> Complete(std::string_view before) {
  if (!before.starts_with('/') || before.find('\n') != std::string_view::npos) return std::nullopt;
  const size_t space = before.find(' ');
  const ChatCommand* command = FindCommand(before.substr(0, space));
  if (space != std::string_view::npos && command != nullptr) {
    if (command->argument.empty()) return Completion();
    const size_t begin = std::min(before.find_first_not_of(' ', space), before.size());
    return CompletePath(before.substr(begin));
  }
  Completion completion{.n_replaced = before.size(), .candidates = {}};
  for (const ChatCommand& known : kCommands) {
    if (known.name.starts_with(before)) {
      completion.candidates.emplace_back(known.name);
      if (!known.argument.empty()) completion.candidates.back() += ' ';
    }
  }
  // A picture's path may also be a line of its own.
  return completion.candidates.empty() ? CompletePath(before) : completion;
}

class ChatSession {
  struct Said {
    std::string text;
    std::vector<std::string> media;
  };

 public:
  ChatSession(Engine& engine, const CommonFlags& flags, const CacheOptions& cache_options)
      : engine_(engine), flags_(flags), cache_options_(cache_options) {
    next_.media = flags.media();
  }

  Status Start() {
    RKV_ASSIGN_OR_RETURN(conversation_,
                         engine_.NewConversation(cache_options_, flags_.system_prompt));
    return OkStatus();
  }

  // False when the user quits.
  bool Handle(const TypedMessage& message) {
    if (message.quoted) {
      TellError(Say(message.text));
      return true;
    }
    const std::string_view line = Trim(message.text);
    if (line.empty()) return true;
    if (line == "exit" || line == "quit") {
      Tell("leaving; to send this word to the model, write \"\"\"{}\"\"\"\n", line);
      return false;
    }
    if (line == "/exit" || line == "/quit") return false;
    TellError(Answer(message.text, line));
    return true;
  }

 private:
  // A message of several lines keeps its first characters, even spaces or a slash.
  Status Answer(std::string_view text, std::string_view line) {
    if (line.find('\n') != std::string_view::npos) {
      return Say(text.substr(0, text.find_last_not_of(" \t\n") + 1));
    }
    const size_t space = line.find(' ');
    const std::string_view name = line.substr(0, space);
    if (FindCommand(name) != nullptr) {
      const std::string_view argument =
          space == std::string_view::npos ? std::string_view() : Trim(line.substr(space));
      return RunCommand(name, argument);
    }
    if (engine_.takes_pictures()) {
      if (const auto picture = PictureIn(line); picture.has_value()) return Attach(*picture);
    }
    if (!line.starts_with('/')) return Say(line);
    return InvalidArgument(fmt::format("unknown command '{}'; /help lists them", name));
  }

  Status RunCommand(std::string_view command, std::string_view argument) {
    if (command == "/help") return Print(Help());
    if (command == "/stats") return Print(Stats());
    if (command == "/regen") return AnswerAgain();
    if (command == "/undo") {
      last_.reset();
      unanswered_.reset();
      return conversation_->Undo();
    }
    if (command == "/clear") {
      next_ = {};
      last_.reset();
      unanswered_.reset();
      answer_.reset();
      return Start();
    }
    if (argument.empty()) return InvalidArgument(fmt::format("{} needs a path", command));
    const std::string path = ResolvePath(argument);
    if (command == "/save") return Save(path);
    if (command == "/load") return Load(path);
    if (command == "/read") return ReadText(path);
    return Attach(path);
  }

  Status ReadText(const std::string& path) {
    RKV_ASSIGN_OR_RETURN(const std::string text, ReadTextFile("text", path));
    next_.text += text + "\n\n";
    return Print(fmt::format("{} will be inserted before the next message\n", path));
  }

  Status Attach(const std::string& path) {
    next_.media.push_back(path);
    return Print(fmt::format("{} will be attached to the next message\n", path));
  }

  Status Say(std::string_view text) {
    // Drops files that fail, so that the next message does not fail for them again.
    Said said = std::exchange(next_, {});
    Said whole{.text = said.text + std::string(text), .media = said.media};
    RKV_ASSIGN_OR_RETURN(AnswerResult answer,
                         Ask(engine_, *conversation_, whole.text, whole.media, flags_));
    if (answer.stop == StopReason::kCancelled && answer.n_generated == 0) {
      next_ = std::move(said);
      return Print("(stopped; the message was taken back)\n");
    }
    answer_ = std::move(answer);
    last_ = std::move(whole);
    unanswered_.reset();
    if (answer_->stop == StopReason::kCancelled) return Print("(stopped)\n");
    if (answer_->stop == StopReason::kContextFull) {
      return Print("(the context is full; /clear starts a new conversation)\n");
    }
    if (answer_->stop == StopReason::kMaxTokens) {
      RKV_RETURN_IF_ERROR(
          Print(fmt::format("(stopped after {} tokens: -n)\n", answer_->n_generated)));
    }
    return WriteReport(flags_.kv_report, *conversation_, *answer_);
  }

  // If no new answer comes, because it failed or was stopped, /regen repeats the same message.
  Status AnswerAgain() {
    if (!last_.has_value() && !unanswered_.has_value()) {
      return InvalidArgument("there is no message yet to answer again");
    }
    if (last_.has_value()) RKV_RETURN_IF_ERROR(conversation_->Undo());
    Said again = last_.has_value() ? *std::exchange(last_, std::nullopt) : *unanswered_;
    const Said waiting = std::exchange(next_, {.text = "", .media = again.media});
    const Status status = Say(again.text);
    if (!last_.has_value()) unanswered_ = std::move(again);
    next_ = waiting;
    return status;
  }

  std::string Stats() const {
    return fmt::format("{}\n{}{}\n", DescribeCache(*conversation_),
                       StatsText(conversation_->stats()),
                       answer_.has_value() ? DescribeSpeed(*answer_) : "");
  }

  Status Save(const std::string& path) {
    RKV_RETURN_IF_ERROR(conversation_->Save(path));
    return Print(fmt::format("saved to {}\n", path));
  }

  Status Load(const std::string& path) {
    RKV_ASSIGN_OR_RETURN(conversation_, engine_.LoadConversation(path));
    next_ = {};
    last_.reset();
    unanswered_.reset();
    return Print(fmt::format("loaded {} messages; {}\n", conversation_->messages().size(),
                             DescribeCache(*conversation_)));
  }

  static Status Print(std::string_view text) {
    std::cout << ForStdout(text) << std::flush;
    return OkStatus();
  }

  void TellError(const Status& status) {
    if (!status.ok()) Tell("error: {}\n", status.message());
  }

  Engine& engine_;
  const CommonFlags& flags_;
  CacheOptions cache_options_;
  Said next_;                       // beginning of the next message
  std::optional<Said> last_;        // the last message, if it has an answer
  std::optional<Said> unanswered_;  // taken back by /regen, without a new answer so far
  std::unique_ptr<Conversation> conversation_;
  std::optional<AnswerResult> answer_;  // the last one
};

Status Chat(CommonFlags& flags, bool no_history) {
  RKV_RETURN_IF_ERROR(StartLogging(flags));
  RKV_ASSIGN_OR_RETURN(const CacheOptions cache_options, ParseCacheOptions(flags));
  const Interrupts interrupts;
  RKV_ASSIGN_OR_RETURN(const auto engine, LoadEngine(flags));
  ChatSession session(*engine, flags, cache_options);
  RKV_RETURN_IF_ERROR(session.Start());
  Tell("{}; /help lists the commands\n", engine->model_description());
  LineReader lines(Complete, no_history ? "" : HistoryPath());
  while (const std::optional<TypedMessage> message = lines.Next()) {
    if (!session.Handle(*message)) break;
    if (!std::cout) return Internal("cannot write to the output");
  }
  return OkStatus();
}

}  // namespace

void AddChatCommand(CLI::App& program, int& exit_code) {
  CLI::App* command = program.add_subcommand(
      "chat", "chat in the terminal; --budget 20% saves 80 % of the KV cache");
  auto flags = std::make_shared<CommonFlags>();
  auto no_history = std::make_shared<bool>(false);
  AddCommonFlags(*command, *flags);
  command->add_flag("--no-history", *no_history, "do not save typed lines for the next run")
      ->envname("RKV_NO_HISTORY");
  AddStopFlag(*command, *flags);
  command->callback([flags, no_history, &exit_code] {
    const Status status = Chat(*flags, *no_history);
    exit_code = status.ok() ? 0 : Fail(status);
  });
}

}  // namespace rkv::app
